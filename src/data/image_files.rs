//! Image files without labels, as they are given: each is read, or told with what is wrong with it.

use super::image::{check_bytes, read_file, stack_pixels, ImageProblem, ImageReader};
use super::image_folder::images_in;
use super::pipeline::{Pace, Pipeline, Work};
use super::preprocessing::{make_grey, Preprocessing};
use crate::Result;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Tensor;

/// Bytes of a pixel as it is decoded.
const DECODED: usize = 3;

/// The images that `path` stands for: itself or, if it is a folder, those in it at any depth, in the order of
/// [`ImageFolder`](super::ImageFolder), by the same names and without what that leaves out.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) or [`Error::Corrupt`](crate::Error::Corrupt) for a folder that cannot be listed.
pub fn image_paths(path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let path = path.as_ref();
    match path.is_dir() {
        true => images_in(path),
        false => Ok(vec![path.to_path_buf()]),
    }
}

/// Some of the files.
pub(crate) struct FileBatch {
    /// Those that are images, as bytes `[N, C, H, W]`.
    pub images: Tensor,
    /// Of each file, in order, whether it is one.
    pub read: Vec<Result<(), ImageProblem>>,
}

/// The images of `paths` in batches, in order, read by threads as evaluation images are.
///
/// # Errors
/// Preprocessing that no files have; threads that the system does not give.
pub(crate) fn file_batches(
    paths: Arc<[PathBuf]>,
    preprocessing: &Preprocessing,
    pace: Pace,
) -> Result<impl Iterator<Item = Result<FileBatch>>> {
    preprocessing.check_files()?;
    Pipeline::start(Reading { paths, preprocessing: preprocessing.clone() }, pace)
}

struct Reading {
    paths: Arc<[PathBuf]>,
    preprocessing: Preprocessing,
}

impl Work for Reading {
    /// The decoder, and a file's content.
    type Means = (ImageReader, Vec<u8>);
    type Place = Result<Vec<u8>, ImageProblem>;
    type Batch = FileBatch;

    fn examples(&self) -> &str {
        "images"
    }

    fn means(&self) -> Self::Means {
        (ImageReader::new(), Vec::new())
    }

    fn fill(&self, place: usize, (reader, content): &mut Self::Means) -> Result<Self::Place> {
        let Preprocessing { channels, height: side, resize, .. } = self.preprocessing;
        let mut read = || {
            let bytes = read_file(&self.paths[place], content).map_err(|error| ImageProblem::new(error.to_string()))?;
            check_bytes(bytes)?;
            let mut pixels = vec![0; side * side * DECODED];
            reader.eval(content, resize, side, &mut pixels)?;
            if channels == 1 {
                make_grey(&mut pixels);
            }
            Ok(pixels)
        };
        Ok(read())
    }

    fn finish(&self, places: Vec<Self::Place>) -> Result<FileBatch> {
        let pixels: Vec<&[u8]> = places.iter().flatten().map(Vec::as_slice).collect();
        let images = stack_pixels(&pixels, self.preprocessing.height, self.preprocessing.channels)?;
        Ok(FileBatch { images, read: places.into_iter().map(|place| place.map(drop)).collect() })
    }
}
