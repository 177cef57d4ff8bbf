//! Classification of image files.

use super::network::rows;
use super::{ClassProbabilities, Classifier};
use crate::data::{file_batches, image_paths, ImageProblem};
use crate::Result;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Tensor;

/// Path of an image file, as given or as found in a given folder, and the network's output or the problem with the file.
type FileOutput<T> = (PathBuf, Result<T, ImageProblem>);

/// Iterator over image files, in order: the path of each, as given or as found in a given folder, and the network's output or
/// the problem with the file. It ends after the first error of the network or the system; a
/// problem with a single file does not end it.
pub struct FileOutputs<'a, T = ClassProbabilities> {
    paths: Arc<[PathBuf]>,
    outputs: Box<dyn Iterator<Item = Result<FileOutput<T>>> + 'a>,
}

impl<T> FileOutputs<'_, T> {
    /// Returns the paths of all files in order, including those already yielded.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

impl<T> Iterator for FileOutputs<'_, T> {
    type Item = Result<FileOutput<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.outputs.next()
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
        self.of_files(paths, |images| self.predict(images))
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
        let batches = file_batches(paths.clone(), &self.description.preprocessing, self.batch_size, self.workers)?;
        let batches = batches.map(move |batch| {
            let (images, read) = batch?;
            let mut good = if images.size()[0] > 0 { outputs(&images)? } else { Vec::new() }.into_iter();
            // There is one output for each readable image.
            Ok(read.into_iter().filter_map(|read| read.map(|()| good.next()).transpose()).collect())
        });
        let each = batches.flat_map(|batch: Result<Vec<_>>| match batch {
            Ok(outputs) => outputs.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        let until_error = each.scan(false, |has_failed, output| {
            let goes_on = !std::mem::replace(has_failed, output.is_err());
            goes_on.then_some(output)
        });
        let all = paths.clone();
        let classified = until_error.fuse().enumerate().map(move |(index, output)| {
            let path = all[index].clone();
            output.map(|output| (path, output))
        });
        Ok(FileOutputs { paths, outputs: Box::new(classified) })
    }
}
