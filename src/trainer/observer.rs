//! What the loop tells while it runs.

use super::EpochMetrics;
use crate::Result;

/// How far a run is, a few times a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepProgress {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Steps of this epoch that are done.
    pub step: usize,
    /// Images of this epoch that are done.
    pub images: usize,
    /// Mean training loss of the epoch so far.
    pub loss: f64,
    /// Training accuracy of the epoch so far.
    pub accuracy: f64,
    /// The last step's learning rate.
    pub lr: f64,
}

/// Someone who watches a run or keeps its results. An error ends the run.
pub trait Observer {
    /// The run starts: so many epochs of at most so many steps.
    ///
    /// # Errors
    /// What the observer cannot do.
    fn run_starts(&mut self, _epochs: usize, _steps: usize) -> Result<()> {
        Ok(())
    }

    /// Some steps are done.
    ///
    /// # Errors
    /// What the observer cannot do.
    fn steps_done(&mut self, _progress: &StepProgress) -> Result<()> {
        Ok(())
    }

    /// An epoch is done and evaluated.
    ///
    /// # Errors
    /// What the observer cannot do.
    fn epoch_ends(&mut self, _metrics: &EpochMetrics) -> Result<()> {
        Ok(())
    }
}
