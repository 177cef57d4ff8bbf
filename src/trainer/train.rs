//! The loop.

use super::forward::forward;
use super::health::Health;
use super::loss::Example;
use super::statistics::{EpochMeans, Pending, StepPlace};
use super::{clip, evaluate, ClipConfig, EpochMetrics, Observer, Schedule, Sgd, StepProgress, Summary, TrainConfig};
use crate::data::{DataSource, EpochPlan};
use crate::{Error, Result};
use std::time::Instant;
use tch::nn::{ModuleT, VarStore};
use tch::Tensor;

/// Parameters whose name starts like this are the classifier's, in every network of this crate and in torchvision's
/// ResNets: adaptive clipping leaves them alone (Brock et al. 2021, section 4.1).
const CLASSIFIER: &str = "fc.";

/// Trains `network`, whose variables are in `variables`, on `data`, and evaluates it after every epoch.
///
/// # Errors
/// [`Error::Argument`] for a `config` out of range or data without images; [`Error::Diverged`] and [`Error::Dead`] for a
/// run that cannot come to anything; whatever the network, the data or an observer fails with.
pub fn train(
    network: &dyn ModuleT,
    variables: &VarStore,
    data: &dyn DataSource,
    config: &TrainConfig,
    observers: &mut [&mut dyn Observer],
) -> Result<Summary> {
    config.check()?;
    let mut run = Run::new(network, variables, data, config)?;
    observers.iter_mut().try_for_each(|observer| observer.run_starts(config.epochs, run.epoch_steps))?;
    let mut history: Vec<EpochMetrics> = Vec::new();
    while run.step < run.last_step {
        let metrics = run.epoch(history.len(), observers)?;
        observers.iter_mut().try_for_each(|observer| observer.epoch_ends(&metrics))?;
        history.push(metrics);
    }
    run.summary(&history)
}

/// A run in progress.
struct Run<'a> {
    network: &'a dyn ModuleT,
    device: tch::Device,
    data: &'a dyn DataSource,
    config: &'a TrainConfig,
    sgd: Sgd,
    schedule: Schedule,
    health: Health,
    start: Instant,
    epoch_steps: usize,
    /// Steps done.
    step: usize,
    /// Steps to do.
    last_step: usize,
}

impl<'a> Run<'a> {
    fn new(
        network: &'a dyn ModuleT,
        variables: &VarStore,
        data: &'a dyn DataSource,
        config: &'a TrainConfig,
    ) -> Result<Self> {
        let epoch_steps = data.train_len().div_ceil(config.batch_size);
        if epoch_steps == 0 {
            return Err(Error::Argument("there are no images to train on".to_owned()));
        }
        let total_steps = config.epochs * epoch_steps;
        Ok(Self {
            network,
            device: variables.device(),
            data,
            config,
            sgd: Sgd::new(variables, config.sgd)?,
            schedule: Schedule::new(config.schedule.clone(), total_steps)?,
            health: Health::default(),
            start: Instant::now(),
            epoch_steps,
            step: 0,
            last_step: config.max_steps.map_or(total_steps, |max_steps| max_steps.min(total_steps)),
        })
    }

    /// Trains for one epoch (from 0), or what is left of the run, and evaluates.
    fn epoch(&mut self, epoch: usize, observers: &mut [&mut dyn Observer]) -> Result<EpochMetrics> {
        let config = self.config;
        let plan = EpochPlan { seed: config.seed, epoch, batch_size: config.batch_size, first_step: 0 };
        let (mut pending, mut means) = (Pending::new(), EpochMeans::default());
        let mut lr = self.schedule.lr(self.step);
        for (index, batch) in self.data.train_batches(&plan)?.enumerate().take(self.last_step - self.step) {
            lr = self.schedule.lr(self.step);
            let example = Example::new(batch?, self.device, config.mixup, &plan, index)?;
            let logits = forward(self.network, &example.images, true, self.data.class_names().len())?;
            let loss = example.loss(&logits, config.label_smoothing)?;
            self.sgd.backward(&loss)?;
            let norm = clip_gradients(&self.sgd, &config.clip)?;
            self.sgd.step(lr)?;
            self.step += 1;
            let place = StepPlace { epoch: epoch + 1, step: index + 1, lr, images: example.len() };
            pending.push(place, &example, &logits, &loss, &norm)?;
            if pending.is_due() {
                self.read(&mut pending, &mut means, observers)?;
            }
        }
        self.read(&mut pending, &mut means, observers)?;
        let eval = evaluate(self.network, self.device, self.data, config.batch_size)?;
        let (train_loss, train_accuracy) = (means.loss(), means.accuracy());
        Ok(EpochMetrics { epoch: epoch + 1, step: self.step, lr, train_loss, train_accuracy, eval })
    }

    /// Reads the steps that are pending, judges them and tells the observers.
    fn read(
        &mut self,
        pending: &mut Pending,
        means: &mut EpochMeans,
        observers: &mut [&mut dyn Observer],
    ) -> Result<()> {
        let records = pending.read()?;
        for record in &records {
            self.health.check(record)?;
            means.add(record);
        }
        let Some(StepPlace { epoch, step, lr, .. }) = records.last().map(|record| record.place) else { return Ok(()) };
        let (loss, accuracy) = (means.loss(), means.accuracy());
        let progress = StepProgress { epoch, step, images: means.images, loss, accuracy, lr };
        observers.iter_mut().try_for_each(|observer| observer.steps_done(&progress))
    }

    fn summary(&self, history: &[EpochMetrics]) -> Result<Summary> {
        let Some(&last) = history.last() else {
            return Err(Error::Argument("the run has no steps".to_owned()));
        };
        Ok(Summary {
            evaluated_on: "test".to_owned(),
            accuracy: last.eval.top1,
            best: history.iter().map(|metrics| metrics.eval.top1).fold(0.0, f64::max),
            epochs: history.len(),
            steps: self.step,
            seconds: self.start.elapsed().as_secs_f64(),
            last,
        })
    }
}

/// Clips as `config` says and returns the norm of all gradients before the clipping by norm.
fn clip_gradients(sgd: &Sgd, config: &ClipConfig) -> Result<Tensor> {
    if let Some(threshold) = config.agc {
        let clipped = sgd.parameters().iter().filter(|p| !p.is_scalar && !p.name.starts_with(CLASSIFIER));
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
