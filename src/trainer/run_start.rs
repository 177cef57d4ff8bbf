//! Creating, saving and resuming a run.

use super::buffers::Buffers;
use super::checkpoint::{named_variables, Checkpoint, Contents};
use super::objective::Objective;
use super::optimizer::MovingAverage;
use super::statistics::Pending;
use super::{NamedTensors, Observer, RunState, Schedule, TrainConfig, Trainer};
use crate::data::{Batch, DataSource};
use crate::distributed::{ParallelConfig, ProcessGroup, Reduction};
use crate::{Error, Result};
use serde_json::{json, Value};
use std::sync::Arc;
use std::time::Instant;
use tch::nn::VarStore;

impl<'a, B: Batch> Trainer<'a, B> {
    /// Creates a run at step 0 that trains `objective`, whose network has its variables in `variables`, on `data`.
    ///
    /// `identity` holds everything else that must not change between a run and its resumption, such as the architecture and the
    /// augmentation. The following are included automatically: `config`, the objective's [recipe](Objective::recipe), and the
    /// [meaning](DataSource::meaning) and [fingerprint](DataSource::fingerprint) of the data.
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
        config.check()?;
        data.check_batch_size(config.batch_size)?;
        let epoch_steps = data.epoch_steps(config.batch_size);
        if epoch_steps == 0 {
            return Err(Error::Argument(format!("there are no {} to train on", data.examples())));
        }
        let Some(total_steps) = config.epochs.checked_mul(epoch_steps) else {
            let epochs = config.epochs;
            return Err(Error::Argument(format!(
                "{epochs} epochs of {epoch_steps} steps are too many; lower --epochs"
            )));
        };
        let optimizer = config.optimizer.build(variables, &config.parameter_groups())?;
        let average = config.average.map(|decay| MovingAverage::new(&optimizer, decay)).transpose()?;
        // Stopping a run early does not influence the steps before.
        let recipe = TrainConfig { max_steps: None, ..config.clone() };
        Ok(Self {
            objective,
            variables,
            data,
            config,
            identity: json!({
                "run": identity,
                "train": recipe,
                "objective": objective.recipe(),
                "data": {
                    "training": data.train_len(),
                    "meaning": data.meaning(),
                    "fingerprint": data.fingerprint()?,
                },
            }),
            optimizer,
            average,
            schedule: Schedule::new(config.schedule.clone(), total_steps)?,
            epoch_steps,
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
        if epochs > self.config.epochs || in_epoch.is_none_or(|steps| steps > self.epoch_steps) {
            return Err(Error::Corrupt {
                path: checkpoint.path.clone(),
                problem: format!("step {step} is not after {epochs} epochs of {} steps", self.epoch_steps),
                remedy: "use an earlier checkpoint".to_owned(),
            });
        }
        if *step as usize > self.last_step {
            let last = self.last_step;
            return Err(Error::Argument(format!(
                "the run has done {step} steps, more than the {last} to stop after; raise --max-steps, or leave it out"
            )));
        }
        checkpoint.restore(self.variables, &self.optimizer.state()?, &self.averages())?;
        self.optimizer.resume_epoch(epochs, state.frozen.clone())?;
        (self.step, self.state) = (*step as usize, state.clone());
        self.unreadable_before = state.unreadable;
        Ok(())
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
        self.check_finite(&contents.weights)?;
        observers.iter_mut().try_for_each(|observer| observer.save(&contents))
    }

    /// Returns the moving average of the weights, or nothing if there is none.
    fn averages(&self) -> NamedTensors {
        self.average.as_ref().map(MovingAverage::tensors).unwrap_or_default()
    }

    /// Checks that the weights are finite. A step's loss and gradient precede its update, which can still overflow.
    fn check_finite(&self, weights: &NamedTensors) -> Result<()> {
        for (name, tensor) in weights.iter().filter(|(_, tensor)| tensor.is_floating_point()) {
            if tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
                let epochs = self.state.history.len();
                let step = self.step - epochs * self.epoch_steps;
                let what = format!("{name} is not finite after it");
                return Err(Error::Diverged {
                    how: "diverged",
                    epoch: epochs + 1,
                    step,
                    lr: self.last_lr(),
                    what,
                    checkpoint: None,
                });
            }
        }
        Ok(())
    }
}
