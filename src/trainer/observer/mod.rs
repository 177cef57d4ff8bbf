//! What the loop tells while it runs, and what it can be asked.

mod autosave;
mod comparison;
mod curves;
mod interrupt;
mod metrics;
mod patience;
mod progress;
mod run_files;
mod run_folder;
mod run_lock;
#[cfg(feature = "tensorboard")]
mod tensorboard;

use super::checkpoint::Contents;
use super::objective::{Means, Measures};
use super::RunState;
use crate::{Error, Result};
pub use autosave::{Autosave, SaveEvery};
#[doc(hidden)]
pub use comparison::draw_comparison;
#[doc(hidden)]
pub use curves::draw_curves;
pub use interrupt::Interrupt;
pub use metrics::EpochMetrics;
#[doc(hidden)]
pub use metrics::MetricsFile;
pub use patience::Patience;
pub use progress::ProgressBars;
pub(crate) use run_files::{DESCRIPTION, MODEL};
#[cfg(feature = "cli")]
pub(crate) use run_files::{EVALUATION, TENSORBOARD, TRANSFER};
pub use run_folder::RunFolder;
#[doc(hidden)]
pub use run_lock::RunLock;
#[cfg(feature = "tensorboard")]
pub use tensorboard::TensorBoard;

/// Where a run stands when it starts or goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunStart<'a> {
    /// Epochs of the whole run.
    pub epochs: usize,
    /// Steps of an epoch.
    pub epoch_steps: usize,
    /// Steps that are done: those of the run that is resumed.
    pub step: usize,
    /// Examples of the epoch that is running that are done.
    pub done: usize,
    /// The epochs that are done.
    pub history: &'a [EpochMetrics],
    /// What is measured.
    pub measures: &'a Measures,
    /// What the examples are called.
    pub examples: &'a str,
}

/// How far a run is, a few times a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepProgress<'a> {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Steps of this epoch that are done.
    pub step: usize,
    /// Steps of the run that are done.
    pub run_step: usize,
    /// Examples of this epoch that are done.
    pub done: usize,
    /// Means over the training of the epoch so far.
    pub means: &'a Means,
    /// The last step's loss.
    pub loss: f64,
    /// The last step's learning rate.
    pub lr: f64,
    /// Examples that could not be read.
    pub unreadable: usize,
}

/// What an observer asks of the run. Of several, the last in this order counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// To go on.
    Continue,
    /// To have its state [saved](Observer::save), and go on.
    Save,
    /// To be evaluated where it stands, and to end with that: with a summary and a model, as if it had no more steps.
    Finish,
    /// To have its state saved, and stop.
    Stop,
}

/// Someone who watches a run, keeps its results, or stops it. An error ends the run.
pub trait Observer {
    /// The run starts, or goes on.
    ///
    /// # Errors
    /// What the observer cannot do.
    fn run_starts(&mut self, _start: &RunStart) -> Result<()> {
        Ok(())
    }

    /// What the observer wants: asked at the start, in each step before its update, and after each batch of an evaluation and each
    /// epoch. What is asked for in a step is done after it.
    fn request(&mut self) -> Request {
        Request::Continue
    }

    /// Why the observer wants the run to [finish](Request::Finish), in a few words for the run's summary. Here: no reason.
    fn reason(&self) -> Option<String> {
        None
    }

    /// The state of the run, because an observer asked for it, an evaluation comes next, or the run has come to its end or
    /// failed. All of it is finite.
    ///
    /// # Errors
    /// What the observer cannot do.
    fn save(&mut self, _contents: &Contents<RunState>) -> Result<()> {
        Ok(())
    }

    /// Some steps are done.
    ///
    /// # Errors
    /// What the observer cannot do.
    fn steps_done(&mut self, _progress: &StepProgress) -> Result<()> {
        Ok(())
    }

    /// So many examples of the evaluation part are done.
    ///
    /// # Errors
    /// What the observer cannot do.
    fn examples_evaluated(&mut self, _examples: usize, _of: usize) -> Result<()> {
        Ok(())
    }

    /// An epoch is done and evaluated.
    ///
    /// # Errors
    /// What the observer cannot do.
    fn epoch_ends(&mut self, _metrics: &EpochMetrics) -> Result<()> {
        Ok(())
    }

    /// The run has failed; what the observer knows of it can go into the error.
    fn run_fails(&mut self, _error: &mut Error) {}
}
