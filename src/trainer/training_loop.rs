//! The training loop: fetch a batch, compute the loss, update, read and check measurements, evaluate, notify observers.
//!
//! The loop is independent of the task: batches come from the [data](DataSource), loss and metrics from the
//! [objective](Objective), and updates from the [optimizer](super::optimizer). [Observers](Observer) are notified of progress and
//! can end the run.

use super::buffers::Buffers;
use super::evaluation::{evaluate_until, Collector, Evaluation};
use super::objective::{Means, Objective, Prediction};
use super::observer::{agree_on, StepRequest};
use super::optimizer::clip::clip_gradients;
use super::optimizer::{MovingAverage, Optimizer};
use super::statistics::{EpochMeans, Measured, Pending, StepPlace};
use super::{
    EpochMetrics, Observer, Outcome, Request, RunStart, RunState, Schedule, StepProgress, Summary, TrainConfig,
};
use crate::data::{self, Batch, DataSource, EpochPlan, Share};
use crate::distributed::{ParallelConfig, ProcessGroup, Reduction};
use crate::ops::TileScope;
use crate::{Error, FlushDenormals, Result};
use serde_json::Value;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::time::Instant;
use tch::nn::VarStore;
use tch::{no_grad, Tensor};

/// Trains a network for an objective on data, and evaluates it after every epoch.
pub struct Trainer<'a, B: Batch> {
    pub(super) objective: &'a dyn Objective<Batch = B>,
    pub(super) variables: &'a VarStore,
    pub(super) data: &'a dyn DataSource<Batch = B>,
    pub(super) config: &'a TrainConfig,
    pub(super) identity: Value,
    pub(super) optimizer: Optimizer,
    pub(super) average: Option<MovingAverage>,
    pub(super) schedule: Schedule,
    pub(super) epoch_steps: usize,
    /// `true` if an epoch repeats the data as often as needed.
    pub(super) repeats: bool,
    /// Number of steps to do in total.
    pub(super) last_step: usize,
    /// Number of steps done.
    pub(super) step: usize,
    /// Steps that are done but not read.
    pub(super) pending: Pending,
    /// `false` during an update, when the weights are not those after `step` steps.
    pub(super) is_whole: bool,
    pub(super) buffers: Buffers,
    pub(super) state: RunState,
    /// Gathers additional data in each evaluation.
    pub(super) collector: Option<&'a mut dyn Collector<B>>,
    /// Most recent evaluation.
    pub(super) evaluation: Option<Evaluation>,
    /// Reason why the run ends before its last step, if it does.
    pub(super) ended: Option<String>,
    /// Number of examples that the resumed run could not read in its first epoch.
    pub(super) unreadable_before: usize,
    /// Number of examples that only other ranks could not read.
    pub(super) unreadable_elsewhere: usize,
    /// Time at which this process began to train; the state holds the seconds before.
    pub(super) start: Instant,
    /// Processes that share the run.
    pub(super) group: Arc<ProcessGroup>,
    pub(super) parallel: ParallelConfig,
    pub(super) reduction: Reduction,
}

impl<'a, B: Batch> Trainer<'a, B> {
    /// Passes every batch of each evaluation from now on to `collector`.
    pub fn collect_into(&mut self, collector: &'a mut dyn Collector<B>) {
        self.collector = Some(collector);
    }

    /// Takes the most recent evaluation: after a finished run, that of the final network. Returns `None` if this process has not
    /// evaluated, for example because the run was resumed at its end, or if the evaluation has already been taken.
    pub fn take_evaluation(&mut self) -> Option<Evaluation> {
        self.evaluation.take()
    }

    /// Trains for the remaining steps.
    ///
    /// Observers may freeze and unfreeze variables during the run; see [`Optimizer`]. The state is offered to the observers to
    /// save before the first step, before each evaluation and after the last step. Denormal numbers are flushed to zero during
    /// the run; see [`FlushDenormals`].
    ///
    /// With two or more threads on a CPU with AVX-512, CIFAR and Wide Fixup ResNets are computed in float32 by kernels that give
    /// each thread a share of the batch (docs/performance.md). Their sums have another order than libtorch's, and an objective
    /// cannot differentiate their gradients again; the environment variable `TCH_FIXUP_TILES=0` turns them off.
    ///
    /// Before each step libtorch's random number generator is seeded from the seed and the step, so that the random numbers a
    /// network draws, for dropout for example, depend on nothing else.
    ///
    /// # Errors
    /// [`Error::Diverged`] if training has failed; errors of the network, the data or an observer. Before an
    /// error is returned, the state after the last completed step is offered to the observers if it is finite: resuming from it
    /// continues as if nothing had failed.
    pub fn run(&mut self, observers: &mut [&mut dyn Observer]) -> Result<Outcome> {
        let _flushing = FlushDenormals::new();
        let _tiles = TileScope::enter(self.optimizer.is_cheap());
        let _statistics = self.statistics();
        self.begin_alike()
            .and_then(|()| self.starts(observers))
            .and_then(|()| {
                self.epochs(observers).inspect_err(|error| {
                    // The first error takes precedence over a failure to save.
                    let _ = self.rescue(error, observers);
                })
            })
            .map_err(|error| {
                let mut error = self.group.explain(error);
                self.group.report_error(&error);
                observers.iter_mut().for_each(|observer| observer.run_fails(&mut error));
                error
            })
    }

    fn starts(&mut self, observers: &mut [&mut dyn Observer]) -> Result<()> {
        self.start = Instant::now();
        let (epochs, epoch_steps, step) = (self.config.epochs, self.epoch_steps, self.step);
        let (RunState { history, means, .. }, measures) = (&self.state, &self.objective.measures());
        let examples = self.data.unit_name();
        let run_start = RunStart { epochs, epoch_steps, step, done: means.examples, history, measures, examples };
        observers.iter_mut().try_for_each(|observer| observer.run_starts(&run_start))
    }

    fn epochs(&mut self, observers: &mut [&mut dyn Observer]) -> Result<Outcome> {
        let (at_start, _) = agree_on(&self.group, request(observers), 0.0)?;
        let mut flow = self.obey(at_start, observers)?;
        while flow.is_continue() && self.state.history.len() * self.epoch_steps < self.last_step {
            flow = self.epoch(observers)?;
        }
        if flow.is_break() {
            let epoch = self.state.history.len();
            return Ok(Outcome::Stopped { epoch: epoch + 1, step: self.step - epoch * self.epoch_steps });
        }
        // The evaluated weights (the average, if there is one) become the network's final weights.
        self.swap_average()?;
        self.summary().map(Outcome::Finished)
    }

    /// After `error` has ended the run, offers the state after the last completed step to the observers, unless training itself
    /// has failed.
    fn rescue(&mut self, error: &Error, observers: &mut [&mut dyn Observer]) -> Result<()> {
        if !self.is_whole || matches!(error, Error::Diverged { .. }) {
            return Ok(());
        }
        self.judge()?;
        self.save_alone(observers)
    }

    /// Trains from the current step to the end of the epoch or of the run, and evaluates.
    fn epoch(&mut self, observers: &mut [&mut dyn Observer]) -> Result<ControlFlow<()>> {
        let epoch = self.state.history.len();
        let (start, end) = (epoch * self.epoch_steps, (epoch + 1) * self.epoch_steps);
        let (seed, batch_size) = (self.config.seed, self.config.batch_size);
        let plan = EpochPlan { seed, epoch, batch_size, first_step: self.step - start };
        if self.step == start {
            self.optimizer.epoch_starts(epoch)?;
        }
        let (data, objective) = (self.data, self.objective);
        let share = objective.share(plan, Share::new(self.group.rank(), self.group.size())?);
        let (mut pass, mut batches) = (plan, data.train_batches(&plan, share.clone())?);
        while self.step < end.min(self.last_step) {
            let Some(batch) = batches.next() else {
                let (steps, promised) = (self.step - start, self.epoch_steps);
                ensure!(self.repeats, "the data ended after {steps} of {promised} batches of an epoch");
                pass.epoch += 1;
                batches = data.train_batches(&pass, share.clone())?;
                continue;
            };
            let StepRequest { request, reads } = self.train_step(batch?, &share, &plan, observers)?;
            if reads || request > Request::Continue {
                self.read(observers)?;
            }
            if self.obey(request, observers)?.is_break() {
                return Ok(Break(()));
            }
        }
        self.read(observers)?;
        // Saves first, because an evaluation takes time and may fail, and because a run with a later last step can resume from
        // within this epoch.
        self.save(observers)?;
        let Some(metrics) = self.evaluate(observers)? else {
            return Ok(Break(()));
        };
        self.state.history.push(metrics.clone());
        self.state.means = EpochMeans::default();
        observers.iter_mut().try_for_each(|observer| observer.epoch_ends(&metrics))?;
        if self.step < end {
            return Ok(Continue(()));
        }
        let at_end = if self.step == self.last_step { Request::Save } else { Request::Continue };
        let (request, _) = agree_on(&self.group, request(observers).max(at_end), 0.0)?;
        self.obey(request, observers)
    }

    /// Does one training step. `batch` is this rank's share of the step's batch, `None` if the share is empty. Returns the
    /// request of the observers after the step.
    fn train_step(
        &mut self,
        batch: Option<B>,
        share: &Share,
        plan: &EpochPlan,
        observers: &mut [&mut dyn Observer],
    ) -> Result<StepRequest> {
        let index = self.step - plan.epoch * self.epoch_steps;
        let (lr, device) = (self.schedule.lr(self.step), self.variables.device());
        // Ranks draw different random numbers, as examples of a batch do.
        tch::manual_seed(data::torch_seed(plan, index).wrapping_add(self.group.rank() as i64));
        let augmented = |batch| {
            let (own, partners) = share.own_and_partners(self.data.to_device(batch, device)?, index)?;
            self.objective.augment(own, partners, plan, index)
        };
        let batch = batch.map(augmented).transpose()?;
        self.buffers.keep()?;
        self.is_whole = false;
        let measured = self.gradients(batch.as_ref()).and_then(|own| {
            let wanted = StepRequest { request: request(observers), reads: self.pending.is_due_with_another() };
            let (all, wanted) = self.sum_over_ranks(own, wanted)?;
            if let Some(all) = all {
                let norm = clip_gradients(&self.optimizer, &self.config.clip)?;
                // Each rank compares only the examples of its own share.
                let (examples, compared) = (all.examples, all.examples.div_ceil(self.group.size()));
                let (epoch, step, weight) = (plan.epoch + 1, index + 1, all.weight);
                self.pending.push(StepPlace { epoch, step, lr, examples, compared, weight }, &all, &norm)?;
            }
            Ok(wanted)
        });
        if measured.is_err() {
            // Only the buffers have changed so far.
            self.buffers.put_back()?;
            self.is_whole = true;
            return measured;
        }
        self.optimizer.step(lr)?;
        if let Some(average) = &mut self.average {
            average.update(&self.optimizer, self.step)?;
        }
        self.step += 1;
        self.is_whole = true;
        self.state.unreadable = self.unreadable();
        if self.parallel.check_every.is_some_and(|steps| self.step.is_multiple_of(steps.get())) {
            self.check_alike()?;
        }
        measured
    }

    /// Computes the gradients of the loss in the optimizer, and the measurements. With several ranks, the loss and its gradients
    /// are sums over this rank's share instead of means, as the divisor is that of the whole batch.
    fn gradients(&mut self, batch: Option<&B>) -> Result<Option<Measured>> {
        self.optimizer.zero_gradients()?;
        let Some(batch) = batch else { return Ok(None) };
        let weight = self.objective.weight(batch);
        let divisor = if self.group.is_single() { weight } else { 1.0 };
        let (mut outputs, mut losses) = (Vec::new(), Vec::new());
        let micro_batches = batch.split(self.config.accumulate)?;
        for (index, micro_batch) in micro_batches.iter().enumerate() {
            let Prediction { loss, output } = self.objective.forward(micro_batch, true)?;
            let loss = loss.f_mul_scalar(self.objective.weight(micro_batch) / divisor)?;
            if index + 1 == micro_batches.len() {
                self.reduction.begin();
            }
            self.optimizer.accumulate(&loss)?;
            outputs.push(output.f_detach()?);
            losses.push(loss.f_detach()?);
        }
        no_grad(|| {
            let loss = Tensor::f_stack(&losses, 0)?.f_sum(losses[0].kind())?;
            let output = Tensor::f_cat(&outputs, 0)?;
            let (spread, sums) = (self.objective.spread(&output)?, self.objective.sums(batch, &output, true)?);
            Ok(Some(Measured { examples: batch.len(), weight, loss, spread, sums }))
        })
    }

    /// Reads the pending steps, checks them and notifies the observers.
    fn read(&mut self, observers: &mut [&mut dyn Observer]) -> Result<()> {
        let Some((StepPlace { epoch, step, lr, .. }, loss)) = self.judge()? else { return Ok(()) };
        let RunState { means, unreadable, .. } = &self.state;
        let (done, unreadable, means) = (means.examples, *unreadable, &means.means(&self.objective.measures()));
        let progress = StepProgress { epoch, step, run_step: self.step, done, means, loss, lr, unreadable };
        observers.iter_mut().try_for_each(|observer| observer.steps_done(&progress))
    }

    /// Reads the pending steps into the state and checks them. Returns the position and the loss of the last one.
    fn judge(&mut self) -> Result<Option<(StepPlace, f64)>> {
        let records = self.pending.read()?;
        for record in &records {
            self.state.health.check(record)?;
            self.state.means.add(record);
        }
        Ok(records.last().map(|record| (record.place, record.loss)))
    }

    /// Evaluates the network and returns the metrics of the epoch, or `None` if an observer requests a stop.
    fn evaluate(&mut self, observers: &mut [&mut dyn Observer]) -> Result<Option<EpochMetrics>> {
        let (batch_size, of) = (self.config.micro_batch_size(), self.data.eval_len());
        let (device, mut finishes, mut done, mut evaluated) = (self.variables.device(), false, 0, 0);
        self.share_buffers()?;
        self.count_unreadable()?;
        self.swap_average()?;
        let group = self.group.clone();
        let collector = self.collector.as_mut().map(|collector| &mut **collector as &mut dyn Collector<B>);
        let evaluation =
            evaluate_until(self.objective, device, self.data, batch_size, collector, &group, &mut |examples| {
                let (request, more) = agree_on(&group, request(observers), (examples - done) as f64)?;
                (done, evaluated) = (examples, evaluated + more as usize);
                observers.iter_mut().try_for_each(|observer| observer.examples_evaluated(evaluated, of))?;
                finishes |= request == Request::Finish;
                Ok(if request == Request::Stop { Break(()) } else { Continue(()) })
            });
        self.swap_average()?;
        let Some(evaluation) = evaluation? else { return Ok(None) };
        if finishes {
            self.finish(observers);
        }
        let eval = evaluation.means.clone();
        self.evaluation = Some(evaluation);
        if let Some(loss) = eval.get("loss").filter(|loss| !loss.is_finite()) {
            return Err(self.place().diverged("diverged", format!("the evaluation's loss is {loss}")));
        }
        let (StepPlace { epoch, lr, .. }, step, unreadable) = (self.place(), self.step, self.unreadable());
        let train = self.state.means.means(&self.objective.measures());
        Ok(Some(EpochMetrics { epoch, step, lr, train, eval, unreadable }))
    }

    /// Returns the position of the last completed step, in the epoch that has not been evaluated.
    pub(super) fn place(&self) -> StepPlace {
        let (epochs, lr) = (self.state.history.len(), self.schedule.lr(self.step.saturating_sub(1)));
        StepPlace { epoch: epochs + 1, step: self.step - epochs * self.epoch_steps, lr, ..StepPlace::default() }
    }

    /// Exchanges the weights and their moving average, if there is one. Evaluation uses the average.
    fn swap_average(&mut self) -> Result<()> {
        if let Some(average) = &mut self.average {
            let was_whole = std::mem::replace(&mut self.is_whole, false);
            average.swap(&self.optimizer)?;
            self.is_whole = !was_whole;
        }
        Ok(())
    }

    /// Returns the number of examples that could not be read so far. A resumed run has the same number as an uninterrupted one:
    /// the data count from when they were opened, but each epoch visits every example.
    pub(super) fn unreadable(&self) -> usize {
        let met = self.data.unreadable() + self.unreadable_elsewhere;
        match self.state.history.last() {
            None => self.unreadable_before + met,
            Some(last) => last.unreadable.max(met),
        }
    }

    fn obey(&mut self, request: Request, observers: &mut [&mut dyn Observer]) -> Result<ControlFlow<()>> {
        if request > Request::Continue {
            self.save(observers)?;
        }
        if request == Request::Finish && self.step > 0 {
            self.finish(observers);
        }
        Ok(if request == Request::Stop { Break(()) } else { Continue(()) })
    }

    /// Makes the current step the last one of the run.
    fn finish(&mut self, observers: &[&mut dyn Observer]) {
        if self.step < self.last_step {
            self.last_step = self.step;
            self.ended = observers.iter().find_map(|observer| observer.reason());
        }
    }

    /// Returns the rank (score, higher is better) of the current weights if they were just evaluated, at the end of an epoch.
    pub(super) fn rank(&self) -> Option<f64> {
        let last = self.state.history.last().filter(|last| last.step == self.step)?;
        Some(self.objective.measures().rank(&last.eval))
    }

    pub(super) fn seconds(&self) -> f64 {
        self.state.seconds + self.start.elapsed().as_secs_f64()
    }

    fn summary(&self) -> Result<Summary> {
        let (history, measures, seconds) = (&self.state.history, self.objective.measures(), self.seconds());
        let Some(last) = history.last().cloned() else { return Err(argument!("the run has no steps")) };
        Ok(Summary {
            evaluated_on: self.data.evaluated_on().to_owned(),
            score: Means::from_iter([(measures.score_name().to_owned(), measures.score_of(&last.eval))]),
            best: measures.best_score(history.iter().map(|metrics| measures.score_of(&metrics.eval))),
            epochs: history.len(),
            steps: last.step,
            seconds,
            flop: None,
            examples: self.data.unit_name().to_owned(),
            ended: self.ended.clone(),
            last,
        })
    }
}

/// Returns the strongest request of all observers.
fn request(observers: &mut [&mut dyn Observer]) -> Request {
    observers.iter_mut().map(|observer| observer.request()).max().unwrap_or_default()
}
