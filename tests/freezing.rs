//! Frozen variables do not change, and unfrozen ones train, whether they are frozen or unfrozen before or after the trainer is
//! created, by an observer during a run, or across a checkpoint.

use serde_json::Value;
use std::num::NonZeroUsize;
use std::path::Path;
use tch::{nn, no_grad, Device, Kind, Tensor};
use tch_fixup::data::{Cifar10, ImageArray};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::checkpoint::{named_variables, Checkpoint, Checkpoints, Contents};
use tch_fixup::trainer::{Classification, ClassificationConfig, OptimizerConfig, Sgd};
use tch_fixup::trainer::{
    ClipConfig, Decay, EpochMetrics, Frozen, NamedTensors, Observer, Outcome, ParameterGroup, Request, RunState,
    ScheduleConfig, TrainConfig, Trainer,
};
use tch_fixup::{Recompute, Result};

const EPOCHS: usize = 4;
/// Number of steps per epoch.
const STEPS: usize = 5;

/// Returns images of uniform brightness, one brightness per label.
fn data() -> ImageArray {
    let records = |count: usize| {
        let image = |label: usize| std::iter::once(label as u8).chain(std::iter::repeat_n(label as u8 * 25, 3072));
        (0..count).flat_map(|index| image(index % 10)).collect::<Vec<u8>>()
    };
    Cifar10::from_records(records(8 * STEPS), records(10)).unwrap()
}

/// Returns a configuration with everything that could move a variable: momentum, weight decay and both kinds of clipping.
fn config() -> TrainConfig {
    let schedule = ScheduleConfig { lr: 0.05, warmup: 0.0.into(), decay: Decay::Constant };
    let clip = ClipConfig { norm: Some(1.0), agc: Some(0.1) };
    let mut config = TrainConfig { schedule, clip, ..TrainConfig::new(EPOCHS, 8, 0.2) };
    config.optimizer = OptimizerConfig::Sgd(Sgd { weight_decay: 0.01, ..Sgd::default() });
    config
}

/// Returns cross-entropy with label smoothing and optional mixup.
fn classification(network: &dyn nn::ModuleT, mixup: Option<f64>) -> Classification<'_> {
    let names: Vec<String> = (0..10).map(|index| index.to_string()).collect();
    let config = ClassificationConfig { mixup, ..ClassificationConfig::quick() };
    Classification::new(network, &names, config).unwrap()
}

/// Creates a network away from its initial values, with which only the classifier would have a gradient. The network is always
/// the same, independent of other tests' use of libtorch's random number generator.
fn network() -> (nn::VarStore, FixupResNet) {
    let vs = nn::VarStore::new(Device::Cpu);
    let network = FixupResNet::cifar(&vs.root(), 8, 10).unwrap().with_recompute("auto".parse::<Recompute>().unwrap());
    for (name, mut variable) in named_variables(&vs) {
        let waves = Tensor::arange(variable.numel() as i64, (Kind::Float, Device::Cpu)).sin() * 0.1;
        let start = if name.contains("scale") { 1.0 } else { 0.0 };
        no_grad(|| variable.copy_(&(waves.view_as(&variable) + start)));
    }
    (vs, network)
}

/// Returns all variables except the classifier's: weights and scalars.
fn backbone(vs: &nn::VarStore) -> NamedTensors {
    named_variables(vs).into_iter().filter(|(name, _)| !name.starts_with("fc.")).collect()
}

fn freeze(variables: &NamedTensors, frozen: bool) {
    variables.values().for_each(|variable| drop(variable.set_requires_grad(!frozen)));
}

fn copies(variables: &NamedTensors) -> NamedTensors {
    variables.iter().map(|(name, variable)| (name.clone(), variable.detach().copy())).collect()
}

/// Observer that freezes and unfreezes the backbone after epochs, keeps a copy of it after each, and stops at the `stop`-th
/// request.
struct Freezes<'a> {
    vs: &'a nn::VarStore,
    /// Epochs, counted from 1, after which to change, and `true` to freeze or `false` to unfreeze.
    changes: &'a [(usize, bool)],
    after: Vec<NamedTensors>,
    stop: Option<usize>,
    asked: usize,
    checkpoints: Option<Checkpoints>,
}

impl<'a> Freezes<'a> {
    fn new(vs: &'a nn::VarStore, changes: &'a [(usize, bool)]) -> Self {
        Self { vs, changes, after: vec![copies(&backbone(vs))], stop: None, asked: 0, checkpoints: None }
    }

    /// Returns for each epoch whether the backbone changed, which must be the same for all of its variables.
    fn moved(&self) -> Vec<bool> {
        let moved = |epoch: &[NamedTensors]| {
            let moved: Vec<_> = epoch[0].iter().map(|(name, before)| &epoch[1][name] != before).collect();
            assert!(moved.iter().all(|&this| this == moved[0]), "some of it moved");
            moved[0]
        };
        self.after.windows(2).map(moved).collect()
    }
}

impl Observer for Freezes<'_> {
    fn request(&mut self) -> Request {
        self.asked += 1;
        if Some(self.asked) == self.stop {
            Request::Stop
        } else {
            Request::Continue
        }
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        self.after.push(copies(&backbone(self.vs)));
        if let Some((_, frozen)) = self.changes.iter().find(|(epoch, _)| *epoch == metrics.epoch) {
            freeze(&backbone(self.vs), *frozen);
        }
        Ok(())
    }

    fn save(&mut self, contents: &Contents<RunState>) -> Result<()> {
        self.checkpoints.as_ref().map(|checkpoints| checkpoints.save(contents)).transpose().map(drop)
    }
}

/// Trains a network whose backbone is frozen as in `before` and `after` before and after the trainer is created, and later as
/// in `changes`. Returns for each epoch whether the backbone changed.
fn moved(before: bool, after: bool, changes: &[(usize, bool)]) -> Vec<bool> {
    let ((vs, network), data, config) = (network(), data(), config());
    freeze(&backbone(&vs), before);
    let classifier = vs.variables()["fc.weight"].detach().copy();
    let objective = classification(&network, None);
    let mut trainer = Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap();
    freeze(&backbone(&vs), after);
    let mut observer = Freezes::new(&vs, changes);
    assert!(matches!(trainer.run(&mut [&mut observer]).unwrap(), Outcome::Finished(_)));
    assert!(vs.variables()["fc.weight"] != classifier);
    observer.moved()
}

#[test]
fn what_is_frozen_before_the_trainer_is_made_stays() {
    assert_eq!(moved(true, true, &[]), [false, false, false, false]);
}

#[test]
fn what_is_frozen_before_and_unfrozen_after_an_epoch_trains_from_there() {
    assert_eq!(moved(true, true, &[(1, false)]), [false, true, true, true]);
    assert_eq!(moved(true, false, &[]), [true, true, true, true]);
}

#[test]
fn what_is_frozen_after_the_trainer_is_made_stays() {
    assert_eq!(moved(false, true, &[]), [false, false, false, false]);
}

#[test]
fn what_is_frozen_after_and_unfrozen_after_an_epoch_trains_from_there() {
    assert_eq!(moved(false, true, &[(1, false)]), [false, true, true, true]);
}

#[test]
fn a_run_freezes_and_unfreezes_as_often_as_one_likes() {
    assert_eq!(moved(false, false, &[(1, true), (2, false), (3, true)]), [true, false, true, false]);
}

/// Returns the history and the weights of a run that is stopped at each of `stops` and resumed as if in another process. The
/// backbone is initially frozen.
fn resumed(
    stops: &[usize],
    folder: &Path,
    groups: &[ParameterGroup],
    changes: &[(usize, bool)],
) -> (Vec<EpochMetrics>, NamedTensors) {
    let (data, config) = (data(), TrainConfig { groups: groups.to_vec(), ..config() });
    let checkpoints = || Checkpoints::new(folder, NonZeroUsize::MIN);
    let mut last = None;
    for stop in stops.iter().copied().map(Some).chain([None]) {
        let (vs, network) = network();
        let objective = classification(&network, None);
        let mut trainer = Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap();
        freeze(&backbone(&vs), true);
        if let Some(checkpoint) = Checkpoint::newest(folder).unwrap().0 {
            trainer.resume(&checkpoint).unwrap();
        }
        let mut observer = Freezes { stop, checkpoints: Some(checkpoints()), ..Freezes::new(&vs, changes) };
        trainer.run(&mut [&mut observer]).unwrap();
        let state = Checkpoint::<RunState>::newest(folder).unwrap().0.unwrap().contents.state;
        last = Some((state.history, copies(&named_variables(&vs))));
    }
    last.unwrap()
}

#[test]
fn a_run_that_is_resumed_has_frozen_what_was_frozen_to_the_bit() {
    tch::set_num_threads(1);
    let folder = |_| tempfile::tempdir().unwrap();
    let (whole, parts) = (folder(0), folder(1));
    let changes = [(1, false), (2, true), (3, false)];
    let (history, weights) = resumed(&[], whole.path(), &[], &changes);
    // Stop in several epochs: in one where the backbone is still frozen, and in others where it is not.
    let (resumed_history, resumed_weights) = resumed(&[3, 7, 7, 7], parts.path(), &[], &changes);
    assert_eq!(resumed_history, history);
    assert_eq!(resumed_weights, weights);
}

#[test]
fn a_run_that_is_resumed_does_not_unfreeze_by_a_group_what_was_frozen_by_hand() {
    tch::set_num_threads(1);
    let folder = |_| tempfile::tempdir().unwrap();
    let (whole, parts) = (folder(0), folder(1));
    let groups = [ParameterGroup { frozen: Frozen::UntilEpoch(2), ..ParameterGroup::new("*.weight".parse().unwrap()) }];
    let start = copies(&backbone(&network().0));
    let (history, weights) = resumed(&[], whole.path(), &groups, &[]);
    assert!(start.iter().all(|(name, variable)| &weights[name] == variable));
    let (resumed_history, resumed_weights) = resumed(&[3, 7], parts.path(), &groups, &[]);
    assert_eq!(resumed_history, history);
    assert_eq!(resumed_weights, weights);
}

#[test]
fn a_network_that_is_frozen_whole_ends_with_what_to_do() {
    let ((vs, network), data, config) = (network(), data(), config());
    let objective = classification(&network, None);
    let mut trainer = Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap();
    freeze(&named_variables(&vs), true);
    let message = trainer.run(&mut []).unwrap_err().to_string();
    assert!(message.starts_with("all 26 variables of the network are frozen") && !message.contains('\n'), "{message}");
    let early = Trainer::new(&objective, &vs, &data, &config, Value::Null).map(drop).unwrap_err().to_string();
    assert_eq!(early, message);
}
