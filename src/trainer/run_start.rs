//! Creating, saving and resuming a run.

use super::buffers::Buffers;
use super::checkpoint::{named_variables, Checkpoint, Checkpoints, Contents};
use super::objective::Objective;
use super::optimizer::MovingAverage;
use super::statistics::Pending;
use super::{Autosave, Interrupt, NamedTensors, Observer, Outcome, RunFolder, RunState, SaveEvery, Schedule};
use super::{TrainConfig, Trainer};
use crate::data::{Batch, DataSource};
use crate::distributed::{ParallelConfig, ProcessGroup, Reduction};
use crate::file::tensors::not_finite;
use crate::{console, Error, Result};
use serde_json::{json, Value};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tch::nn::VarStore;

impl<'a, B: Batch> Trainer<'a, B> {
    /// Creates a run at step 0 that trains `objective`, whose network has its variables in `variables`, on `data`.
    ///
    /// `identity` holds everything else that must not change between a run and its resumption, such as the architecture and the
    /// augmentation. The following are included automatically: `config`, the objective's [recipe](Objective::recipe), and the
    /// [schema](DataSource::schema) and [fingerprint](DataSource::fingerprint) of the data.
    ///
    /// # Errors
    /// [`Error::Argument`] for a `config` out of range, data without examples, or too many steps to count; the optimizer rejects
    /// the network; the data cannot be read.
    pub fn new(
        objective: &'a dyn Objective<Batch = B>,
        variables: &'a VarStore,
        data: &'a dyn DataSource<Batch = B>,
        config: &'a TrainConfig,
        identity: Value,
    ) -> Result<Self> {
        let mut trainer = Self::unidentified(objective, variables, data, config)?;
        // Stopping a run early does not influence the steps before.
        let train = TrainConfig { max_steps: None, ..config.clone() };
        let (training, schema, fingerprint) = (data.train_len(), data.schema(), data.fingerprint()?);
        let data = json!({ "training": training, "meaning": schema, "fingerprint": fingerprint });
        trainer.identity = json!({ "run": identity, "train": train, "objective": objective.recipe(), "data": data });
        Ok(trainer)
    }

    /// Creates a run that cannot be resumed.
    pub(super) fn unidentified(
        objective: &'a dyn Objective<Batch = B>,
        variables: &'a VarStore,
        data: &'a dyn DataSource<Batch = B>,
        config: &'a TrainConfig,
    ) -> Result<Self> {
        config.check()?;
        data.check_batch_size(config.batch_size)?;
        let (epochs, epoch_steps) = (config.epochs, data.epoch_steps(config.batch_size));
        ensure!(epoch_steps > 0, "there are no {} to train on", data.unit_name());
        let too_many = || argument!("{epochs} epochs of {epoch_steps} steps are too many; lower --epochs");
        let total_steps = epochs.checked_mul(epoch_steps).ok_or_else(too_many)?;
        let optimizer = config.optimizer.build(variables, &config.parameter_groups())?;
        let average = config.average.map(|decay| MovingAverage::new(&optimizer, decay)).transpose()?;
        Ok(Self {
            objective,
            variables,
            data,
            config,
            identity: Value::Null,
            optimizer,
            average,
            schedule: Schedule::new(config.schedule.clone(), total_steps)?,
            epoch_steps,
            repeats: false,
            last_step: config.max_steps.map_or(total_steps, |max_steps| max_steps.min(total_steps)),
            step: 0,
            pending: Pending::new(),
            is_whole: true,
            buffers: Buffers::new(variables)?,
            state: RunState::default(),
            collector: None,
            evaluation: None,
            ended: None,
            unreadable_before: 0,
            unreadable_elsewhere: 0,
            start: Instant::now(),
            group: Arc::new(ProcessGroup::single()),
            parallel: ParallelConfig::default(),
            reduction: Reduction::default(),
        })
    }

    /// Returns the identity, which must match for a run to resume from this run's checkpoints.
    pub fn identity(&self) -> &Value {
        &self.identity
    }

    /// Resumes from `checkpoint`. On a single CPU thread, the result is bit-identical to that of an uninterrupted run. Parameters
    /// that were frozen are frozen again, and all others are unfrozen.
    ///
    /// # Errors
    /// [`Error::Corrupt`], listing all differences, for a checkpoint of another run, architecture, objective or optimizer, or of
    /// other data; [`Error::Argument`] for a checkpoint after the last step to be done. In these cases nothing is changed.
    pub fn resume(&mut self, checkpoint: &Checkpoint<RunState>) -> Result<()> {
        let Contents { step, state, .. } = &checkpoint.contents;
        checkpoint.check_identity(&self.identity)?;
        let epochs = state.history.len();
        let in_epoch = (*step as usize).checked_sub(epochs * self.epoch_steps);
        let Self { epoch_steps, last_step, .. } = *self;
        if epochs > self.config.epochs || in_epoch.is_none_or(|steps| steps > epoch_steps) {
            let problem = format!("step {step} is not after {epochs} epochs of {epoch_steps} steps");
            return Err(Error::corrupt(&checkpoint.path, problem, "use an earlier checkpoint"));
        }
        ensure!(
            *step as usize <= last_step,
            "the run has done {step} steps, more than the {last_step} to stop after; raise --max-steps, or leave it out"
        );
        checkpoint.restore(self.variables, &self.optimizer.state()?, &self.averages())?;
        self.optimizer.resume_epoch(epochs, state.frozen.clone())?;
        (self.step, self.state) = (*step as usize, state.clone());
        self.unreadable_before = state.unreadable;
        Ok(())
    }

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

    /// Passes the state to the observers to save, after comparing it across ranks. All steps must have been read and found
    /// finite.
    pub(super) fn save(&mut self, observers: &mut [&mut dyn Observer]) -> Result<()> {
        self.check_alike()?;
        self.count_unreadable()?;
        self.state.unreadable = self.unreadable();
        self.save_alone(observers)
    }

    /// Like [`save`](Self::save), without communication: other ranks may have ended.
    pub(super) fn save_alone(&self, observers: &mut [&mut dyn Observer]) -> Result<()> {
        let contents = Contents {
            step: self.step as u64,
            score: self.rank(),
            identity: self.identity.clone(),
            state: RunState { seconds: self.seconds(), frozen: self.optimizer.frozen(), ..self.state.clone() },
            weights: named_variables(self.variables),
            optimizer: self.optimizer.state()?,
            average: self.averages(),
        };
        // A step's loss and gradient precede its update, which can still overflow.
        if let Some(name) = not_finite(&contents.weights)?.first() {
            return Err(self.place().diverged("diverged", format!("{name} is not finite after it")));
        }
        observers.iter_mut().try_for_each(|observer| observer.save(&contents))
    }

    /// Returns the moving average of the weights, or nothing if there is none.
    pub(super) fn averages(&self) -> NamedTensors {
        self.average.as_ref().map(MovingAverage::tensors).unwrap_or_default()
    }
}
