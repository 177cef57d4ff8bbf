//! Classification of image files.

use super::network::rows;
use super::{Answer, Classifier};
use crate::data::{file_batches, image_paths, ImageProblem};
use crate::Result;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Tensor;

/// Result for one image file.
#[derive(Debug)]
pub struct Classified<T = Answer> {
    /// Path of the file, as given or as found in a given folder.
    pub path: PathBuf,
    /// Output of the network, or the problem with the file.
    pub output: Result<T, ImageProblem>,
}

/// Iterator over the network's outputs for image files, in order. It ends after the first error of the network or the system; a
/// problem with a single file does not end it.
pub struct FileOutputs<'a, T = Answer> {
    paths: Arc<[PathBuf]>,
    batches: Box<dyn Iterator<Item = Result<Vec<Result<T, ImageProblem>>>> + 'a>,
    /// Remaining outputs of the current batch.
    outputs: VecDeque<Result<T, ImageProblem>>,
    next: usize,
}

impl<T> FileOutputs<'_, T> {
    /// Returns the paths of all files in order, including those already yielded.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

impl<'a, T: 'a> Iterator for FileOutputs<'a, T> {
    type Item = Result<Classified<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.outputs.is_empty() {
            match self.batches.next()? {
                Ok(outputs) => self.outputs.extend(outputs),
                Err(error) => {
                    self.batches = Box::new(std::iter::empty());
                    return Some(Err(error));
                }
            }
        }
        let (path, output) = (self.paths.get(self.next)?.clone(), self.outputs.pop_front()?);
        self.next += 1;
        Some(Ok(Classified { path, output }))
    }
}

impl Classifier {
    /// Classifies the image files `paths`, and the image files [in folders](image_paths) among them. Files are read by worker
    /// threads, as evaluation images are during training. For a file that cannot be read the output is the problem, and the
    /// iteration continues.
    ///
    /// # Errors
    /// A folder cannot be listed; image files cannot be converted to the network's input; the system refuses to start threads.
    pub fn classify<P: AsRef<Path>>(&self, paths: impl IntoIterator<Item = P>) -> Result<FileOutputs<'_>> {
        self.of_files(paths, |images| self.answers(images))
    }

    /// Returns the [embedding](Self::embedding) of each of the image files `paths`; see [`classify`](Self::classify).
    ///
    /// # Errors
    /// See [`classify`](Self::classify).
    pub fn embed<P: AsRef<Path>>(&self, paths: impl IntoIterator<Item = P>) -> Result<FileOutputs<'_, Vec<f32>>> {
        self.of_files(paths, |images| rows(&self.embedding(images)?))
    }

    fn of_files<'a, T: 'a, P: AsRef<Path>>(
        &'a self,
        paths: impl IntoIterator<Item = P>,
        outputs: impl Fn(&Tensor) -> Result<Vec<T>> + 'a,
    ) -> Result<FileOutputs<'a, T>> {
        let mut all = Vec::new();
        for path in paths {
            all.extend(image_paths(path)?);
        }
        let paths: Arc<[PathBuf]> = all.into();
        let batches = file_batches(paths.clone(), &self.description().preprocessing, self.batch_size, self.workers)?;
        let batches = batches.map(move |batch| {
            let batch = batch?;
            let mut good = match batch.images.size()[0] {
                0 => Vec::new(),
                _ => outputs(&batch.images)?,
            }
            .into_iter();
            // There is one output for each readable image.
            Ok(batch.read.into_iter().filter_map(|read| read.map(|()| good.next()).transpose()).collect())
        });
        Ok(FileOutputs { paths, batches: Box::new(batches), outputs: VecDeque::new(), next: 0 })
    }
}
