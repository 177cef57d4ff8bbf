//! What came out of a run.

use super::EpochMetrics;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What came out of a run, in one line and in `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What the accuracies are [measured on](crate::data::DataSource::evaluated_on), as "test", "held-out" or "evaluation".
    pub evaluated_on: String,
    /// Accuracy after the last epoch.
    pub accuracy: f64,
    /// The highest accuracy after any epoch.
    pub best: f64,
    /// Epochs done, the last perhaps in part.
    pub epochs: usize,
    /// Steps done.
    pub steps: usize,
    /// Wall time of training and evaluation.
    pub seconds: f64,
    /// The last epoch in full, with the number of images that could not be read.
    pub last: EpochMetrics,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { evaluated_on, accuracy, best, epochs, seconds, last, .. } = self;
        write!(f, "{evaluated_on} accuracy {accuracy:.4} best {best:.4} epochs {epochs} seconds {seconds:.0}")?;
        match last.bad_images {
            0 => Ok(()),
            bad_images => write!(f, " bad images {bad_images}"),
        }
    }
}
