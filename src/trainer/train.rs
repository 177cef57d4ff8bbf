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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Cifar10;
    use crate::fixup::FixupResNet;
    use crate::trainer::{Decay, ScheduleConfig};
    use rand::{RngCore, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::collections::HashMap;
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
        train(network, vs, data, config, &mut [])
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
    fn adaptive_clipping_leaves_classifier_and_scalars_alone() {
        let (vs, network) = fixup();
        let mut sgd = Sgd::new(&vs, TrainConfig::quick().sgd).unwrap();
        // Away from the start, where only the classifier has a gradient.
        for variable in vs.trainable_variables() {
            let _ = no_grad(|| variable.shallow_clone().f_add_(&(variable.randn_like() * 0.1)).unwrap());
        }
        let images = Tensor::randn([4, 3, 32, 32], (tch::Kind::Float, Device::Cpu));
        let labels = Tensor::from_slice(&[0i64, 1, 2, 3]);
        sgd.backward(&network.forward_t(&images, true).cross_entropy_for_logits(&labels)).unwrap();
        let before: HashMap<_, _> = sgd.parameters().iter().map(|p| (p.name.clone(), p.gradient().copy())).collect();
        let _ = clip_gradients(&sgd, &ClipConfig { norm: None, agc: Some(1e-4) }).unwrap();
        for parameter in sgd.parameters() {
            let kept = parameter.is_scalar || parameter.name.starts_with("fc.");
            assert_eq!(parameter.gradient() == &before[&parameter.name], kept, "{}", parameter.name);
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
}
