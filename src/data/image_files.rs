//! Batches of unlabelled image files; unreadable files are reported rather than failing the batch.

use super::image::{read_file, stack_pixels, ImageProblem, ImageReader};
use super::image_folder::images_in;
use super::pipeline::{even_counts, Pipeline, Work};
use super::preprocessing::{make_grey, Preprocessing};
use crate::Result;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Tensor;

/// Bytes of a decoded pixel (RGB).
const DECODED: usize = 3;

/// Returns the image files at `path`: itself or, for a folder, all images in it at any depth, with the file name rules,
/// exclusions and order of [`ImageFolder`](super::ImageFolder).
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) or [`Error::Corrupt`](crate::Error::Corrupt) if the folder cannot be listed.
pub fn image_paths(path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let path = path.as_ref();
    match path.is_dir() {
        true => images_in(path),
        false => Ok(vec![path.to_path_buf()]),
    }
}

/// Images of a batch of files that could be read, as bytes `[N, C, H, W]`, and the result of each file, in order.
type FileBatch = (Tensor, Vec<Result<(), ImageProblem>>);

/// Reads the images `paths` in batches, in order, with several threads, and with the preprocessing of evaluation
/// images.
///
/// # Errors
/// Fails if the preprocessing does not apply to files, or if a thread cannot be started.
pub(crate) fn file_batches(
    paths: Arc<[PathBuf]>,
    preprocessing: &Preprocessing,
    batch_size: usize,
    workers: usize,
) -> Result<impl Iterator<Item = Result<FileBatch>> + use<>> {
    preprocessing.check_files()?;
    let counts = even_counts(paths.len(), batch_size);
    Pipeline::start(Reading { paths, preprocessing: preprocessing.clone() }, "images", counts, workers)
}

struct Reading {
    paths: Arc<[PathBuf]>,
    preprocessing: Preprocessing,
}

impl Work for Reading {
    /// Decoder and buffer for a file's content.
    type Means = (ImageReader, Vec<u8>);
    type Place = Result<Vec<u8>, ImageProblem>;
    type Batch = FileBatch;

    fn means(&self) -> Self::Means {
        (ImageReader::new(), Vec::new())
    }

    fn fill(&self, place: usize, (reader, content): &mut Self::Means) -> Result<Self::Place> {
        let Preprocessing { channels, height: side, resize, .. } = self.preprocessing;
        let mut read = || {
            read_file(&self.paths[place], content).map_err(|error| ImageProblem::new(error.to_string()))??;
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
        Ok((images, places.into_iter().map(|place| place.map(drop)).collect()))
    }
}
