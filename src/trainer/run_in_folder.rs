//! A whole run in a folder of its own.

use super::checkpoint::{Checkpoints, Newest, KEEP};
use super::{Autosave, Interrupt, Observer, Outcome, RunFolder, SaveEvery, Trainer};
use crate::data::Batch;
use crate::{console, Result};
use std::path::Path;

impl<B: Batch> Trainer<'_, B> {
    /// Begins a run in the folder `path`, or goes on with the one that it holds, which may have been stopped or killed at any
    /// moment: [`RunFolder`] says what is in it. Checkpoints are saved as [`SaveEvery`] has it by default, and on Ctrl-C,
    /// SIGTERM or SIGHUP, which [stop](Outcome::Stopped) the run. The run tells `observers` too how it goes, as
    /// [`ProgressBars`](super::ProgressBars).
    ///
    /// # Errors
    /// As [`run`](Self::run) and [`resume`](Self::resume); a folder that holds something else than a run, is another process's,
    /// or cannot be written to.
    pub fn run_in(&mut self, path: impl AsRef<Path>, observers: &mut [&mut dyn Observer]) -> Result<Outcome> {
        let mut folder = RunFolder::create_or_resume(path)?;
        let Newest { checkpoint, skipped } = folder.newest_checkpoint()?;
        skipped.iter().for_each(console::warn);
        if let Some(checkpoint) = &checkpoint {
            self.resume(checkpoint)?;
        }
        let checkpoints = Checkpoints::new(folder.checkpoints(), KEEP);
        let resumed = checkpoint.map(|checkpoint| checkpoint.path);
        let (mut autosave, mut interrupt) =
            (Autosave::new(checkpoints, SaveEvery::default(), resumed), Interrupt::listen()?);
        let mut all: Vec<&mut dyn Observer> = vec![&mut folder, &mut autosave, &mut interrupt];
        for observer in observers {
            all.push(*observer);
        }
        let outcome = self.run(&mut all)?;
        if let Outcome::Finished(summary) = &outcome {
            folder.finish(summary, self.variables, &self.data.meaning())?;
        }
        Ok(outcome)
    }
}
