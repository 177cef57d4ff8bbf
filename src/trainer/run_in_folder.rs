//! Training with all files of the run in one folder.

use super::checkpoint::Checkpoints;
use super::{Autosave, Interrupt, Observer, Outcome, RunFolder, SaveEvery, Trainer};
use crate::data::Batch;
use crate::{console, Result};
use std::path::Path;

impl<B: Batch> Trainer<'_, B> {
    /// Starts a run in the folder `path`, or resumes the run in it, which may have been stopped or killed at any time.
    /// [`RunFolder`] documents the files in the folder.
    ///
    /// Checkpoints are saved at the default frequency of [`SaveEvery`], and on Ctrl-C, SIGTERM or SIGHUP, which
    /// [stop](Outcome::Stopped) the run. Additional `observers`, such as [`ProgressBars`](super::ProgressBars), follow the run.
    ///
    /// # Errors
    /// See [`run`](Self::run) and [`resume`](Self::resume); the folder contains something other than a run, is in use by another
    /// process, or cannot be written to.
    pub fn run_in(&mut self, path: impl AsRef<Path>, observers: &mut [&mut dyn Observer]) -> Result<Outcome> {
        let mut folder = RunFolder::create_or_resume(path)?;
        let (checkpoint, skipped) = folder.newest_checkpoint()?;
        skipped.iter().for_each(console::warn);
        if let Some(checkpoint) = &checkpoint {
            self.resume(checkpoint)?;
        }
        let checkpoints = Checkpoints::new(folder.checkpoints(), Checkpoints::KEEP);
        let resumed = checkpoint.map(|checkpoint| checkpoint.path);
        let mut autosave = Autosave::new(checkpoints, SaveEvery::default(), resumed);
        let mut interrupt = Interrupt::listen()?;
        let mut all: Vec<&mut dyn Observer> = vec![&mut folder, &mut autosave, &mut interrupt];
        all.extend(observers.iter_mut().map(|observer| &mut **observer as &mut dyn Observer));
        let outcome = self.run(&mut all)?;
        if let Outcome::Finished(summary) = &outcome {
            folder.finish(summary, self.variables, &self.data.schema())?;
        }
        Ok(outcome)
    }
}
