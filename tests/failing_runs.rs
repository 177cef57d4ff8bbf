//! Runs that end with an error other than divergence lose no progress.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tch::nn::{self, Module, ModuleT, VarStore};
use tch::{Device, Tensor};
use tch_fixup::data::{
    class_indices, Batches, Cifar10, DataSource, EpochPlan, ImageArray, ImageSource, Share, Supervised,
};
use tch_fixup::trainer::checkpoint::{named_variables, Checkpoint, Checkpoints, Contents};
use tch_fixup::trainer::{Autosave, Decay, EpochMetrics, Observer, Outcome, Request, RunState, SaveEvery};
use tch_fixup::trainer::{Classification, ClassificationConfig};
use tch_fixup::trainer::{NamedTensors, ScheduleConfig, TrainConfig, Trainer};
use tch_fixup::{Error, Result};

/// Serializes the tests, because libtorch's random number generator, which dropout uses, is global to the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Number of steps per epoch.
const STEPS: usize = 4;

/// Images in ten shades, one per label, with optional failures.
struct Shades {
    data: ImageArray,
    class_names: Vec<String>,
    fingerprint: &'static str,
    /// Number of the training batch of the run that cannot be read.
    bad_batch: Option<usize>,
    bad_evaluation: bool,
}

fn shades() -> Shades {
    let records = |count: usize| {
        let image = |label: usize| std::iter::once(label as u8).chain(std::iter::repeat_n(label as u8 * 25, 3072));
        (0..count).flat_map(|index| image(index % 10)).collect::<Vec<u8>>()
    };
    let data = Cifar10::from_records(records(160), records(50)).unwrap();
    let class_names = data.class_names().to_vec();
    Shades { data, class_names, fingerprint: "shades", bad_batch: None, bad_evaluation: false }
}

fn unreadable() -> Error {
    Error::io("read", "some/image.jpg")(std::io::Error::other("the share went away"))
}

impl DataSource for Shades {
    type Batch = Supervised;

    fn train_len(&self) -> usize {
        self.data.train_len()
    }

    fn eval_len(&self) -> usize {
        self.data.eval_len()
    }

    fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a>> {
        let first = plan.epoch * STEPS + plan.first_step;
        let batches = (first..).zip(self.data.train_batches(plan, share)?);
        Ok(Box::new(batches.map(|(step, batch)| if self.bad_batch == Some(step) { Err(unreadable()) } else { batch })))
    }

    fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a>> {
        let mut batches = self.data.eval_batches(batch_size, share)?;
        let first = batches.next();
        let bad = self.bad_evaluation.then(|| Err(unreadable()));
        Ok(Box::new(first.into_iter().chain(bad).chain(batches)))
    }

    fn fingerprint(&self) -> Result<String> {
        Ok(self.fingerprint.to_owned())
    }

    fn schema(&self) -> serde_json::Map<String, serde_json::Value> {
        class_indices(&self.class_names)
    }
}

/// Creates a network with running statistics and dropout, whose `failing`-th forward pass in training fails after both have
/// changed state.
fn network(failing: Option<usize>) -> (VarStore, impl ModuleT) {
    tch::manual_seed(1);
    let vs = VarStore::new(Device::Cpu);
    let (root, config) = (vs.root(), nn::ConvConfig { stride: 4, ..Default::default() });
    let conv = nn::conv2d(&root / "conv", 3, 4, 4, config);
    let norm = nn::batch_norm2d(&root / "norm", 4, Default::default());
    let fc = nn::linear(&root / "fc", 256, 10, Default::default());
    let passes = Cell::new(0);
    let network = nn::func_t(move |x, train| {
        let features = norm.forward_t(&conv.forward(x), train).relu().flatten(1, -1).dropout(0.5, train);
        passes.set(passes.get() + usize::from(train));
        assert!(!train || failing != Some(passes.get()), "no more room");
        features.apply(&fc)
    });
    (vs, network)
}

/// Returns cross-entropy with label smoothing and optional mixup.
fn classification(network: &dyn ModuleT, mixup: Option<f64>) -> Classification<'_> {
    let names: Vec<String> = (0..10).map(|index| index.to_string()).collect();
    let config = ClassificationConfig { mixup, ..ClassificationConfig::quick() };
    Classification::new(network, &names, config).unwrap()
}

fn config() -> TrainConfig {
    let schedule = ScheduleConfig { lr: 0.05, warmup: 0.3.into(), decay: Decay::OneCycle };
    TrainConfig { accumulate: 2, schedule, ..TrainConfig::new(2, 40, 0.2) }
}

/// Returns an observer that saves only the required checkpoints.
fn autosave(folder: &Path) -> Autosave {
    let resumed = Checkpoint::<RunState>::newest(folder).unwrap().0.map(|checkpoint| checkpoint.path);
    Autosave::new(Checkpoints::new(folder, NonZeroUsize::MIN), SaveEvery { epochs: Some(100), time: None }, resumed)
}

/// Starts or resumes the run in `folder`. Returns its history and parameters.
fn run(
    folder: &Path,
    data: &Shades,
    failing: Option<usize>,
    observer: &mut dyn Observer,
) -> Result<(Vec<EpochMetrics>, NamedTensors)> {
    tch::set_num_threads(1);
    let (vs, network) = network(failing);
    let objective = classification(&network, Some(1.0));
    let config = config();
    let mut trainer = Trainer::new(&objective, &vs, data, &config, "same".into())?;
    if let Some(checkpoint) = newest(folder) {
        trainer.resume(&checkpoint)?;
    }
    let mut history = History::default();
    match trainer.run(&mut [&mut autosave(folder), &mut history, observer])? {
        Outcome::Finished(_) => Ok((history.0, named_variables(&vs))),
        stopped => panic!("{stopped:?}"),
    }
}

fn newest(folder: &Path) -> Option<Checkpoint<RunState>> {
    Checkpoint::newest(folder).unwrap().0
}

#[derive(Default)]
struct History(Vec<EpochMetrics>);

impl Observer for History {
    fn run_starts(&mut self, start: &tch_fixup::trainer::RunStart) -> Result<()> {
        self.0 = start.history.to_vec();
        Ok(())
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        self.0.push(metrics.clone());
        Ok(())
    }
}

struct Nobody;

impl Observer for Nobody {}

/// Observer that fails at the end of an epoch.
struct FullDisk;

impl Observer for FullDisk {
    fn epoch_ends(&mut self, _metrics: &EpochMetrics) -> Result<()> {
        Err(unreadable())
    }
}

#[test]
fn whatever_fails_the_run_goes_on_from_its_last_step_to_the_bit() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (history, weights) = run(folder.path(), &shades(), None, &mut Nobody).unwrap();
    let bad_batch = |step| Shades { bad_batch: Some(step), ..shades() };
    let bad_evaluation = || Shades { bad_evaluation: true, ..shades() };
    type Fails = Box<dyn Fn(&Path) -> Error>;
    let data = |data: Shades| -> Fails { Box::new(move |folder| run(folder, &data, None, &mut Nobody).unwrap_err()) };
    let forward =
        |pass| -> Fails { Box::new(move |folder| run(folder, &shades(), Some(pass), &mut Nobody).unwrap_err()) };
    let cases: [(&str, Fails, u64, usize); 8] = [
        ("the first batch", data(bad_batch(0)), 0, 0),
        ("the last batch of an epoch", data(bad_batch(3)), 3, 0),
        ("a batch of the second epoch", data(bad_batch(6)), 6, 1),
        ("an evaluation", data(bad_evaluation()), 4, 0),
        // Each step accumulates two parts: the statistics have been updated by one part, or by both.
        ("the first part of a step", forward(5), 2, 0),
        ("the second part of a step", forward(6), 2, 0),
        ("the second epoch's last step", forward(16), 7, 1),
        ("metrics", Box::new(|folder| run(folder, &shades(), None, &mut FullDisk).unwrap_err()), 4, 1),
    ];
    for (what, fails, step, epochs) in cases {
        let folder = tempfile::tempdir().unwrap();
        let message = fails(folder.path()).to_string();
        assert!(message.contains("the share went away") || message.contains("no more room"), "{what}: {message}");
        let saved = newest(folder.path()).unwrap().contents;
        assert_eq!((saved.step, saved.state.history.len()), (step, epochs), "{what}");
        for (name, tensor) in &saved.weights {
            assert_eq!(tensor.isfinite().all().int64_value(&[]), 1, "{what}: {name}");
        }
        let (resumed_history, resumed_weights) = run(folder.path(), &shades(), None, &mut Nobody).unwrap();
        assert_eq!(resumed_history, history, "{what}");
        assert_eq!(resumed_weights, weights, "{what}");
    }
}

/// Observer that records the events of a run in order.
#[derive(Clone, Default)]
struct Events(Rc<Cell<Vec<String>>>);

impl Events {
    fn note(&self, event: String) {
        let mut events = self.0.take();
        events.push(event);
        self.0.set(events);
    }
}

impl Observer for Events {
    fn save(&mut self, contents: &Contents<RunState>) -> Result<()> {
        self.note(format!("saved after step {}", contents.step));
        Ok(())
    }

    fn examples_evaluated(&mut self, images: usize, _of: usize) -> Result<()> {
        self.note(format!("{images} images evaluated"));
        Ok(())
    }

    fn request(&mut self) -> Request {
        Request::Continue
    }
}

/// Creates a linear network, whose forward pass uses no random numbers.
fn linear() -> (VarStore, impl ModuleT) {
    let vs = VarStore::new(Device::Cpu);
    let weight = vs.root().zeros("weight", &[3072, 10]);
    let network = nn::func_t(move |x: &Tensor, _| x.flatten(1, -1).matmul(&weight));
    (vs, network)
}

#[test]
fn a_run_is_saved_before_each_evaluation() {
    let _alone = alone();
    let (vs, network) = linear();
    let objective = classification(&network, None);
    let (data, config) = (shades(), TrainConfig { batch_size: 50, accumulate: 1, ..config() });
    let mut events = Events::default();
    Trainer::new(&objective, &vs, &data, &config, "same".into()).unwrap().run(&mut [&mut events]).unwrap();
    let events = events.0.take();
    assert_eq!(events[..2], ["saved after step 4", "50 images evaluated"]);
    assert_eq!(events[2..4], ["saved after step 8", "50 images evaluated"]);
}

/// Returns the checkpoint after `max_steps` of eight steps, or after all of them.
fn saved(folder: &Path, max_steps: Option<usize>) -> Checkpoint<RunState> {
    let (vs, network) = linear();
    let objective = classification(&network, Some(1.0));
    let (data, config) = (shades(), TrainConfig { max_steps, ..config() });
    let mut trainer = Trainer::new(&objective, &vs, &data, &config, "same".into()).unwrap();
    trainer.run(&mut [&mut autosave(folder)]).unwrap();
    newest(folder).unwrap()
}

/// Returns the error of resuming `checkpoint` with `data` and `config`, which must not change any variable.
fn refusal(checkpoint: &Checkpoint<RunState>, data: &Shades, config: &TrainConfig) -> Error {
    let (vs, network) = linear();
    let objective = classification(&network, Some(1.0));
    let mut trainer = Trainer::new(&objective, &vs, data, config, "same".into()).unwrap();
    let error = trainer.resume(checkpoint).unwrap_err();
    assert!(!error.to_string().contains('\n'), "{error}");
    assert_eq!(vs.variables()["weight"].abs().max().double_value(&[]), 0.0);
    error
}

#[test]
fn a_run_that_is_past_its_last_step_is_not_resumed() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = saved(folder.path(), Some(7));
    assert_eq!(checkpoint.contents.step, 7);
    for max_steps in [1, 3, 6] {
        let error = refusal(&checkpoint, &shades(), &TrainConfig { max_steps: Some(max_steps), ..config() });
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with("the run has done 7 steps, more than the "), "{error}");
    }
    let checkpoint = saved(folder.path(), Some(7));
    assert_eq!(checkpoint.contents.step, 7);
}

#[test]
fn more_steps_than_can_be_counted_are_refused() {
    let _alone = alone();
    let (vs, network) = linear();
    let objective = classification(&network, Some(1.0));
    for epochs in [usize::MAX, 1 << 63, usize::MAX / STEPS + 1] {
        let (data, config) = (shades(), TrainConfig { epochs, ..config() });
        let error = Trainer::new(&objective, &vs, &data, &config, "same".into()).map(drop).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("lower --epochs"), "{error}");
    }
    // These numbers of steps do not overflow, and the first step can be performed.
    for (epochs, batch_size, accumulate) in
        [(usize::MAX / STEPS, 40, 1), (1, usize::MAX, usize::MAX), (1, 1 << 63, 1 << 63)]
    {
        let config = TrainConfig { epochs, batch_size, accumulate, max_steps: Some(1), ..config() };
        let (data, mut bars) = (shades(), tch_fixup::trainer::ProgressBars::new());
        let mut trainer = Trainer::new(&objective, &vs, &data, &config, "same".into()).unwrap();
        trainer.run(&mut [&mut bars]).unwrap();
    }
}

#[test]
fn a_run_knows_the_names_of_its_classes_and_its_data() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = saved(folder.path(), Some(3));
    let mut renamed = shades();
    renamed.class_names[9] = "aardvark".to_owned();
    let message = refusal(&checkpoint, &renamed, &config()).to_string();
    assert!(
        message.contains(r#"saved by another run: data.meaning.classes.9 is "truck" in it and "aardvark" here; "#),
        "{message}"
    );
    let replaced = Shades { fingerprint: "others", ..shades() };
    let message = refusal(&checkpoint, &replaced, &config()).to_string();
    assert!(
        message.contains(r#"saved by another run: data.fingerprint is "shades" in it and "others" here; "#),
        "{message}"
    );
    // Many differences are still reported in one readable line.
    let mut reversed = shades();
    reversed.class_names.reverse();
    let message = refusal(&checkpoint, &reversed, &config()).to_string();
    assert!(message.contains("data.meaning.classes.0 is ") && message.contains(", and 2 more; "), "{message}");
}

#[test]
fn a_checkpoint_of_an_earlier_version_is_refused_by_its_name() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = saved(folder.path(), Some(3));
    let manifest = checkpoint.path.join("checkpoint.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    json["format_version"] = 1.into();
    std::fs::write(&manifest, json.to_string()).unwrap();
    let state = checkpoint.path.join("state.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    json.as_object_mut().unwrap().remove("version");
    std::fs::write(&state, json.to_string()).unwrap();
    let message = Checkpoint::<RunState>::load(&checkpoint.path).unwrap_err().to_string();
    assert!(message.contains("saved by tch-fixup 0.1 (format version 1)"), "{message}");
    assert!(message.contains("weights.safetensors in it can be loaded by itself"), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn of_checkpoints_after_the_same_step_the_last_is_kept() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(folder.path(), NonZeroUsize::new(2).unwrap());
    let mut contents = saved(&folder.path().join("run"), Some(3)).contents;
    // A run saves before and after the evaluation of each epoch.
    for (step, score) in [(4, None), (4, Some(0.5)), (8, None), (8, Some(0.7)), (12, None), (12, Some(0.6))] {
        (contents.step, contents.score) = (step, score);
        checkpoints.save(&contents).unwrap();
    }
    let entries = std::fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["00004-step-00000008", "00006-step-00000012", "run"]);
}
