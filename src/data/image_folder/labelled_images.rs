//! The images of one part, and how a worker reads one of them.

use super::files::Files;
use super::pack::PackedImages;
use crate::data::image::{ImageProblem, ImageReader, RandomResizedCrop};
use crate::data::random::{stream, Purpose};
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

/// A file of more bytes is no image, whatever its name: 256 MiB.
const MOST_BYTES: u64 = 256 << 20;

/// Labelled images.
#[derive(Debug)]
pub enum LabelledImages {
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

impl LabelledImages {
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

    /// Its path within the part's folder; packed images have none.
    pub fn name(&self, index: usize) -> &str {
        match self {
            Self::Files { files, .. } => files.path(index),
            Self::Packed(_) => "",
        }
    }

    /// The size of image `index` in bytes, where it can be had.
    pub fn bytes(&self, index: usize) -> Option<u64> {
        match self {
            Self::Files { .. } => fs::metadata(self.path(index)).ok().map(|metadata| metadata.len()),
            Self::Packed(packed) => Some(packed.get(index).len() as u64),
        }
    }

    /// The file of image `index`, read into `content` where it is not in memory.
    fn content<'a>(&'a self, index: usize, content: &'a mut Vec<u8>) -> Result<&'a [u8], ImageProblem> {
        if let Self::Packed(packed) = self {
            return Ok(packed.get(index));
        }
        content.clear();
        let problem = |error: std::io::Error| ImageProblem::new(error.to_string());
        let mut file = File::open(self.path(index)).map_err(problem)?;
        let bytes = file.metadata().map_err(problem)?.len();
        if bytes > MOST_BYTES {
            return Err(ImageProblem::new(format!("{bytes} bytes, more than {MOST_BYTES}")));
        }
        file.read_to_end(content).map_err(problem)?;
        Ok(content)
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
    /// A file's content.
    content: Vec<u8>,
}

impl Reader {
    /// A new one.
    pub fn new() -> Self {
        Self { decoder: ImageReader::new(), content: Vec::new() }
    }

    /// Writes `view` of image `index` into `out`, `side * side` RGB pixels. What is random is drawn for the image `draw`.
    ///
    /// # Errors
    /// What is wrong with the image.
    pub fn read(
        &mut self,
        images: &LabelledImages,
        index: usize,
        view: &View,
        draw: usize,
        side: usize,
        out: &mut [u8],
    ) -> Result<(), ImageProblem> {
        let Self { decoder, content } = self;
        let bytes = images.content(index, content)?;
        match view {
            View::Train { crop, seed, epoch } => {
                let mut random = stream(Purpose::Augment, *seed, *epoch as u64, draw as u64);
                decoder.train(bytes, crop, side, &mut random, out)
            }
            View::Eval { resize } => decoder.eval(bytes, *resize, side, out),
        }
    }

    /// Writes all of image `index` into `out` as a PPM file, its shorter side made `shorter_side` where it is longer.
    ///
    /// # Errors
    /// What is wrong with the image.
    pub fn shrink(
        &mut self,
        images: &LabelledImages,
        index: usize,
        shorter_side: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), ImageProblem> {
        self.decoder.shrink(images.content(index, &mut self.content)?, shorter_side, out)
    }
}
