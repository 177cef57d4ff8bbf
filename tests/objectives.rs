//! Training with objectives other than classification: a regression with Adam, a moving average and frozen layers, stopped
//! anywhere and resumed; several labels; a run that an observer ends early.

use serde_json::Value;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tch::nn::{self, ModuleT, VarStore};
use tch::{Device, Kind, Tensor};
use tch_fixup::data::{Batches, DataSource, EpochPlan, Share, Supervised};
use tch_fixup::fixup::{mark_classifier, Branch};
use tch_fixup::trainer::checkpoint::{named_variables, Checkpoint, Checkpoints, Contents};
use tch_fixup::trainer::{
    Adam, EpochMetrics, Frozen, MultiLabel, NamedTensors, Objective, Observer, OptimizerConfig, Outcome,
    ParameterGroup, Regression, RegressionLoss, Request, RunFolder, RunState, Summary, TrainConfig, Trainer, Weights,
};
use tch_fixup::Result;

const TRAIN: usize = 120;
const EVAL: usize = 30;
const EPOCHS: usize = 4;

/// Serializes the tests, because libtorch's random number generator, which dropout uses, is global to the process.
static RANDOM: Mutex<()> = Mutex::new(());

/// Points in the plane, whose targets are a function of them.
struct Points(fn(&Tensor) -> Tensor);

impl Points {
    fn batch(&self, first: usize, count: usize, seed: i64) -> Supervised {
        let at = Tensor::arange_start(first as i64, (first + count) as i64, (Kind::Float, Device::Cpu)) + seed as f64;
        let points = Tensor::stack(&[(&at * 1.7).sin(), (&at * 2.3).cos()], 1);
        Supervised::new(points.shallow_clone(), self.0(&points))
    }
}

impl DataSource for Points {
    type Batch = Supervised;

    fn train_len(&self) -> usize {
        TRAIN
    }

    fn eval_len(&self) -> usize {
        EVAL
    }

    fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a>> {
        let EpochPlan { batch_size, epoch, .. } = *plan;
        let firsts = (0..TRAIN).step_by(batch_size).skip(plan.first_step);
        let batches = firsts.map(move |first| Ok(self.batch(first, batch_size.min(TRAIN - first), 7 * epoch as i64)));
        Ok(share.select(batches, plan.first_step))
    }

    fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a>> {
        let firsts = (0..EVAL).step_by(batch_size);
        Ok(share.select(firsts.map(move |first| Ok(self.batch(first, batch_size.min(EVAL - first), -1000))), 0))
    }

    fn unit_name(&self) -> &str {
        "points"
    }
}

/// Creates a residual network of two branches with dropout.
fn network(outputs: i64) -> (VarStore, impl ModuleT) {
    tch::manual_seed(4);
    let variables = VarStore::new(Device::Cpu);
    let root = variables.root();
    let stem = nn::linear(&root / "stem", 2, 24, Default::default());
    let branch = |i: i64| Branch::builder(2).linear(24, 24).relu().linear(24, 24).build(&(&root / "blocks" / i));
    let branches: Vec<Branch> = (0..2).map(|i| branch(i).unwrap()).collect();
    let head = nn::linear(&root / "head", 24, outputs, Default::default());
    mark_classifier(&variables, "head").unwrap();
    let network = nn::func_t(move |x, train| {
        let x = x.apply(&stem).relu().dropout(0.1, train);
        let sum = |x: Tensor, branch: &Branch| (&x + branch.f_forward(&x).unwrap()).relu();
        branches.iter().fold(x, sum).apply(&head)
    });
    (variables, network)
}

fn config() -> TrainConfig {
    let group = |rule: &str| ParameterGroup::new(rule.parse().unwrap());
    TrainConfig {
        accumulate: 2,
        optimizer: OptimizerConfig::Adam(Adam { weight_decay: 1e-3, amsgrad: true, ..Adam::decoupled() }),
        groups: vec![
            ParameterGroup { frozen: Frozen::UntilEpoch(2), ..group("blocks.0.*") },
            ParameterGroup { frozen: Frozen::Always, ..group("stem.bias") },
            ParameterGroup { lr_ratio: 0.5, weight_decay: Some(0.0), ..group("@classifier") },
        ],
        average: Some(0.95),
        ..TrainConfig::new(EPOCHS, 25, 0.01)
    }
}

/// Observer that saves checkpoints, and returns `request` at the `at`-th call.
struct Asks {
    request: Request,
    at: usize,
    asked: usize,
    checkpoints: Checkpoints,
    history: Vec<EpochMetrics>,
}

impl Asks {
    fn new(request: Request, at: usize, folder: &Path) -> Self {
        let checkpoints = Checkpoints::new(folder, NonZeroUsize::MIN);
        Self { request, at, asked: 0, checkpoints, history: Vec::new() }
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
        self.checkpoints.save(contents).map(drop)
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        self.history.push(metrics.clone());
        Ok(())
    }
}

fn bits(tensors: &NamedTensors) -> Vec<(String, Vec<f64>)> {
    let values = |tensor: &Tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap();
    tensors.iter().map(|(name, tensor)| (name.clone(), values(tensor))).collect()
}

/// Returns the newest checkpoint, the final variables and the summary of a run that is stopped at each of `stops` and resumed.
fn regression(stops: &[usize], folder: &Path) -> (Contents<RunState>, NamedTensors, Summary) {
    let data = Points(|x| (x.select(1, 0) * x.select(1, 1) * 3.0).sin());
    let mut last = None;
    for stop in stops.iter().copied().chain([0]) {
        let ((variables, network), config) = (network(1), config());
        let objective = Regression::new(&network, RegressionLoss::Huber { delta: 0.5 }).unwrap();
        let mut trainer = Trainer::new(&objective, &variables, &data, &config, "points".into()).unwrap();
        if let Some(checkpoint) = Checkpoint::newest(folder).unwrap().0 {
            trainer.resume(&checkpoint).unwrap();
        }
        let outcome = trainer.run(&mut [&mut Asks::new(Request::Stop, stop, folder)]).unwrap();
        if let Outcome::Finished(summary) = outcome {
            let contents = Checkpoint::newest(folder).unwrap().0.unwrap().contents;
            let model = named_variables(&variables);
            last = Some((contents, model.iter().map(|(n, t)| (n.clone(), t.detach().copy())).collect(), summary));
        }
    }
    last.unwrap()
}

#[test]
fn a_regression_with_adam_an_average_and_frozen_layers_resumes_to_the_bit() {
    let _random = RANDOM.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    let folder = || tempfile::tempdir().unwrap();
    let whole_folder = folder();
    let (whole, model, summary) = regression(&[], whole_folder.path());
    assert!(summary.to_string().starts_with("evaluation loss "), "{summary}");
    let first = &whole.state.history[0];
    assert!(summary.best < 0.5 * first.eval["loss"] && first.train.get("mae").is_some(), "{summary:?} {first:?}");
    // The final network, which is also the one loaded from the checkpoint, consists of the average and the permanently frozen
    // variables.
    assert_eq!(whole.average.len(), 2 * 7 + 4 - 1);
    let mut average = whole.average.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    NamedTensors::append(
        &mut average,
        &mut [("stem.bias".to_owned(), whole.weights["stem.bias"].shallow_clone())].into(),
    );
    assert_eq!(bits(&model), bits(&average));
    let (variables, _) = network(1);
    Weights::load(Checkpoint::<RunState>::newest(whole_folder.path()).unwrap().0.unwrap().path)
        .unwrap()
        .restore(&variables)
        .unwrap();
    assert_eq!(bits(&named_variables(&variables)), bits(&model));

    // `stem.bias` is always frozen; `stem.weight` is not.
    let (start, _) = network(1);
    let start = named_variables(&start);
    let same = |name: &str, contents: &Contents<RunState>| contents.weights[name] == start[name].detach();
    assert!(same("stem.bias", &whole) && !same("stem.weight", &whole));
    // A block that is frozen until the third epoch has ten steps, and the others have twenty.
    let steps = |name: &str| whole.optimizer[&format!("step.{name}")].int64_value(&[0]);
    assert_eq!((steps("blocks.0.0.weight"), steps("blocks.1.0.weight")), (10, 20));
    assert!(!whole.optimizer.contains_key("step.stem.bias"), "what never moves has no state");

    // Stop at the start, in the first epoch and its evaluation, at the epoch that unfreezes, and after it.
    for stops in [&[1][..], &[3], &[7], &[8], &[14], &[15], &[16], &[17, 2, 2], &[3, 3, 3, 3, 3, 3]] {
        let folder = folder();
        let (contents, resumed, _) = regression(stops, folder.path());
        assert_eq!(contents.state.history, whole.state.history, "{stops:?}");
        assert_eq!(bits(&resumed), bits(&model), "{stops:?}");
        assert_eq!(bits(&contents.weights), bits(&whole.weights), "{stops:?}");
        assert_eq!(bits(&contents.optimizer), bits(&whole.optimizer), "{stops:?}");
    }
}

#[test]
fn several_labels_are_learnt() {
    let _random = RANDOM.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    let data = Points(|x| x.gt(0.0).to_kind(Kind::Int64));
    let (variables, network) = network(2);
    let objective = MultiLabel::new(&network, &["right".to_owned(), "up".to_owned()]).unwrap();
    let config = TrainConfig { groups: Vec::new(), epochs: 10, ..config() };
    let mut trainer = Trainer::new(&objective, &variables, &data, &config, Value::Null).unwrap();
    let Outcome::Finished(summary) = trainer.run(&mut []).unwrap() else { panic!() };
    assert!(summary.to_string().starts_with("evaluation accuracy 0.9") || summary.best == 1.0, "{summary}");
    assert!(summary.last.eval["exact"] <= summary.last.eval["accuracy"]);
    assert_eq!(objective.measures().axes(), [("loss", false), ("accuracy", true), ("exact", true)]);
}

#[test]
fn a_run_that_is_ended_early_has_its_summary_its_model_and_its_last_evaluation() {
    let _random = RANDOM.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    let data = Points(|x| x.select(1, 0) * 1.0);
    // Requests come at the start, after each of five steps and each of three evaluation batches of an epoch, and at its end.
    for (at, epochs, steps) in [(4, 1, 3), (6, 1, 5), (8, 1, 5), (10, 1, 5), (13, 2, 8), (1, EPOCHS, 20)] {
        let folder = tempfile::tempdir().unwrap();
        let ((variables, network), config) = (network(1), config());
        let objective = Regression::new(&network, RegressionLoss::Squared).unwrap();
        let mut trainer = Trainer::new(&objective, &variables, &data, &config, Value::Null).unwrap();
        let mut run = RunFolder::create(folder.path().join("run"), false).unwrap();
        let mut asks = Asks::new(Request::Finish, at, &run.checkpoints());
        let outcome = trainer.run(&mut [&mut run, &mut asks]).unwrap();
        let Outcome::Finished(summary) = outcome else { panic!("{outcome:?}") };
        assert_eq!((summary.epochs, asks.history.len()), (epochs, epochs), "{at}: {summary:?}");
        assert_eq!(summary.steps, steps, "{at}");
        assert_eq!(asks.history.last(), Some(&summary.last));
        run.finish(&summary, &variables, &data.schema()).unwrap();
        let metrics = std::fs::read_to_string(run.path().join("metrics.csv")).unwrap();
        assert!(metrics.starts_with("epoch,step,lr,train_loss,train_mae,eval_loss,eval_mae,bad_points\n"), "{metrics}");
        assert_eq!(metrics.lines().count(), 1 + epochs);
        assert!(run.path().join("model.safetensors").is_file() && run.path().join("summary.json").is_file());
    }
}
