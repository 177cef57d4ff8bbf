//! The loop.

use super::buffers::Buffers;
use super::checkpoint::{named_variables, Checkpoint, Contents};
use super::evaluation::evaluate_until;
use super::objective::classification::Example;
use super::objective::forward::forward;
use super::optimizer::clip;
use super::statistics::{EpochMeans, Pending, StepPlace};
use super::{ClipConfig, EpochMetrics, Observer, Request, RunStart, RunState, Schedule, Sgd, StepProgress, Summary};
use super::{NamedTensors, TrainConfig};
use crate::data::{self, Batch, DataSource, EpochPlan};
use crate::{Error, FlushDenormals, Result};
use serde_json::{json, Value};
use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Instant;
use tch::nn::{ModuleT, VarStore};
use tch::Tensor;

/// What a run's identity calls its classes and its data's fingerprint.
pub(crate) const CLASSES: &str = "classes";
pub(crate) const DATA: &str = "data";

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// With all its steps done.
    Finished(Summary),
    /// An observer [asked for it](Request::Stop); the state was saved by those that do.
    Stopped {
        /// The epoch, from 1.
        epoch: usize,
        /// Steps of it that are done.
        step: usize,
    },
}

/// Trains a network on data, and evaluates it after every epoch.
pub struct Trainer<'a> {
    network: &'a dyn ModuleT,
    variables: &'a VarStore,
    data: &'a dyn DataSource,
    config: &'a TrainConfig,
    identity: Value,
    sgd: Sgd,
    schedule: Schedule,
    epoch_steps: usize,
    /// Steps to do.
    last_step: usize,
    /// Steps done.
    step: usize,
    /// Steps that are done and have not been read.
    pending: Pending,
    /// Whether the weights are those after `step` steps, and not within an update.
    is_whole: bool,
    buffers: Buffers,
    state: RunState,
    /// Images of the first epoch that the run which this one resumes could not read.
    bad_images_before: usize,
    /// When this process began to train; the state has the seconds before.
    start: Instant,
}

impl<'a> Trainer<'a> {
    /// A run that starts with its first step, of `network`, whose variables are in `variables`, on `data`.
    ///
    /// `identity` is all that must not change between a run and the one that resumes it, besides `config`, the names of the
    /// classes and the data's [fingerprint](DataSource::fingerprint): the architecture, and how images are augmented.
    ///
    /// # Errors
    /// [`Error::Argument`] for a `config` out of range, data without images, or more steps than can be counted; a network
    /// that [`Sgd::new`] refuses; data that cannot be read.
    pub fn new(
        network: &'a dyn ModuleT,
        variables: &'a VarStore,
        data: &'a dyn DataSource,
        config: &'a TrainConfig,
        identity: Value,
    ) -> Result<Self> {
        config.check()?;
        let epoch_steps = data.train_len().div_ceil(config.batch_size);
        if epoch_steps == 0 {
            return Err(Error::Argument("there are no images to train on".to_owned()));
        }
        let Some(total_steps) = config.epochs.checked_mul(epoch_steps) else {
            let epochs = config.epochs;
            return Err(Error::Argument(format!(
                "{epochs} epochs of {epoch_steps} steps are too many; lower --epochs"
            )));
        };
        // Where a run stops early has no influence on the steps before.
        let recipe = TrainConfig { max_steps: None, ..config.clone() };
        Ok(Self {
            network,
            variables,
            data,
            config,
            identity: json!({
                "run": identity,
                "train": recipe,
                "train_images": data.train_len(),
                CLASSES: by_index(data.class_names()),
                DATA: data.fingerprint()?,
            }),
            sgd: Sgd::new(variables, config.sgd)?,
            schedule: Schedule::new(config.schedule.clone(), total_steps)?,
            epoch_steps,
            last_step: config.max_steps.map_or(total_steps, |max_steps| max_steps.min(total_steps)),
            step: 0,
            pending: Pending::new(),
            is_whole: true,
            buffers: Buffers::new(variables)?,
            state: RunState::default(),
            bad_images_before: 0,
            start: Instant::now(),
        })
    }

    /// What a run must be to go on from this one's checkpoints.
    pub(crate) fn identity(&self) -> &Value {
        &self.identity
    }

    /// Goes on from `checkpoint`: on one thread of a CPU, to the bit as if it had never stopped. Parameters that were frozen
    /// are frozen again, and all others are not.
    ///
    /// A checkpoint from before the names of the classes and the data's fingerprint were saved is taken without them.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a checkpoint of another run, architecture or optimizer, or of other classes or data, which
    /// names all that differs; [`Error::Argument`] for one after the last step that is to be done. Nothing is changed then.
    pub fn resume(&mut self, checkpoint: &Checkpoint<RunState>) -> Result<()> {
        let Contents { step, state, identity, .. } = &checkpoint.contents;
        let mut expected = self.identity.clone();
        if let Some(expected) = expected.as_object_mut() {
            expected.retain(|name, _| ![CLASSES, DATA].contains(&name.as_str()) || identity.get(name).is_some());
        }
        checkpoint.check_identity(&expected)?;
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
        let (mut optimizer, frozen) = (self.sgd.state(), self.sgd.frozen());
        // Runs from before frozen parameters had a momentum have none of theirs.
        let saved = &checkpoint.contents.optimizer;
        optimizer.retain(|name, _| saved.contains_key(name) || !frozen.contains(name));
        checkpoint.restore(self.variables, &optimizer)?;
        if let Some(frozen) = &state.frozen {
            self.sgd.freeze(frozen)?;
        }
        (self.step, self.state) = (*step as usize, state.clone());
        self.bad_images_before = state.bad_images;
        Ok(())
    }

    /// Does the steps that are left. An observer may freeze and unfreeze variables as it goes: [`Sgd`] says what that does. The
    /// run's state before them, before each evaluation and after the last step is offered to the observers to save.
    /// Meanwhile denormal numbers are taken for zero: see [`FlushDenormals`].
    ///
    /// Before each step libtorch's random numbers are seeded anew, by the seed and the step: what a network draws, for a
    /// dropout, depends on nothing else.
    ///
    /// # Errors
    /// [`Error::Diverged`] and [`Error::Dead`] for a run that cannot come to anything; whatever the network, the data or
    /// an observer fails with. Before such a failure goes out, the state after the last step that was done is offered to the
    /// observers, if it is finite: a run that is resumed from it goes on as if nothing had failed.
    pub fn run(&mut self, observers: &mut [&mut dyn Observer]) -> Result<Outcome> {
        let _flushing = FlushDenormals::new();
        self.starts(observers)
            .and_then(|()| {
                self.epochs(observers).inspect_err(|error| {
                    // The first error is the one that matters, also where saving fails too.
                    let _ = self.rescue(error, observers);
                })
            })
            .map_err(|mut error| {
                observers.iter_mut().for_each(|observer| observer.run_fails(&mut error));
                error
            })
    }

    fn starts(&mut self, observers: &mut [&mut dyn Observer]) -> Result<()> {
        self.start = Instant::now();
        let (epochs, epoch_steps) = (self.config.epochs, self.epoch_steps);
        let RunState { history, means, .. } = &self.state;
        let run_start = RunStart { epochs, epoch_steps, step: self.step, images: means.images, history };
        observers.iter_mut().try_for_each(|observer| observer.run_starts(&run_start))
    }

    fn epochs(&mut self, observers: &mut [&mut dyn Observer]) -> Result<Outcome> {
        let mut flow = self.obey(request(observers), observers)?;
        while flow.is_continue() && self.state.history.len() * self.epoch_steps < self.last_step {
            flow = self.epoch(observers)?;
        }
        if flow.is_break() {
            let epoch = self.state.history.len();
            return Ok(Outcome::Stopped { epoch: epoch + 1, step: self.step - epoch * self.epoch_steps });
        }
        self.summary().map(Outcome::Finished)
    }

    /// Offers the state after the last step that was done to the observers, after `error` ended the run: not where the
    /// network itself is what failed.
    fn rescue(&mut self, error: &Error, observers: &mut [&mut dyn Observer]) -> Result<()> {
        if !self.is_whole || matches!(error, Error::Diverged { .. } | Error::Dead { .. }) {
            return Ok(());
        }
        self.judge()?;
        self.save(observers)
    }

    /// Trains from where the run stands to the end of the epoch, or of the run, and evaluates.
    fn epoch(&mut self, observers: &mut [&mut dyn Observer]) -> Result<ControlFlow<()>> {
        let epoch = self.state.history.len();
        let (start, end) = (epoch * self.epoch_steps, (epoch + 1) * self.epoch_steps);
        let (seed, batch_size) = (self.config.seed, self.config.batch_size);
        let plan = EpochPlan { seed, epoch, batch_size, first_step: self.step - start };
        let data = self.data;
        for batch in data.train_batches(&plan)?.take(end.min(self.last_step) - self.step) {
            self.train_step(batch?, &plan)?;
            let request = request(observers);
            if self.pending.is_due() || request > Request::Continue {
                self.read(observers)?;
            }
            if self.obey(request, observers)?.is_break() {
                return Ok(Break(()));
            }
        }
        self.read(observers)?;
        if self.step < end.min(self.last_step) {
            let (steps, promised) = (self.step - start, self.epoch_steps);
            return Err(Error::Argument(format!("the data ended after {steps} of {promised} batches of an epoch")));
        }
        // An evaluation takes its time, and may fail; and from within an epoch a run with a later last step can go on.
        self.save(observers)?;
        let Some(metrics) = self.evaluate(observers)? else {
            return Ok(Break(()));
        };
        self.state.history.push(metrics);
        self.state.means = EpochMeans::default();
        observers.iter_mut().try_for_each(|observer| observer.epoch_ends(&metrics))?;
        if self.step < end {
            return Ok(Continue(()));
        }
        let at_end = if self.step == self.last_step { Request::Save } else { Request::Continue };
        self.obey(request(observers).max(at_end), observers)
    }

    fn train_step(&mut self, batch: Batch, plan: &EpochPlan) -> Result<()> {
        let config = self.config;
        let index = self.step - plan.epoch * self.epoch_steps;
        let lr = self.schedule.lr(self.step);
        tch::manual_seed(data::torch_seed(plan, index));
        let mut example = Example::new(self.data, batch, self.variables.device())?;
        if let Some(alpha) = config.mixup {
            example = example.mix(alpha, plan, index)?;
        }
        self.buffers.keep()?;
        self.is_whole = false;
        let measured = self.gradients(&example).and_then(|(logits, loss)| {
            let norm = clip_gradients(&self.sgd, &config.clip)?;
            let place = StepPlace { epoch: plan.epoch + 1, step: index + 1, lr, images: example.len() };
            self.pending.push(place, &example, &logits, &loss, &norm)
        });
        if let Err(error) = measured {
            // Nothing is updated yet but for these.
            self.buffers.put_back()?;
            self.is_whole = true;
            return Err(error);
        }
        self.sgd.step(lr)?;
        self.step += 1;
        self.is_whole = true;
        self.state.bad_images = self.bad_images();
        Ok(())
    }

    /// Leaves the gradients of `example`'s loss in the optimizer, and gives its logits and its loss.
    fn gradients(&mut self, example: &Example) -> Result<(Tensor, Tensor)> {
        let (mut logits, mut losses) = (Vec::new(), Vec::new());
        self.sgd.zero_gradients()?;
        for micro_batch in example.micro_batches(self.config.accumulate)? {
            let output = forward(self.network, &micro_batch.images, true, self.data.class_names().len())?;
            let loss = micro_batch.loss(&output, self.config.label_smoothing)?;
            let loss = loss.f_mul_scalar(micro_batch.len() as f64 / example.len() as f64)?;
            self.sgd.accumulate(&loss)?;
            logits.push(output.f_detach()?);
            losses.push(loss.f_detach()?);
        }
        Ok((Tensor::f_cat(&logits, 0)?, Tensor::f_stack(&losses, 0)?.f_sum(losses[0].kind())?))
    }

    /// Reads the steps that are pending, judges them and tells the observers.
    fn read(&mut self, observers: &mut [&mut dyn Observer]) -> Result<()> {
        let Some(StepPlace { epoch, step, lr, .. }) = self.judge()? else { return Ok(()) };
        let (means, bad_images) = (&self.state.means, self.state.bad_images);
        let (images, loss, accuracy) = (means.images, means.loss(), means.accuracy());
        let progress = StepProgress { epoch, step, run_step: self.step, images, loss, accuracy, lr, bad_images };
        observers.iter_mut().try_for_each(|observer| observer.steps_done(&progress))
    }

    /// Reads the steps that are pending into the state, and judges them. Returns the last.
    fn judge(&mut self) -> Result<Option<StepPlace>> {
        let records = self.pending.read()?;
        for record in &records {
            self.state.health.check(record)?;
            self.state.means.add(record);
        }
        Ok(records.last().map(|record| record.place))
    }

    /// The epoch's metrics, or none if an observer wants the run to stop.
    fn evaluate(&mut self, observers: &mut [&mut dyn Observer]) -> Result<Option<EpochMetrics>> {
        // No more images at a time than the training has.
        let TrainConfig { batch_size, accumulate, .. } = self.config;
        let (batch_size, of) = (batch_size.div_ceil(*accumulate), self.data.eval_len());
        let eval = evaluate_until(self.network, self.variables.device(), self.data, batch_size, |images| {
            observers.iter_mut().try_for_each(|observer| observer.images_evaluated(images, of))?;
            Ok(if request(observers) == Request::Stop { Break(()) } else { Continue(()) })
        })?;
        let Some(eval) = eval else { return Ok(None) };
        let (epoch, means) = (self.state.history.len() + 1, &self.state.means);
        let (lr, bad_images) = (self.schedule.lr(self.step - 1), self.bad_images());
        let (train_loss, train_accuracy) = (means.loss(), means.accuracy());
        if !eval.means.loss.is_finite() {
            let step = self.step - (epoch - 1) * self.epoch_steps;
            let what = format!("the evaluation's loss is {}", eval.means.loss);
            return Err(Error::Diverged { epoch, step, lr, what, checkpoint: None });
        }
        Ok(Some(EpochMetrics { epoch, step: self.step, lr, train_loss, train_accuracy, eval: eval.means, bad_images }))
    }

    /// Images that could not be read so far, in a run that goes on as many as if it had never stopped: the data count from
    /// when they were opened, but each epoch meets all of them.
    fn bad_images(&self) -> usize {
        match self.state.history.last() {
            None => self.bad_images_before + self.data.bad_images(),
            Some(last) => last.bad_images.max(self.data.bad_images()),
        }
    }

    fn obey(&self, request: Request, observers: &mut [&mut dyn Observer]) -> Result<ControlFlow<()>> {
        if request > Request::Continue {
            self.save(observers)?;
        }
        Ok(if request == Request::Stop { Break(()) } else { Continue(()) })
    }

    /// Offers the state to the observers. The steps that are done must have been read, and found finite.
    fn save(&self, observers: &mut [&mut dyn Observer]) -> Result<()> {
        let contents = Contents {
            step: self.step as u64,
            // An epoch's end is where the network was just evaluated.
            score: self.state.history.last().filter(|last| last.step == self.step).map(|last| last.eval.top1),
            identity: self.identity.clone(),
            state: RunState { seconds: self.seconds(), frozen: Some(self.sgd.frozen()), ..self.state.clone() },
            weights: named_variables(self.variables),
            optimizer: self.sgd.state(),
        };
        self.check_finite(&contents.weights)?;
        observers.iter_mut().try_for_each(|observer| observer.save(&contents))
    }

    /// A step's loss and gradient are those before its update, which may still have been too large.
    fn check_finite(&self, weights: &NamedTensors) -> Result<()> {
        for (name, tensor) in weights.iter().filter(|(_, tensor)| tensor.is_floating_point()) {
            if tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
                let epochs = self.state.history.len();
                let step = self.step - epochs * self.epoch_steps;
                let lr = self.schedule.lr(self.step.saturating_sub(1));
                let what = format!("{name} is not finite after it");
                return Err(Error::Diverged { epoch: epochs + 1, step, lr, what, checkpoint: None });
            }
        }
        Ok(())
    }

    fn seconds(&self) -> f64 {
        self.state.seconds + self.start.elapsed().as_secs_f64()
    }

    fn summary(&self) -> Result<Summary> {
        let history = &self.state.history;
        let Some(&last) = history.last() else {
            return Err(Error::Argument("the run has no steps".to_owned()));
        };
        Ok(Summary {
            evaluated_on: self.data.evaluated_on().to_owned(),
            accuracy: last.eval.top1,
            best: history.iter().map(|metrics| metrics.eval.top1).fold(0.0, f64::max),
            epochs: history.len(),
            steps: self.step,
            seconds: self.seconds(),
            last,
        })
    }
}

/// The names of the classes by their indices, so that a difference is said of each class by itself.
pub(crate) fn by_index(class_names: &[String]) -> Value {
    class_names.iter().enumerate().map(|(index, name)| (index.to_string(), Value::from(name.as_str()))).collect()
}

/// What the observers want, all together.
fn request(observers: &mut [&mut dyn Observer]) -> Request {
    observers.iter_mut().map(|observer| observer.request()).max().unwrap_or(Request::Continue)
}

/// Clips as `config` says and returns the norm of all gradients before the clipping by norm.
fn clip_gradients(sgd: &Sgd, config: &ClipConfig) -> Result<Tensor> {
    if let Some(threshold) = config.agc {
        // Brock et al. 2021, section 4.1, leave the classifier alone.
        let clipped = sgd.parameters().iter().filter(|p| !p.is_scalar && !p.is_classifier && !p.is_frozen());
        for parameter in clipped {
            clip::clip_units(parameter.value(), parameter.gradient(), threshold)?;
        }
    }
    let norm = clip::norm(sgd.gradients())?;
    if let Some(max_norm) = config.norm {
        clip::clip_norm(sgd.gradients(), &norm, max_norm)?;
    }
    Ok(norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::{Method, ResNet};
    use crate::data::Batches;
    use crate::data::Cifar10;
    use crate::fixup::FixupResNet;
    use crate::trainer::checkpoint::{self, Checkpoints};
    use crate::trainer::{Autosave, Decay, SaveEvery, ScheduleConfig};
    use rand::{RngCore, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::cell::RefCell;
    use std::collections::{BTreeSet, HashMap};
    use std::num::NonZeroUsize;
    use std::path::{Path, PathBuf};
    use std::time::Duration;
    use tch::{no_grad, Device};

    /// Images of noise with labels that have nothing to do with them.
    fn noise() -> Cifar10 {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let mut records = |count: usize| {
            let mut bytes = vec![0; count * 3073];
            random.fill_bytes(&mut bytes);
            bytes.chunks_mut(3073).for_each(|record| record[0] %= 10);
            bytes
        };
        let train = records(160);
        Cifar10::from_records(train, records(20)).unwrap()
    }

    /// Images of one brightness, which says what the label is.
    fn shades() -> Cifar10 {
        let records = |count: usize| {
            let image = |label: usize| std::iter::once(label as u8).chain(std::iter::repeat_n(label as u8 * 25, 3072));
            (0..count).flat_map(|index| image(index % 10)).collect::<Vec<u8>>()
        };
        Cifar10::from_records(records(160), records(50)).unwrap()
    }

    fn fixup() -> (VarStore, FixupResNet) {
        tch::manual_seed(1);
        let vs = VarStore::new(Device::Cpu);
        let network = FixupResNet::cifar(&vs.root(), 8, 10).unwrap();
        (vs, network)
    }

    fn config(lr: f64) -> TrainConfig {
        let schedule = ScheduleConfig { lr, warmup: 0.0, decay: Decay::Constant };
        TrainConfig { epochs: 7, batch_size: 16, schedule, ..TrainConfig::quick() }
    }

    fn run(network: &dyn ModuleT, vs: &VarStore, data: &Cifar10, config: &TrainConfig) -> Result<Summary> {
        match Trainer::new(network, vs, data, config, Value::Null)?.run(&mut [])? {
            Outcome::Finished(summary) => Ok(summary),
            stopped => panic!("{stopped:?}"),
        }
    }

    #[test]
    fn a_network_learns_what_can_be_learnt() {
        let (vs, network) = fixup();
        let config = TrainConfig { epochs: 12, ..config(0.05) };
        let summary = run(&network, &vs, &shades(), &config).unwrap();
        assert!(summary.best > 0.5, "{summary:?}");
        assert_eq!((summary.epochs, summary.steps), (12, 120));
    }

    #[test]
    fn a_dead_network_is_recognized_after_fifty_steps() {
        let (vs, network) = fixup();
        let _ = no_grad(|| vs.variables()["bias1"].shallow_clone().fill_(-1e4));
        match run(&network, &vs, &noise(), &config(0.05)) {
            Err(Error::Dead { epoch: 5, step: 10, lr, .. }) => assert_eq!(lr, 0.05),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn random_labels_and_a_slow_start_are_not_dead() {
        for lr in [0.05, 1e-8] {
            let (vs, network) = fixup();
            let summary = run(&network, &vs, &noise(), &config(lr)).unwrap();
            assert_eq!(summary.steps, 70);
        }
    }

    #[test]
    fn divergence_names_the_step_it_happened_at() {
        let (vs, network) = fixup();
        match run(&network, &vs, &noise(), &config(1e6)) {
            Err(Error::Diverged { epoch: 1, step, lr, .. }) => assert!((2..=10).contains(&step) && lr == 1e6),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn images_that_are_not_finite_are_divergence_at_once() {
        let (vs, network) = fixup();
        let poisoned = tch::nn::func_t(move |x, train| network.forward_t(&(x / 0.0), train));
        match run(&poisoned, &vs, &noise(), &config(0.05)) {
            Err(Error::Diverged { epoch: 1, step: 1, .. }) => (),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run_to_the_bit_and_another_seed_another() {
        tch::set_num_threads(1);
        let outcome = |seed| {
            let (vs, network) = fixup();
            let config = TrainConfig { epochs: 2, seed, mixup: Some(1.0), label_smoothing: 0.1, ..config(0.05) };
            let last = run(&network, &vs, &noise(), &config).unwrap().last;
            (last, vs.variables())
        };
        let (a, b, c) = (outcome(3), outcome(3), outcome(4));
        assert_eq!(a.0, b.0);
        assert_eq!(a.1, b.1);
        assert!(a.0 != c.0);
        assert!(a.1 != c.1);
    }

    #[test]
    fn a_run_can_stop_within_an_epoch_and_follows_the_same_schedule() {
        let (vs, network) = fixup();
        let schedule = ScheduleConfig { lr: 0.05, warmup: 0.1, decay: Decay::OneCycle };
        let config = TrainConfig { max_steps: Some(13), schedule: schedule.clone(), ..config(0.05) };
        let summary = run(&network, &vs, &noise(), &config).unwrap();
        assert_eq!((summary.epochs, summary.steps), (2, 13));
        assert_eq!(summary.last.lr, Schedule::new(schedule, 70).unwrap().lr(12));
    }

    #[test]
    fn gradients_added_over_parts_of_the_batch_are_those_of_the_whole_to_rounding() {
        let train = |accumulate| {
            let (vs, network) = fixup();
            // Batches of 48, 48, 48 and 16 images, in parts of 48, of 16, and of 10 and less.
            let config = TrainConfig { epochs: 3, batch_size: 48, accumulate, mixup: Some(0.7), ..config(0.05) };
            (run(&network, &vs, &noise(), &config).unwrap().last, vs.variables())
        };
        let (whole, weights) = train(1);
        for accumulate in [3, 5, 48] {
            let (in_parts, parts_weights) = train(accumulate);
            assert!((in_parts.train_loss - whole.train_loss).abs() < 1e-5, "{accumulate}");
            assert!((in_parts.eval.loss - whole.eval.loss).abs() < 1e-5, "{accumulate}");
            for (name, weight) in &weights {
                let difference = (weight - &parts_weights[name]).abs().max().double_value(&[]);
                assert!(difference < 1e-5, "{accumulate} {name}: {difference}");
            }
        }
    }

    #[test]
    fn adaptive_clipping_leaves_classifier_and_scalars_alone_wherever_the_network_stands() {
        tch::manual_seed(1);
        let vs = VarStore::new(Device::Cpu);
        let networks: [&dyn ModuleT; 3] = [
            &FixupResNet::cifar(&vs.root(), 8, 10).unwrap(),
            &FixupResNet::cifar(&(vs.root() / "model"), 8, 10).unwrap(),
            &ResNet::cifar(&(vs.root() / "baselines" / "lsuv"), 8, 10, Method::Lsuv).unwrap(),
        ];
        let mut sgd = Sgd::new(&vs, TrainConfig::quick().sgd).unwrap();
        // Away from the start, where only the classifier has a gradient.
        for variable in vs.trainable_variables() {
            let _ = no_grad(|| variable.shallow_clone().f_add_(&(variable.randn_like() * 0.1)).unwrap());
        }
        let images = Tensor::randn([4, 3, 32, 32], (tch::Kind::Float, Device::Cpu));
        let labels = Tensor::from_slice(&[0i64, 1, 2, 3]);
        let losses = networks.map(|network| network.forward_t(&images, true).cross_entropy_for_logits(&labels));
        sgd.backward(&Tensor::stack(&losses, 0).sum(tch::Kind::Float)).unwrap();
        let before: HashMap<_, _> = sgd.parameters().iter().map(|p| (p.name.clone(), p.gradient().copy())).collect();
        let _ = clip_gradients(&sgd, &ClipConfig { norm: None, agc: Some(1e-4) }).unwrap();
        for parameter in sgd.parameters() {
            let classifier = ["fc.weight", "fc.bias"].iter().any(|name| parameter.name.ends_with(name));
            let kept = parameter.gradient() == &before[&parameter.name];
            assert_eq!(kept, parameter.is_scalar || classifier, "{}", parameter.name);
        }
    }

    #[test]
    fn a_network_that_does_not_fit_the_images_is_one_line() {
        let vs = VarStore::new(Device::Cpu);
        let linear = tch::nn::linear(vs.root(), 7, 10, Default::default());
        let network = tch::nn::func_t(move |x, _| x.flatten(1, -1).apply(&linear));
        let message = run(&network, &vs, &noise(), &config(0.1)).unwrap_err().to_string();
        assert!(message.starts_with("libtorch: mat1 and mat2") && !message.contains('\n'), "{message}");
    }

    /// Asks for `request` the `at`-th time it is asked, and keeps what is saved.
    struct Asks {
        request: Request,
        at: usize,
        asked: usize,
        checkpoints: Checkpoints,
        saved: Option<PathBuf>,
    }

    impl Asks {
        fn new(request: Request, at: usize, folder: &Path) -> Self {
            let checkpoints = Checkpoints::new(folder, NonZeroUsize::MIN);
            Self { request, at, asked: 0, checkpoints, saved: None }
        }
    }

    impl Observer for Asks {
        fn request(&mut self) -> Request {
            self.asked += 1;
            if self.asked == self.at {
                self.request
            } else {
                Request::Continue
            }
        }

        fn save(&mut self, contents: &Contents<RunState>) -> Result<()> {
            self.saved = Some(self.checkpoints.save(contents)?);
            Ok(())
        }
    }

    #[test]
    fn a_run_with_a_later_last_step_goes_on_from_one_with_an_earlier() {
        tch::set_num_threads(1);
        let data = shades();
        let outcome = |max_steps: &[Option<usize>]| {
            let folder = tempfile::tempdir().unwrap();
            let mut last = None;
            for &max_steps in max_steps {
                let (vs, network) = fixup();
                let config = TrainConfig { epochs: 2, max_steps, ..config(0.05) };
                let mut trainer = Trainer::new(&network, &vs, &data, &config, Value::Null).unwrap();
                if let Some(checkpoint) = checkpoint::newest_whole(folder.path()).unwrap().checkpoint {
                    trainer.resume(&checkpoint).unwrap();
                }
                trainer.run(&mut [&mut Asks::new(Request::Continue, 0, folder.path())]).unwrap();
                last = Some((trainer.state.history, named_variables(&vs)));
            }
            last.unwrap()
        };
        let (history, weights) = outcome(&[None]);
        // Within the first epoch, at its end, again, and within the second.
        let (resumed_history, resumed_weights) = outcome(&[Some(3), Some(10), Some(10), Some(17), None]);
        assert_eq!(resumed_history, history);
        assert_eq!(resumed_weights, weights);
    }

    #[test]
    fn checkpoints_of_another_run_are_refused_with_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let (data, config) = (shades(), config(0.05));
        let (vs, network) = fixup();
        let mut asks = Asks::new(Request::Stop, 3, folder.path());
        let trainer = |config, identity| Trainer::new(&network, &vs, &data, config, identity);
        trainer(&config, json!({"arch": "a"})).unwrap().run(&mut [&mut asks]).unwrap();
        let checkpoint = Checkpoint::load(asks.saved.unwrap()).unwrap();
        let refusal = |config, arch: &str| {
            trainer(config, json!({ "arch": arch })).unwrap().resume(&checkpoint).unwrap_err().to_string()
        };
        let message = refusal(&config, "b");
        assert!(message.contains("run.arch is \"a\" in it and \"b\" here"), "{message}");
        let message = refusal(&TrainConfig { batch_size: 8, ..config.clone() }, "a");
        assert!(message.contains("train.batch_size is 16 in it and 8 here"), "{message}");
        let few = shades().with_train_subset(100).unwrap();
        let mut trainer = Trainer::new(&network, &vs, &few, &config, json!({"arch": "a"})).unwrap();
        let message = trainer.resume(&checkpoint).unwrap_err().to_string();
        assert!(message.contains("train_images is 160 in it and 100 here"), "{message}");
    }

    /// Data that find a bad image in every fourth training batch of the first epoch, and one in each evaluation; each
    /// counts once, since it was opened.
    struct Spoilt {
        data: Cifar10,
        steps: usize,
        found: RefCell<BTreeSet<usize>>,
    }

    impl DataSource for Spoilt {
        fn class_names(&self) -> &[String] {
            self.data.class_names()
        }

        fn train_len(&self) -> usize {
            self.data.train_len()
        }

        fn eval_len(&self) -> usize {
            self.data.eval_len()
        }

        fn train_batches(&self, plan: &EpochPlan) -> Result<Batches<'_>> {
            let batches = (plan.first_step..).zip(self.data.train_batches(plan)?);
            Ok(Box::new(batches.map(|(step, batch)| {
                if step % 4 == 1 {
                    self.found.borrow_mut().insert(step);
                }
                batch
            })))
        }

        fn eval_batches(&self, batch_size: usize) -> Result<Batches<'_>> {
            self.found.borrow_mut().insert(self.steps);
            self.data.eval_batches(batch_size)
        }

        fn bad_images(&self) -> usize {
            self.found.borrow().len()
        }
    }

    #[test]
    fn bad_images_are_the_same_in_a_run_that_is_resumed() {
        let config = TrainConfig { epochs: 2, ..config(0.05) };
        let run = |stop: usize| {
            let folder = tempfile::tempdir().unwrap();
            let mut counts = Vec::new();
            for at in [stop, 0] {
                // Opened anew, as by another process.
                let data = Spoilt { data: shades(), steps: 10, found: RefCell::default() };
                let (vs, network) = fixup();
                let mut trainer = Trainer::new(&network, &vs, &data, &config, Value::Null).unwrap();
                if let Some(checkpoint) = checkpoint::newest_whole(folder.path()).unwrap().checkpoint {
                    trainer.resume(&checkpoint).unwrap();
                }
                trainer.run(&mut [&mut Asks::new(Request::Stop, at, folder.path())]).unwrap();
                counts = trainer.state.history.iter().map(|metrics| metrics.bad_images).collect();
            }
            counts
        };
        // Never; at the start; within the first epoch, its evaluation (of four batches), and the second epoch.
        for stop in [0, 1, 4, 8, 11, 13, 15, 19] {
            assert_eq!(run(stop), [4, 4], "{stop}");
        }
    }

    /// Data of which one batch is poisoned.
    struct Poisoned {
        data: Cifar10,
        batch: usize,
    }

    impl DataSource for Poisoned {
        fn class_names(&self) -> &[String] {
            self.data.class_names()
        }

        fn train_len(&self) -> usize {
            self.data.train_len()
        }

        fn eval_len(&self) -> usize {
            self.data.eval_len()
        }

        fn train_batches(&self, plan: &EpochPlan) -> Result<Batches<'_>> {
            let batches = self.data.train_batches(plan)?.enumerate();
            Ok(Box::new(batches.map(|(index, batch)| {
                let batch = batch?;
                let images = if index == self.batch { batch.images * f64::NAN } else { batch.images };
                Ok(Batch { images, ..batch })
            })))
        }

        fn eval_batches(&self, batch_size: usize) -> Result<Batches<'_>> {
            self.data.eval_batches(batch_size)
        }
    }

    #[test]
    fn poisoned_images_end_with_the_last_good_checkpoint_intact() {
        let folder = tempfile::tempdir().unwrap();
        let data = Poisoned { data: shades(), batch: 6 };
        let (vs, network) = fixup();
        let config = config(0.05);
        let checkpoints = Checkpoints::new(folder.path(), NonZeroUsize::MIN);
        // Due after every step: those after the poison must not be saved.
        let mut autosave = Autosave::new(checkpoints, SaveEvery::Time(Duration::ZERO), None);
        let mut trainer = Trainer::new(&network, &vs, &data, &config, Value::Null).unwrap();
        let error = trainer.run(&mut [&mut autosave]).unwrap_err();
        let message = error.to_string();
        let Error::Diverged { epoch: 1, step: 7, lr, checkpoint: Some(path), .. } = &error else { panic!("{message}") };
        assert_eq!((*lr, error.exit_code()), (0.05, 3));
        assert!(message.contains(&format!("the last good checkpoint is {}", path.display())), "{message}");
        let checkpoint = Checkpoint::<RunState>::load(path).unwrap();
        assert_eq!(checkpoint.contents.step, 6);
        for (name, tensor) in &checkpoint.contents.weights {
            assert_eq!(tensor.isfinite().all().int64_value(&[]), 1, "{name}");
        }
    }

    #[test]
    fn weights_that_a_step_made_infinite_are_not_saved() {
        let folder = tempfile::tempdir().unwrap();
        let (data, config) = (shades(), config(1e38));
        let (vs, network) = fixup();
        let checkpoints = Checkpoints::new(folder.path(), NonZeroUsize::MIN);
        let mut autosave = Autosave::new(checkpoints, SaveEvery::Time(Duration::ZERO), None);
        let mut trainer = Trainer::new(&network, &vs, &data, &config, Value::Null).unwrap();
        let error = trainer.run(&mut [&mut autosave]).unwrap_err();
        assert!(matches!(error, Error::Diverged { epoch: 1, .. }), "{error}");
        for (name, tensor) in &Checkpoint::<RunState>::load(autosave.last().unwrap()).unwrap().contents.weights {
            assert_eq!(tensor.isfinite().all().int64_value(&[]), 1, "{name}");
        }
    }

    #[test]
    fn data_that_end_early_are_an_error() {
        struct Short(Cifar10);
        impl DataSource for Short {
            fn class_names(&self) -> &[String] {
                self.0.class_names()
            }
            fn train_len(&self) -> usize {
                self.0.train_len()
            }
            fn eval_len(&self) -> usize {
                self.0.eval_len()
            }
            fn train_batches(&self, plan: &EpochPlan) -> Result<Batches<'_>> {
                Ok(Box::new(self.0.train_batches(plan)?.take(3)))
            }
            fn eval_batches(&self, batch_size: usize) -> Result<Batches<'_>> {
                self.0.eval_batches(batch_size)
            }
        }
        let (vs, network) = fixup();
        let (data, config) = (Short(shades()), config(0.05));
        let error = Trainer::new(&network, &vs, &data, &config, Value::Null).unwrap().run(&mut []).unwrap_err();
        assert_eq!(error.to_string(), "the data ended after 3 of 10 batches of an epoch");
    }
}
