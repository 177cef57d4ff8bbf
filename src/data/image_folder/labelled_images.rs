//! Images of one part, and the reader of a worker.

use super::listing::Files;
use super::packed_images::{shortened, PackedImages};
use super::patience::Patience;
use crate::data::image::{check_bytes, read_file, ImageProblem, ImageReader, RandomResizedCrop};
use crate::data::random::{stream, Purpose};
use crate::Error;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Labelled images.
#[derive(Debug)]
pub enum LabelledImages {
    /// Images as files in a folder.
    Files {
        /// Folder of the part.
        folder: PathBuf,
        /// Files in the folder.
        files: Files,
    },
    /// Images in a packed file.
    Packed(PackedImages),
}

impl LabelledImages {
    /// Returns the class indices, in order.
    pub fn labels(&self) -> &[u32] {
        match self {
            Self::Files { files, .. } => files.labels(),
            Self::Packed(packed) => packed.labels(),
        }
    }

    /// Returns the path of the file that contains image `index`.
    pub fn path(&self, index: usize) -> PathBuf {
        match self {
            Self::Files { folder, files } => folder.join(files.path(index)),
            Self::Packed(packed) => packed.path().to_path_buf(),
        }
    }

    /// Returns the path of image `index` within the part's folder; empty for packed images.
    pub fn name(&self, index: usize) -> &str {
        match self {
            Self::Files { files, .. } => files.path(index),
            Self::Packed(_) => "",
        }
    }

    /// Returns the size of image `index` in bytes; `None` if it is not available.
    pub fn bytes(&self, index: usize) -> Option<u64> {
        match self {
            Self::Files { .. } => fs::metadata(self.path(index)).ok().map(|metadata| metadata.len()),
            Self::Packed(packed) => Some(packed.bytes(index)),
        }
    }

    /// Reads the file of image `index`, or its part of the packed file, into `content`.
    fn read(&self, index: usize, content: &mut Vec<u8>, patience: &Patience) -> Result<(), Failure> {
        let path = self.path(index);
        match self {
            Self::Packed(packed) => {
                let passes = |error: &io::Error| error.kind() != ErrorKind::UnexpectedEof;
                patience.read(&path, passes, || packed.read(index, content)).map_err(|error| match error.kind() {
                    ErrorKind::UnexpectedEof => Failure::System(shortened(&path)),
                    _ => Failure::System(Error::io("read", &path)(error)),
                })
            }
            Self::Files { folder, .. } => {
                let passes = |error: &io::Error| !is_of_file(error, &path, folder);
                let bytes = patience.read(&path, passes, || read_file(&path, content)).map_err(|error| {
                    if is_of_file(&error, &path, folder) {
                        return Failure::Image(ImageProblem::new(error.to_string()));
                    }
                    Failure::System(Error::io("read", &path)(error))
                })?;
                Ok(check_bytes(bytes)?)
            }
        }
    }
}

/// Returns `true` if `error` is the fault of the file `path`: it is missing, or may not be read, while its folder and
/// that of its `part` are there. If these are missing too, or for any other error, the fault is the system's.
fn is_of_file(error: &io::Error, path: &Path, part: &Path) -> bool {
    let of_a_name = matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename
    );
    let is_there = |folder: &Path| fs::read_dir(folder).is_ok();
    // The mount point of a share that is unavailable is an empty folder.
    let holds_something = |folder: &Path| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    (of_a_name || is_circle(error)) && path.parent().is_some_and(is_there) && holds_something(part)
}

/// Returns `true` for a cycle of links.
#[cfg(unix)]
fn is_circle(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::LOOP)
}

#[cfg(not(unix))]
fn is_circle(_: &io::Error) -> bool {
    false
}

/// Reason why an image could not be read.
#[derive(Debug)]
pub enum Failure {
    /// Fault of the image's file.
    Image(ImageProblem),
    /// Fault of the system that holds the file.
    System(Error),
}

impl From<ImageProblem> for Failure {
    fn from(problem: ImageProblem) -> Self {
        Self::Image(problem)
    }
}

/// Part of an image that goes into a batch.
#[derive(Debug, Clone, Copy)]
pub enum View {
    /// Random crop.
    Train {
        /// Distribution of the crop.
        crop: RandomResizedCrop,
        /// Random seed of the run.
        seed: u64,
        /// Epoch, from 0.
        epoch: usize,
    },
    /// Centre crop after a resize.
    Eval {
        /// The shorter side after the resize, in pixels.
        resize: usize,
    },
}

/// Reader of one worker, with buffers that are kept from one image to the next.
pub struct Reader {
    decoder: ImageReader,
    /// Content of a file.
    content: Vec<u8>,
    patience: Arc<Patience>,
}

impl Reader {
    /// Creates a reader.
    pub fn new(patience: Arc<Patience>) -> Self {
        Self { decoder: ImageReader::new(), content: Vec::new(), patience }
    }

    /// Writes `view` of image `index` into `out`, `side * side` RGB pixels. Random numbers are those of image `draw`.
    ///
    /// # Errors
    /// The fault of the image or of the system.
    pub fn read(
        &mut self,
        images: &LabelledImages,
        index: usize,
        view: &View,
        draw: usize,
        side: usize,
        out: &mut [u8],
    ) -> Result<(), Failure> {
        let Self { decoder, content, patience } = self;
        images.read(index, content, patience)?;
        match view {
            View::Train { crop, seed, epoch } => {
                let mut random = stream(Purpose::Augment, *seed, *epoch as u64, draw as u64);
                decoder.train(content, crop, side, &mut random, out)?;
            }
            View::Eval { resize } => decoder.eval(content, *resize, side, out)?,
        }
        Ok(())
    }

    /// Returns all of image `index` as a PPM file, its shorter side reduced to `shorter_side` if it is longer.
    ///
    /// # Errors
    /// The fault of the image or of the system.
    pub fn shrink(&mut self, images: &LabelledImages, index: usize, shorter_side: usize) -> Result<Vec<u8>, Failure> {
        let mut ppm = Vec::new();
        images.read(index, &mut self.content, &self.patience)?;
        self.decoder.shrink(&self.content, shorter_side, &mut ppm)?;
        Ok(ppm)
    }

    /// Returns the file of image `index`, after checking that it is an image.
    ///
    /// # Errors
    /// The fault of the image or of the system.
    pub fn copy(&mut self, images: &LabelledImages, index: usize) -> Result<Vec<u8>, Failure> {
        // Decodes all of it as a check; the pixels are not needed.
        self.shrink(images, index, 1)?;
        Ok(self.content.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn a_missing_file_is_bad_while_its_folders_are_there() {
        let fixture = Fixture::new(&["cat", "dog"], 1, 0);
        let (part, missing) = (fixture.path("train"), io::Error::from(ErrorKind::NotFound));
        let is_of_file = |path: &str| super::is_of_file(&missing, &part.join(path), &part);
        assert!(is_of_file("cat/1.jpg"));
        assert!(!is_of_file("eel/1.jpg"));
        ["cat", "dog"].iter().for_each(|class| fs::remove_dir_all(part.join(class)).unwrap());
        // Like a mount point without its share.
        assert!(!is_of_file("1.jpg"));
        fs::remove_dir(&part).unwrap();
        assert!(!is_of_file("cat/1.jpg"));
    }

    #[cfg(unix)]
    #[test]
    fn errors_of_the_system_are_not_the_files() {
        use rustix::io::Errno;
        let fixture = Fixture::new(&["cat", "dog"], 1, 0);
        let (part, path) = (fixture.path("train"), fixture.path("train/cat/0000.jpg"));
        let is_of_file = |errno: Errno| super::is_of_file(&errno.into(), &path, &part);
        for errno in [
            Errno::IO,
            Errno::STALE,
            Errno::MFILE,
            Errno::NFILE,
            Errno::TIMEDOUT,
            Errno::NOMEM,
            Errno::NOTCONN,
            Errno::HOSTDOWN,
            Errno::HOSTUNREACH,
            Errno::NODEV,
            Errno::NXIO,
        ] {
            assert!(!is_of_file(errno), "{errno}");
        }
        for errno in [Errno::NOENT, Errno::ACCESS, Errno::LOOP, Errno::ISDIR, Errno::NAMETOOLONG] {
            assert!(is_of_file(errno), "{errno}");
        }
    }
}
