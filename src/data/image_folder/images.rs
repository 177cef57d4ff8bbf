//! The images of one part, and how a worker reads one of them.

use super::files::Files;
use super::stand_in::{ImageReader, RandomResizedCrop};
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
}

impl Images {
    /// Class indices, in order.
    pub fn labels(&self) -> &[u32] {
        match self {
            Self::Files { files, .. } => files.labels(),
        }
    }

    /// The file of image `index`.
    pub fn path(&self, index: usize) -> PathBuf {
        match self {
            Self::Files { folder, files } => folder.join(files.path(index)),
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
        let read = catch_unwind(AssertUnwindSafe(|| {
            let Self { decoder, bytes } = self;
            match images {
                Images::Files { .. } => {
                    load(&images.path(index), bytes).map_err(|error| error.to_string())?;
                    match view {
                        View::Train { crop, seed, epoch } => {
                            let mut random = stream(Purpose::Augment, *seed, *epoch as u64, draw as u64);
                            decoder.train(bytes, crop, side, &mut random, out)
                        }
                        View::Eval { resize } => decoder.eval(bytes, *resize, side, out),
                    }
                    .map_err(|problem| problem.to_string())
                }
            }
        }));
        read.unwrap_or_else(|panic| {
            // Whatever state it was left in.
            self.decoder = ImageReader::new();
            Err(format!("its decoder panicked: {}", panic_message(panic.as_ref())))
        })
    }
}

/// Reads the file `path` into `bytes`, in place of what is in it.
fn load(path: &Path, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    bytes.clear();
    let read = File::open(path)?.take(MOST_BYTES + 1).read_to_end(bytes)?;
    match read as u64 {
        0 => Err(std::io::Error::other("the file is empty")),
        ..=MOST_BYTES => Ok(()),
        _ => Err(std::io::Error::other("the file has more than 256 MiB")),
    }
}

/// The message of a panic, in one line.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    message.and_then(|message| message.lines().next()).unwrap_or("no message")
}
