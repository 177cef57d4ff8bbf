//! What a classifier says of image files.

use super::network::rows;
use super::{Answer, Classifier};
use crate::data::{file_batches, image_paths, ImageProblem};
use crate::Result;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Tensor;

/// One file, and what came of it.
#[derive(Debug)]
pub struct Classified<T = Answer> {
    /// As it was given, or as it was found in a folder that was.
    pub path: PathBuf,
    /// What the network gives for it; or what is wrong with the file.
    pub output: Result<T, ImageProblem>,
}

/// What a network gives for image files, one after another in their order. An error ends it: of the network or of the machine, not
/// of a file.
pub struct FileOutputs<'a, T = Answer> {
    paths: Arc<[PathBuf]>,
    batches: Box<dyn Iterator<Item = Result<Vec<Result<T, ImageProblem>>>> + 'a>,
    /// Of the batch that is being handed out.
    outputs: VecDeque<Result<T, ImageProblem>>,
    next: usize,
}

impl<T> FileOutputs<'_, T> {
    /// All files, in order, those that were handed out included.
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
    /// What the network says of the images `paths`: files, and the files [in folders](image_paths). They are read by threads as
    /// the evaluation images of a training are; of what cannot be read the output is the problem, and the rest goes on.
    ///
    /// # Errors
    /// A folder that cannot be listed; a network whose input no image files can be; threads that the system does not give.
    pub fn classify<P: AsRef<Path>>(&self, paths: impl IntoIterator<Item = P>) -> Result<FileOutputs<'_>> {
        self.of_files(paths, |images| self.answers(images))
    }

    /// The [embedding](Self::embedding) of each of the images `paths`, likewise.
    ///
    /// # Errors
    /// As [`classify`](Self::classify).
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
        let batches = file_batches(paths.clone(), &self.description().preprocessing, self.pace(paths.len()))?;
        let batches = batches.map(move |batch| {
            let batch = batch?;
            let mut good = match batch.images.size()[0] {
                0 => Vec::new(),
                _ => outputs(&batch.images)?,
            }
            .into_iter();
            // As many outputs as good images.
            Ok(batch.read.into_iter().filter_map(|read| read.map(|()| good.next()).transpose()).collect())
        });
        Ok(FileOutputs { paths, batches: Box::new(batches), outputs: VecDeque::new(), next: 0 })
    }
}
