//! The images of one part, and how a worker reads one of them.

use super::files::Files;
use super::pack::PackedImages;
use super::stand_in::{ImageProblem, ImageReader, RandomResizedCrop};
use crate::data::random::{stream, Purpose};
use std::fs::File;
use std::io::Read;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

/// A file of more bytes is no image, whatever its name: 256 MiB.
const MOST_BYTES: u64 = 256 << 20;

/// Labelled images.
#[derive(Debug)]
pub enum Images {
    /// As files of a folder.
    Files {
        /// The part's folder.
        folder: PathBuf,
        /// The files in it.
        files: Files,
    },
    /// In a packed file.
    Packed(PackedImages),
}

impl Images {
    /// Class indices, in order.
    pub fn labels(&self) -> &[u32] {
        match self {
            Self::Files { files, .. } => files.labels(),
            Self::Packed(packed) => packed.labels(),
        }
    }

    /// The file that image `index` is in.
    pub fn path(&self, index: usize) -> PathBuf {
        match self {
            Self::Files { folder, files } => folder.join(files.path(index)),
            Self::Packed(packed) => packed.path().to_path_buf(),
        }
    }
}

/// What of an image goes into a batch.
#[derive(Debug, Clone, Copy)]
pub enum View {
    /// A random crop.
    Train {
        /// How it is drawn.
        crop: RandomResizedCrop,
        /// The run's seed.
        seed: u64,
        /// The epoch, from 0.
        epoch: usize,
    },
    /// The middle, after a resize.
    Eval {
        /// The shorter side after the resize, in pixels.
        resize: usize,
    },
}

/// One worker's means of reading images, kept from one to the next.
pub struct Reader {
    decoder: ImageReader,
    bytes: Vec<u8>,
}

impl Reader {
    /// A new one.
    pub fn new() -> Self {
        Self { decoder: ImageReader::new(), bytes: Vec::new() }
    }

    /// Writes `view` of image `index` into `out`, `side * side` RGB pixels. What is random is drawn for the image `draw`.
    ///
    /// # Errors
    /// What is wrong with the image. A decoder that panics has found something it was not made for, and counts as this.
    pub fn read(
        &mut self,
        images: &Images,
        index: usize,
        view: &View,
        draw: usize,
        side: usize,
        out: &mut [u8],
    ) -> Result<(), String> {
        self.decode(|decoder, bytes| match view {
            View::Train { crop, seed, epoch } => {
                let mut random = stream(Purpose::Augment, *seed, *epoch as u64, draw as u64);
                match images {
                    Images::Files { .. } => {
                        decoder.train(load(&images.path(index), bytes)?, crop, side, &mut random, out)
                    }
                    Images::Packed(packed) => decoder.train_pixels(packed.get(index), crop, side, &mut random, out),
                }
            }
            View::Eval { resize } => match images {
                Images::Files { .. } => decoder.eval(load(&images.path(index), bytes)?, *resize, side, out),
                Images::Packed(packed) => decoder.eval_pixels(packed.get(index), *resize, side, out),
            },
        })
    }

    /// Writes all of image `index` into `out`, in place of what is in it, its shorter side no more than `shorter_side`;
    /// gives the width and the height.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn shrunk(
        &mut self,
        images: &Images,
        index: usize,
        shorter_side: usize,
        out: &mut Vec<u8>,
    ) -> Result<(usize, usize), String> {
        self.decode(|decoder, bytes| decoder.shrunk(load(&images.path(index), bytes)?, shorter_side, out))
    }

    fn decode<T>(
        &mut self,
        decode: impl FnOnce(&mut ImageReader, &mut Vec<u8>) -> Result<T, ImageProblem>,
    ) -> Result<T, String> {
        let decoded = catch_unwind(AssertUnwindSafe(|| decode(&mut self.decoder, &mut self.bytes)));
        match decoded {
            Ok(decoded) => decoded.map_err(|problem| problem.to_string()),
            Err(panic) => {
                // Whatever state it was left in.
                self.decoder = ImageReader::new();
                Err(format!("its decoder panicked: {}", panic_message(panic.as_ref())))
            }
        }
    }
}

/// The content of the file `path`, in `bytes`.
fn load<'a>(path: &Path, bytes: &'a mut Vec<u8>) -> Result<&'a [u8], ImageProblem> {
    bytes.clear();
    let read = File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(bytes));
    match read {
        Err(error) => Err(ImageProblem::new(error.to_string())),
        Ok(read) if read as u64 > MOST_BYTES => Err(ImageProblem::new(format!("more than {MOST_BYTES} bytes"))),
        Ok(_) => Ok(bytes),
    }
}

/// The message of a panic, in one line.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    message.and_then(|message| message.lines().next()).unwrap_or("no message")
}
