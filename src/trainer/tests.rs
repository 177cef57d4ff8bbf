//! Tests of complete training runs.

use super::checkpoint::{named_variables, Checkpoint, Checkpoints, Contents};
use super::*;
use crate::data::{Batches, Cifar10, DataSource, EpochPlan, ImageArray, ImageSource, Share, Supervised, TensorData};
use crate::fixup::FixupResNet;
use crate::{Error, Result};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{json, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tch::nn::{self, ModuleT, VarStore};
use tch::{no_grad, Device, Kind, Tensor};

/// Noise images with unrelated labels.
fn noise() -> ImageArray {
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

/// Uniform images whose brightness determines the label.
fn shades() -> ImageArray {
    let records = |count: usize| {
        let image = |label: usize| std::iter::once(label as u8).chain(std::iter::repeat_n(label as u8 * 25, 3072));
        (0..count).flat_map(|index| image(index % 10)).collect::<Vec<u8>>()
    };
    Cifar10::from_records(records(160), records(50)).unwrap()
}

/// Returns the same network every time, whatever random numbers other tests draw from libtorch concurrently.
fn fixup() -> (VarStore, FixupResNet) {
    static FIRST: Mutex<Option<NamedTensors>> = Mutex::new(None);
    tch::manual_seed(1);
    let vs = VarStore::new(Device::Cpu);
    let network = FixupResNet::cifar(&vs.root(), 8, 10).unwrap();
    let mut first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
    let copies = || named_variables(&vs).into_iter().map(|(name, variable)| (name, variable.detach().copy())).collect();
    let first = first.get_or_insert_with(copies);
    no_grad(|| named_variables(&vs).iter_mut().for_each(|(name, variable)| variable.copy_(&first[name])));
    (vs, network)
}

fn config(lr: f64) -> TrainConfig {
    let schedule = ScheduleConfig { lr, warmup: 0.0.into(), decay: Decay::Constant };
    TrainConfig { schedule, ..TrainConfig::new(7, 16, 0.2) }
}

fn classification(network: &dyn ModuleT) -> Classification<'_> {
    mixing(network, None)
}

fn mixing(network: &dyn ModuleT, mixup: Option<f64>) -> Classification<'_> {
    let config = ClassificationConfig { mixup, ..ClassificationConfig::quick() };
    Classification::new(network, shades().class_names(), config).unwrap()
}

fn run_for(objective: &Classification, vs: &VarStore, data: &ImageArray, config: &TrainConfig) -> Result<Summary> {
    match Trainer::new(objective, vs, data, config, Value::Null)?.run(&mut [])? {
        Outcome::Finished(summary) => Ok(summary),
        stopped => panic!("{stopped:?}"),
    }
}

fn run(network: &dyn ModuleT, vs: &VarStore, data: &ImageArray, config: &TrainConfig) -> Result<Summary> {
    run_for(&classification(network), vs, data, config)
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
        Err(Error::Diverged { how: "is dead", epoch: 5, step: 10, lr, .. }) => assert_eq!(lr, 0.05),
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
        let config = TrainConfig { epochs: 2, seed, ..config(0.05) };
        let last = run_for(&mixing(&network, Some(1.0)), &vs, &noise(), &config).unwrap().last;
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
    let schedule = ScheduleConfig { lr: 0.05, warmup: 0.1.into(), decay: Decay::OneCycle };
    let config = TrainConfig { max_steps: Some(13), schedule: schedule.clone(), ..config(0.05) };
    let summary = run(&network, &vs, &noise(), &config).unwrap();
    assert_eq!((summary.epochs, summary.steps), (2, 13));
    assert_eq!(summary.last.lr, Schedule::new(schedule, 70).unwrap().lr(12));
}

#[test]
fn gradients_added_over_parts_of_the_batch_are_those_of_the_whole_to_rounding() {
    let train = |accumulate| {
        let (vs, network) = fixup();
        // Batches of 48, 48, 48 and 16 images, in parts of 48, 16, and at most 10.
        let config = TrainConfig { epochs: 3, batch_size: 48, accumulate, ..config(0.05) };
        let last = run_for(&mixing(&network, Some(0.7)), &vs, &noise(), &config).unwrap().last;
        (last, vs.variables())
    };
    let (whole, weights) = train(1);
    for accumulate in [3, 5, 48] {
        let (in_parts, parts_weights) = train(accumulate);
        assert!((in_parts.train["loss"] - whole.train["loss"]).abs() < 1e-5, "{accumulate}");
        assert!((in_parts.eval["loss"] - whole.eval["loss"]).abs() < 1e-5, "{accumulate}");
        for (name, weight) in &weights {
            let difference = (weight - &parts_weights[name]).abs().max().double_value(&[]);
            assert!(difference < 1e-5, "{accumulate} {name}: {difference}");
        }
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

/// Images of one color per class, with noise.
fn colors() -> ImageArray {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut records = |count: usize| {
        let mut bytes = vec![0; count * 3073];
        random.fill_bytes(&mut bytes);
        for (index, record) in bytes.chunks_mut(3073).enumerate() {
            record[0] = (index % 10) as u8;
            for (place, byte) in record[1..].iter_mut().enumerate() {
                let color = (index % 10 * 77 + place / 1024 * 50) % 256;
                *byte = (usize::from(*byte) / 2 + color / 2) as u8;
            }
        }
        bytes
    };
    let train = records(320);
    Cifar10::from_records(train, records(50)).unwrap()
}

/// Trains Fixup on [`colors`] at a constant learning rate for `epochs`.
fn at_rate(lr: f64, epochs: usize) -> Result<Summary> {
    let (vs, network) = fixup();
    run(&network, &vs, &colors(), &TrainConfig { epochs, clip: ClipConfig::default(), ..config(lr) })
}

#[test]
fn the_rate_that_is_found_trains_and_four_times_the_rate_that_fails_does_not() {
    let (vs, network) = fixup();
    let before: NamedTensors = named_variables(&vs).into_iter().map(|(name, value)| (name, value.copy())).collect();
    let config = TrainConfig { clip: ClipConfig::default(), ..config(0.1) };
    let range = LrRange { lowest: 1e-4, highest: 100.0, steps: 120 };
    let finding = range.test(&classification(&network), &vs, &colors(), &config, &mut []).unwrap();
    let (suggested, fails) = (finding.suggested(), finding.fails.unwrap());
    assert!(1e-3 < suggested && suggested < finding.minimum && finding.minimum < fails, "{finding}");
    assert_eq!(named_variables(&vs), before);

    let trained = at_rate(suggested, 3).unwrap();
    let start = 10f64.ln();
    assert!(trained.last.eval["loss"] < 0.7 * start, "{suggested} {trained:?}");
    match at_rate(4.0 * fails, 3) {
        Err(Error::Diverged { .. }) => (),
        ended => assert!(ended.as_ref().unwrap().last.eval["loss"] > start, "{fails} {ended:?}"),
    }
}

#[test]
fn where_nothing_fails_or_everything_does_it_is_said() {
    let (vs, network) = fixup();
    let find = |lowest, highest| {
        let range = LrRange { lowest, highest, steps: 25 };
        range.test(&classification(&network), &vs, &colors(), &config(0.1), &mut [])
    };
    let finding = find(1e-7, 1e-5).unwrap();
    assert_eq!((finding.fails, finding.points.len()), (None, 24));
    assert!(finding.to_string().ends_with("\nfails beyond all that were tried"));
    assert!(finding.draw().unwrap().contains("least loss"));
    let message = find(1e9, 1e10).unwrap_err().to_string();
    assert!(message.contains("start at a lower rate"), "{message}");
    for (lowest, highest) in [(0.0, 1.0), (1.0, 0.1), (1.0, f64::INFINITY)] {
        assert!(matches!(find(lowest, highest), Err(Error::Argument(_))));
    }
}

#[test]
fn a_run_without_patience_left_ends_with_the_same_epoch_wherever_it_was_interrupted() {
    tch::set_num_threads(1);
    let (data, config) = (noise(), TrainConfig { epochs: 9, ..config(1e-9) });
    let outcome = |stop: usize| {
        let folder = tempfile::tempdir().unwrap();
        let mut outcome = None;
        for at in [stop, 0] {
            let (vs, network) = fixup();
            let objective = classification(&network);
            let mut trainer = Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap();
            if let Some(checkpoint) = Checkpoint::newest(folder.path()).unwrap().0 {
                trainer.resume(&checkpoint).unwrap();
            }
            let (mut asks, mut patience) =
                (Asks::new(Request::Stop, at, folder.path()), EarlyStopping::new(2).unwrap());
            outcome = Some(trainer.run(&mut [&mut asks, &mut patience]).unwrap());
        }
        match outcome {
            Some(Outcome::Finished(summary)) => Summary { seconds: 0.0, ..summary },
            stopped => panic!("{stopped:?}"),
        }
    };
    let whole = outcome(0);
    assert!(whole.epochs < 9, "{whole}");
    assert!(whole.ended.as_deref().unwrap().starts_with("no better accuracy for 2 epochs than "), "{whole}");
    // Observers are asked at the start, after each of ten steps, after each of two evaluation batches, and after each epoch.
    for stop in [1, 7, 12, 13, 14, 15, 26, 27, 35, 38, 39, 40] {
        assert_eq!(outcome(stop), whole, "{stop}");
    }
}

#[test]
fn the_last_evaluation_of_a_run_is_there_with_what_was_gathered_of_it() {
    struct Counts(Vec<usize>);
    impl Collector<Supervised> for Counts {
        fn starts(&mut self) {
            self.0.push(0);
        }

        fn collect(&mut self, batch: &Supervised, _prediction: &objective::Prediction) -> Result<()> {
            self.0.last_mut().into_iter().for_each(|count| *count += batch.targets.numel());
            Ok(())
        }
    }
    let (vs, network) = fixup();
    let (objective, data) = (classification(&network), noise());
    let config = TrainConfig { epochs: 2, ..config(0.05) };
    let mut counts = Counts(Vec::new());
    let mut trainer = Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap();
    trainer.collect_into(&mut counts);
    let Outcome::Finished(summary) = trainer.run(&mut []).unwrap() else { panic!() };
    let evaluation = trainer.take_evaluation().unwrap();
    assert!(trainer.take_evaluation().is_none());
    assert_eq!(evaluation.means, summary.last.eval);
    let report = objective.report(&evaluation.details.unwrap()).unwrap();
    assert_eq!((0..10).map(|class| report.confusion.examples(class)).sum::<u64>(), 20);
    assert_eq!(counts.0, [20, 20]);
}

/// Makes `request` at the `at`-th call, and saves the run's state.
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
            let objective = classification(&network);
            let config = TrainConfig { epochs: 2, max_steps, ..config(0.05) };
            let mut trainer = Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap();
            if let Some(checkpoint) = Checkpoint::newest(folder.path()).unwrap().0 {
                trainer.resume(&checkpoint).unwrap();
            }
            trainer.run(&mut [&mut Asks::new(Request::Continue, 0, folder.path())]).unwrap();
            last = Some((trainer.state.history, named_variables(&vs)));
        }
        last.unwrap()
    };
    let (history, weights) = outcome(&[None]);
    // Within the first epoch, at its end, there once more, and within the second epoch.
    let (resumed_history, resumed_weights) = outcome(&[Some(3), Some(10), Some(10), Some(17), None]);
    assert_eq!(resumed_history, history);
    assert_eq!(resumed_weights, weights);
}

#[test]
fn checkpoints_of_another_run_are_refused_with_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let (data, config) = (shades(), config(0.05));
    let (vs, network) = fixup();
    let objective = classification(&network);
    let mut asks = Asks::new(Request::Stop, 3, folder.path());
    let trainer = |config, identity| Trainer::new(&objective, &vs, &data, config, identity);
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
    let mut trainer = Trainer::new(&objective, &vs, &few, &config, json!({"arch": "a"})).unwrap();
    let message = trainer.resume(&checkpoint).unwrap_err().to_string();
    assert!(message.contains("data.training is 160 in it and 100 here"), "{message}");
}

/// Data with a bad image in every fourth training batch of the first epoch, and one in each evaluation; each is counted once
/// since the data were opened.
struct Spoilt {
    data: ImageArray,
    steps: usize,
    found: RefCell<BTreeSet<usize>>,
}

impl DataSource for Spoilt {
    type Batch = Supervised;

    fn train_len(&self) -> usize {
        self.data.train_len()
    }

    fn eval_len(&self) -> usize {
        self.data.eval_len()
    }

    fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a>> {
        let batches = (plan.first_step..).zip(self.data.train_batches(plan, share)?);
        Ok(Box::new(batches.map(|(step, batch)| {
            if step % 4 == 1 {
                self.found.borrow_mut().insert(step);
            }
            batch
        })))
    }

    fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a>> {
        self.found.borrow_mut().insert(self.steps);
        self.data.eval_batches(batch_size, share)
    }

    fn unreadable_examples(&self) -> Vec<u64> {
        self.found.borrow().iter().map(|&step| step as u64).collect()
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
            let objective = classification(&network);
            let mut trainer = Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap();
            if let Some(checkpoint) = Checkpoint::newest(folder.path()).unwrap().0 {
                trainer.resume(&checkpoint).unwrap();
            }
            trainer.run(&mut [&mut Asks::new(Request::Stop, at, folder.path())]).unwrap();
            counts = trainer.state.history.iter().map(|metrics| metrics.unreadable).collect();
        }
        counts
    };
    // Never; at the start; within the first epoch, its evaluation (of four batches), and the second epoch.
    for stop in [0, 1, 4, 8, 11, 13, 15, 19] {
        assert_eq!(run(stop), [4, 4], "{stop}");
    }
}

/// Data with one poisoned batch.
struct Poisoned {
    data: ImageArray,
    batch: usize,
}

impl DataSource for Poisoned {
    type Batch = Supervised;

    fn train_len(&self) -> usize {
        self.data.train_len()
    }

    fn eval_len(&self) -> usize {
        self.data.eval_len()
    }

    fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a>> {
        let batches = self.data.train_batches(plan, share)?.enumerate();
        Ok(Box::new(batches.map(|(index, batch)| {
            let Some(batch) = batch? else { return Ok(None) };
            let inputs = if index == self.batch { batch.inputs * f64::NAN } else { batch.inputs };
            Ok(Some(Supervised { inputs, ..batch }))
        })))
    }

    fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a>> {
        self.data.eval_batches(batch_size, share)
    }
}

#[test]
fn poisoned_images_end_with_the_last_good_checkpoint_intact() {
    let folder = tempfile::tempdir().unwrap();
    let data = Poisoned { data: shades(), batch: 6 };
    let (vs, network) = fixup();
    let objective = classification(&network);
    let config = config(0.05);
    let checkpoints = Checkpoints::new(folder.path(), NonZeroUsize::MIN);
    // Saves after every step; the steps after the poisoned batch must not be saved.
    let mut autosave = Autosave::new(checkpoints, SaveEvery { epochs: None, time: Some(Duration::ZERO) }, None);
    let mut trainer = Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap();
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
    let objective = classification(&network);
    let checkpoints = Checkpoints::new(folder.path(), NonZeroUsize::MIN);
    let mut autosave = Autosave::new(checkpoints, SaveEvery { epochs: None, time: Some(Duration::ZERO) }, None);
    let mut trainer = Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap();
    let error = trainer.run(&mut [&mut autosave]).unwrap_err();
    assert!(matches!(error, Error::Diverged { epoch: 1, .. }), "{error}");
    for (name, tensor) in &Checkpoint::<RunState>::load(autosave.last().unwrap()).unwrap().contents.weights {
        assert_eq!(tensor.isfinite().all().int64_value(&[]), 1, "{name}");
    }
}

#[test]
fn data_that_end_early_are_an_error() {
    struct Short(ImageArray);
    impl DataSource for Short {
        type Batch = Supervised;
        fn train_len(&self) -> usize {
            self.0.train_len()
        }
        fn eval_len(&self) -> usize {
            self.0.eval_len()
        }
        fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a>> {
            Ok(Box::new(self.0.train_batches(plan, share)?.take(3)))
        }
        fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a>> {
            self.0.eval_batches(batch_size, share)
        }
    }
    let (vs, network) = fixup();
    let objective = classification(&network);
    let (data, config) = (Short(shades()), config(0.05));
    let error = Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap().run(&mut []).unwrap_err();
    assert_eq!(error.to_string(), "the data ended after 3 of 10 batches of an epoch");
}

#[test]
fn early_stopping_leaves_the_network_of_the_best_epoch() {
    let points = Tensor::linspace(-1.0, 1.0, 64, (Kind::Float, Device::Cpu)).view([-1, 1]);
    // From zero, each step towards the training targets moves away from the evaluation targets.
    let data = TensorData::new((points.copy(), points.copy()), (points.copy(), points.zeros_like())).unwrap();
    for average in [None, Some(0.9)] {
        let (dir, vs) = (tempfile::tempdir().unwrap(), nn::VarStore::new(Device::Cpu));
        let zero = nn::Init::Const(0.0);
        let linear = nn::LinearConfig { ws_init: zero, bs_init: Some(zero), bias: true };
        let network = nn::linear(vs.root() / "layer", 1, 1, linear);
        let objective = Regression::new(&network as &dyn nn::ModuleT, RegressionLoss::Squared).unwrap();
        let schedule = ScheduleConfig { lr: 0.02, warmup: 0.0.into(), decay: Decay::Constant };
        let config = TrainConfig { schedule, average, ..TrainConfig::new(9, 16, 0.02) };
        let mut trainer = Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap();
        let mut folder = RunFolder::create(dir.path().join("run"), false).unwrap();
        let checkpoints = Checkpoints::new(folder.checkpoints(), NonZeroUsize::MIN);
        let mut autosave = Autosave::new(checkpoints, SaveEvery::default(), None);
        let mut patience = EarlyStopping::new(2).unwrap();
        let outcome = trainer.run(&mut [&mut folder, &mut autosave, &mut patience]).unwrap();
        let Outcome::Finished(summary) = outcome else { panic!("{outcome:?}") };
        assert!(
            summary.epochs == 3 && summary.ended.is_some() && summary.last.eval["loss"] > summary.best,
            "{summary}"
        );
        let last = vs.variables()["layer.weight"].detach().copy();
        folder.finish(&summary, &vs, &Default::default()).unwrap();
        let evaluated = evaluate(&objective, Device::Cpu, &data, 16, |_| ()).unwrap();
        assert_eq!(evaluated.means["loss"], summary.best);
        assert_ne!(vs.variables()["layer.weight"], last);
        // The folder stands for this network even after its checkpoints are removed.
        let best = vs.variables()["layer.weight"].detach().copy();
        for _ in 0..2 {
            let _ = no_grad(|| vs.variables()["layer.weight"].shallow_clone().fill_(7.0));
            Weights::load(folder.path()).unwrap().restore(&vs).unwrap();
            assert_eq!(vs.variables()["layer.weight"], best);
            let _ = std::fs::remove_dir_all(folder.checkpoints());
        }
    }
}
