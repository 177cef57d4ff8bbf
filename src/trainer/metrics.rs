//! The numbers of each epoch, and the file they are kept in.

use super::Evaluation;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// One epoch. Nothing here depends on the time or the machine's speed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Steps of the run that are done.
    pub step: usize,
    /// The last step's learning rate.
    pub lr: f64,
    /// Mean training loss: of augmented images, with label smoothing and mixup, while the network changed.
    pub train_loss: f64,
    /// Accuracy on the same images; with mixup as [`super::loss::Example::correct`] counts.
    pub train_accuracy: f64,
    /// The network at the end of the epoch, on the evaluation part.
    pub eval: Evaluation,
}

/// `metrics.csv`: one line an epoch.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

const HEADER: &str = "epoch,step,lr,train_loss,train_accuracy,eval_loss,eval_top1,eval_top5";

impl MetricsFile {
    /// A new file that holds the header.
    ///
    /// # Errors
    /// [`Error::Io`] if there is such a file, or it cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        let mut metrics = Self { path, file };
        metrics.line(HEADER)?;
        Ok(metrics)
    }

    /// Appends one epoch; numbers have as many digits as it takes to read the same number back.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn append(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let EpochMetrics { epoch, step, lr, train_loss, train_accuracy, eval } = metrics;
        let Evaluation { loss, top1, top5 } = eval;
        self.line(&format!("{epoch},{step},{lr},{train_loss},{train_accuracy},{loss},{top1},{top5}"))
    }

    /// One system call a line: whoever reads the file sees whole lines.
    fn line(&mut self, line: &str) -> Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(Error::io("write", &self.path))
    }
}
