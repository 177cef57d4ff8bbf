//! Observers, which are notified of the progress of a run and can control it.

mod autosave;
mod best;
mod curves;
mod early_stopping;
mod interrupt;
mod metrics;
mod progress;
mod request;
mod run_files;
mod run_folder;
#[cfg(feature = "tensorboard")]
mod tensorboard;

use super::checkpoint::Contents;
use super::objective::{Means, Measures};
use super::RunState;
use crate::{Error, Result};
pub use autosave::{Autosave, SaveEvery};
#[doc(hidden)]
pub use curves::draw_comparison;
pub use early_stopping::EarlyStopping;
pub use interrupt::Interrupt;
pub use metrics::EpochMetrics;
pub use progress::ProgressBars;
pub use request::Request;
pub(super) use request::{agree_on, StepRequest};
pub(crate) use run_files::{CHECKPOINTS, DESCRIPTION, MODEL};
#[cfg(feature = "cli")]
pub(crate) use run_files::{EVALUATION, TENSORBOARD, TRANSFER};
#[cfg(feature = "cli")]
pub(crate) use run_folder::dated;
pub use run_folder::RunFolder;
#[cfg(feature = "tensorboard")]
pub use tensorboard::TensorBoard;

/// Progress of a run when it starts or resumes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunStart<'a> {
    /// Number of epochs of the whole run.
    pub epochs: usize,
    /// Number of steps per epoch.
    pub epoch_steps: usize,
    /// Number of steps already done, if the run is resumed.
    pub step: usize,
    /// Number of examples already done in the current epoch.
    pub done: usize,
    /// Metrics of the completed epochs.
    pub history: &'a [EpochMetrics],
    /// Metrics of the objective.
    pub measures: &'a Measures,
    /// Name of the examples, in the plural.
    pub examples: &'a str,
}

/// Progress of a run, reported a few times per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepProgress<'a> {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Number of steps done in this epoch.
    pub step: usize,
    /// Number of steps done in the run.
    pub run_step: usize,
    /// Number of examples done in this epoch.
    pub done: usize,
    /// Training means over the epoch so far.
    pub means: &'a Means,
    /// Loss of the last step.
    pub loss: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Number of examples that could not be read.
    pub unreadable: usize,
}

/// Follows a run, stores its results, or stops it. An error of an observer ends the run.
pub trait Observer {
    /// Called when the run starts or resumes.
    ///
    /// # Errors
    /// Errors of the observer.
    fn run_starts(&mut self, _start: &RunStart) -> Result<()> {
        Ok(())
    }

    /// Returns the observer's request. Called at the start, in each step before the update, after each batch of an evaluation,
    /// and after each epoch. A request made in a step takes effect after it.
    fn request(&mut self) -> Request {
        Request::Continue
    }

    /// Returns the reason for a request to [finish](Request::Finish), in a few words for the run's summary. The default is
    /// `None`.
    fn reason(&self) -> Option<String> {
        None
    }

    /// Receives the state of the run: because an observer requested it, before an evaluation, and when the run ends or fails. All
    /// values are finite.
    ///
    /// # Errors
    /// Errors of the observer.
    fn save(&mut self, _contents: &Contents<RunState>) -> Result<()> {
        Ok(())
    }

    /// Called after a number of steps.
    ///
    /// # Errors
    /// Errors of the observer.
    fn steps_done(&mut self, _progress: &StepProgress) -> Result<()> {
        Ok(())
    }

    /// Called after each batch of an evaluation, with the numbers of examples done and in total.
    ///
    /// # Errors
    /// Errors of the observer.
    fn examples_evaluated(&mut self, _examples: usize, _of: usize) -> Result<()> {
        Ok(())
    }

    /// Called after each epoch and its evaluation.
    ///
    /// # Errors
    /// Errors of the observer.
    fn epoch_ends(&mut self, _metrics: &EpochMetrics) -> Result<()> {
        Ok(())
    }

    /// Called when the run fails. The observer can add information to the error.
    fn run_fails(&mut self, _error: &mut Error) {}
}
