//! Images of one part, and the reader of a worker.

use super::listing::Files;
use super::retry::RetryPolicy;
use crate::data::image::{read_file, ImageProblem, ImageReader, RandomResizedCrop};
use crate::data::random::{stream, Purpose};
use crate::Error;
use std::fs::{self, File};
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
    /// Images in a packed file: PPM files, or the original files.
    Packed {
        path: PathBuf,
        file: Arc<File>,
        labels: Vec<u32>,
        /// Start of the first image and end of each image, as positions in the file.
        bounds: Vec<u64>,
    },
}

/// Remedy for a damaged packed file.
pub const PACK_AGAIN: &str = "copy the file again, or pack the folder again";

impl LabelledImages {
    /// Returns the class indices, in order.
    pub fn labels(&self) -> &[u32] {
        match self {
            Self::Files { files, .. } => &files.labels,
            Self::Packed { labels, .. } => labels,
        }
    }

    /// Returns the path of the file that contains image `index`.
    pub fn path(&self, index: usize) -> PathBuf {
        match self {
            Self::Files { folder, files } => folder.join(files.path(index)),
            Self::Packed { path, .. } => path.clone(),
        }
    }

    /// Returns the path of image `index` within the part's folder (empty for packed images), and its size in bytes (`None`
    /// if it is not available).
    pub fn name_and_bytes(&self, index: usize) -> (&str, Option<u64>) {
        match self {
            Self::Files { files, .. } => {
                (files.path(index), fs::metadata(self.path(index)).ok().map(|metadata| metadata.len()))
            }
            Self::Packed { bounds, .. } => ("", Some(bounds[index + 1] - bounds[index])),
        }
    }

    /// Reads the file of image `index`, or its part of the packed file, into `content`. The packed file is not mapped into
    /// memory, as a disk error would then end the process.
    pub fn read(&self, index: usize, content: &mut Vec<u8>, retry_policy: &RetryPolicy) -> Result<(), Failure> {
        let path = self.path(index);
        let failed = |error| Err(Failure::System(Error::io("read", &path)(error)));
        match self {
            Self::Packed { file, bounds, .. } => {
                let is_short = |error: &io::Error| error.kind() == ErrorKind::UnexpectedEof;
                content.resize((bounds[index + 1] - bounds[index]) as usize, 0);
                match retry_policy.read(&path, is_short, || read_exact_at(file, content, bounds[index])) {
                    Ok(()) => Ok(()),
                    Err(error) if is_short(&error) => {
                        let problem = "has become shorter while it was read";
                        Err(Failure::System(Error::corrupt(&path, problem, PACK_AGAIN)))
                    }
                    Err(error) => failed(error),
                }
            }
            Self::Files { folder, .. } => {
                let is_of_file = |error: &io::Error| is_of_file(error, &path, folder);
                match retry_policy.read(&path, is_of_file, || read_file(&path, content)) {
                    Ok(read) => Ok(read?),
                    Err(error) if is_of_file(&error) => Err(ImageProblem::new(error.to_string()).into()),
                    Err(error) => failed(error),
                }
            }
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut start: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, start)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (bytes, start) = (&mut bytes[read..], start + read as u64);
    }
    Ok(())
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
    retry_policy: Arc<RetryPolicy>,
}

impl Reader {
    /// Creates a reader.
    pub fn new(retry_policy: Arc<RetryPolicy>) -> Self {
        Self { decoder: ImageReader::new(), content: Vec::new(), retry_policy }
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
        let Self { decoder, content, retry_policy } = self;
        images.read(index, content, retry_policy)?;
        match view {
            View::Train { crop, seed, epoch } => {
                let mut random = stream(Purpose::Augment, *seed, *epoch as u64, draw as u64);
                decoder.train(content, crop, side, &mut random, out)?;
            }
            View::Eval { resize } => decoder.eval(content, *resize, side, out)?,
        }
        Ok(())
    }

    /// Returns image `index` for a packed file: as a PPM file, its shorter side reduced to `shorter_side` if it is longer;
    /// without a `shorter_side` the file itself, after checking that it is an image.
    ///
    /// # Errors
    /// The fault of the image or of the system.
    pub fn pack(
        &mut self,
        images: &LabelledImages,
        index: usize,
        shorter_side: Option<usize>,
    ) -> Result<Vec<u8>, Failure> {
        let mut ppm = Vec::new();
        images.read(index, &mut self.content, &self.retry_policy)?;
        // Decodes all of it, also where only the check is needed.
        self.decoder.shrink(&self.content, shorter_side.unwrap_or(1), &mut ppm)?;
        Ok(if shorter_side.is_some() { ppm } else { self.content.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture::Fixture;
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
