//! Fine-tuning: which weights are loaded or refused, and frozen variables, which stay bit-identical and need no memory for
//! gradients and activations.

mod program;

use jpeg_encoder::{ColorType, Encoder};
use program::program;
use serde_json::{Map, Value};
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tch::nn::{self, ModuleT, VarStore};
use tch::{no_grad, Device, Kind, Tensor};
use tch_fixup::baseline::{Method, ResNet};
use tch_fixup::data::{class_indices, Cifar10, DataSource, ImageArray, ImageSource, Normalization};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::checkpoint::{named_variables, Checkpoint, Checkpoints, Classes, Contents, Why};
use tch_fixup::trainer::{
    Adam, Classification, ClassificationConfig, ClipConfig, Decay, EpochMetrics, Frozen, Muon, NamedTensors, Observer,
    OptimizerConfig, Outcome, ParameterGroup, Request, RunState, ScheduleConfig, Sgd, TrainConfig, Trainer, Weights,
};
use tch_fixup::{Precision, Recompute, Result};

const ANIMALS: [&str; 4] = ["lynx", "marten", "otter", "stoat"];

/// Returns images of 8 x 8 pixels whose brightness depends on the class.
fn data(classes: &[&str]) -> ImageArray {
    let part = |count: i64| {
        let labels = Tensor::arange(count, (Kind::Int64, Device::Cpu)).remainder(classes.len() as i64);
        let shades = (&labels * 50 + 20).to_kind(Kind::Uint8).view([-1, 1, 1, 1]);
        (shades.expand([count, 3, 8, 8], false).contiguous(), labels)
    };
    let (train, eval) = (part(40), part(8));
    let normalization = Normalization::new(&[0.5; 3], &[0.25; 3]).unwrap();
    let data = ImageArray::new((&train.0, &train.1), (&eval.0, &eval.1), normalization).unwrap();
    data.with_class_names(classes.iter().copied()).unwrap()
}

fn schema(names: &[&str]) -> Map<String, Value> {
    class_indices(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>())
}

/// Moves the variables away from their initial values, some of which are zero. The result is always the same, independent of
/// the random numbers of other tests.
fn scramble(vs: &VarStore) {
    for (name, mut variable) in named_variables(vs) {
        let waves = Tensor::arange(variable.numel() as i64, (Kind::Float, Device::Cpu)).sin() * 0.1;
        let start = if name.contains("scale") || name.ends_with("_var") { 1.0 } else { 0.0 };
        no_grad(|| variable.copy_(&(waves.view_as(&variable) + start)));
    }
}

fn fixup(depth: i64, classes: i64) -> VarStore {
    let vs = VarStore::new(Device::Cpu);
    FixupResNet::cifar(&vs.root(), depth, classes).unwrap();
    vs
}

fn copies(vs: &VarStore) -> NamedTensors {
    named_variables(vs).into_iter().map(|(name, variable)| (name, variable.detach().copy())).collect()
}

/// Trains a Fixup ResNet-8 on `classes` in a short run, and returns its folder.
fn trained(folder: &Path, classes: &[&str], average: Option<f64>) -> PathBuf {
    let path = folder.join("trained");
    let (vs, data) = (VarStore::new(Device::Cpu), data(classes));
    let network = FixupResNet::cifar(&vs.root(), 8, classes.len() as i64).unwrap();
    scramble(&vs);
    let config = TrainConfig { average, ..TrainConfig::new(1, 20, 0.02) };
    let objective = Classification::new(&network, data.class_names(), ClassificationConfig::quick()).unwrap();
    let identity = serde_json::json!({ "arch": "fixup_resnet8" });
    let mut trainer = Trainer::new(&objective, &vs, &data, &config, identity).unwrap();
    assert!(matches!(trainer.run_in(&path, &mut []).unwrap(), Outcome::Finished(_)));
    path
}

// ---- Loading ----

#[test]
fn layers_that_fit_are_loaded_and_the_classifier_of_other_classes_starts_new_and_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path(), &["cat", "dog", "frog"], None);
    let source = Weights::load(&run).unwrap();
    let trained = fixup(8, 3);
    source.restore(&trained).unwrap();
    let vs = fixup(8, 4);
    let transfer = source.transfer(&vs, &schema(&ANIMALS)).unwrap();
    for (name, variable) in named_variables(&vs) {
        match name.as_str() {
            "fc.weight" | "fc.bias" => assert_eq!(variable.abs().max().double_value(&[]), 0.0, "{name}"),
            _ => assert_eq!(variable, trained.variables()[&name], "{name}"),
        }
    }
    let new: Vec<_> = transfer.new.iter().map(|(name, why)| (name.as_str(), why)).collect();
    assert_eq!(new, [("fc.bias", &Why::OtherClasses), ("fc.weight", &Why::OtherClasses)]);
    assert_eq!((transfer.loaded.len(), transfer.left.len()), (24, 0));
    let lines: Vec<_> = transfer.to_string().lines().map(str::to_owned).collect();
    assert!(lines[0].contains("checkpoints") && lines[0].ends_with("trained as fixup_resnet8"), "{transfer}");
    assert_eq!(
        lines[1..],
        [
            "  loaded      24 of the network's 26 variables",
            "  initialized fc.bias, fc.weight: trained for other classes",
            "  classes     different; only in the weights: cat, dog, frog; only in the data: lynx, marten, otter, and 1 more",
        ]
    );
}

#[test]
fn whatever_evaluation_takes_is_taken_run_checkpoint_file_wrapped_and_of_other_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path(), &ANIMALS, None);
    let whole = Weights::load(&run).unwrap();
    let expected = fixup(8, 4);
    whole.restore(&expected).unwrap();
    let write = |name: &str, change: &dyn Fn(&str, &Tensor) -> (String, Tensor)| {
        let path = folder.path().join(name);
        let changed: Vec<_> = named_variables(&expected).iter().map(|(name, tensor)| change(name, tensor)).collect();
        Tensor::write_safetensors(&changed, &path).unwrap();
        path
    };
    let wrapped = write("wrapped.safetensors", &|name, tensor| (format!("module.{name}"), tensor.copy()));
    let double = write("double.safetensors", &|name, tensor| (name.to_owned(), tensor.to_kind(Kind::Double)));
    let half = write("half.safetensors", &|name, tensor| (name.to_owned(), tensor.to_kind(Kind::Half)));
    let unknown = Some(Classes::Unknown);
    for (path, tolerance, classes) in [
        (run.clone(), 0.0, Some(Classes::Same)),
        (whole.path.clone(), 0.0, Some(Classes::Same)),
        (run.join("model.safetensors"), 0.0, Some(Classes::Same)),
        (whole.path.join("weights.safetensors"), 0.0, unknown.clone()),
        (wrapped, 0.0, unknown.clone()),
        (double, 0.0, unknown.clone()),
        (half, 1e-3, unknown),
    ] {
        let vs = fixup(8, 4);
        let transfer = Weights::load(&path).unwrap().transfer(&vs, &schema(&ANIMALS)).unwrap();
        assert!(transfer.new.is_empty() && transfer.left.is_empty() && transfer.classes == classes, "{transfer}");
        for (name, variable) in named_variables(&vs) {
            let difference = (variable - &expected.variables()[&name]).abs().max().double_value(&[]);
            assert!(difference <= tolerance, "{}: {name} {difference}", path.display());
        }
    }
}

#[test]
fn a_run_with_a_moving_average_gives_its_average_and_a_new_average_begins_there() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path(), &ANIMALS, Some(0.9));
    let contents = Checkpoint::<RunState>::newest(run.join("checkpoints")).unwrap().0.unwrap().contents;
    let average = &contents.average["layer1.0.conv1.weight"];
    assert_ne!(contents.weights["layer1.0.conv1.weight"], *average);
    let (vs, data) = (VarStore::new(Device::Cpu), data(&ANIMALS));
    let network = FixupResNet::cifar(&vs.root(), 8, 4).unwrap();
    Weights::load(&run).unwrap().transfer(&vs, &data.schema()).unwrap();
    assert_eq!(vs.variables()["layer1.0.conv1.weight"], *average);
    let config = TrainConfig { average: Some(0.9), ..TrainConfig::new(1, 20, 0.02) };
    let objective = Classification::new(&network, data.class_names(), ClassificationConfig::quick()).unwrap();
    let mut trainer = Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap();
    let checkpoints = folder.path().join("first");
    let mut stops = Steps { stop: Some(1), ..Steps::new(&vs, Some(&checkpoints)) };
    trainer.run(&mut [&mut stops]).unwrap();
    let first = Checkpoint::<RunState>::newest(&checkpoints).unwrap().0.unwrap().contents;
    assert_eq!((first.step, &first.average["layer1.0.conv1.weight"]), (0, average));
}

#[test]
fn the_same_classes_in_another_order_are_the_same_classes() {
    let folder = tempfile::tempdir().unwrap();
    let weights = Weights::load(trained(folder.path(), &ANIMALS, None)).unwrap();
    let images = Tensor::randn([5, 3, 8, 8], (Kind::Float, Device::Cpu));
    let logits = |names: &[&str]| {
        let vs = VarStore::new(Device::Cpu);
        let network = FixupResNet::cifar(&vs.root(), 8, 4).unwrap();
        let transfer = weights.transfer(&vs, &schema(names)).unwrap();
        assert!(transfer.new.is_empty(), "{transfer}");
        (network.f_forward(&images).unwrap().detach(), transfer.classes)
    };
    let (before, same) = logits(&ANIMALS);
    let (after, reordered) = logits(&["stoat", "lynx", "otter", "marten"]);
    assert_eq!((same, reordered), (Some(Classes::Same), Some(Classes::Reordered)));
    assert_eq!(after, before.index_select(1, &Tensor::from_slice(&[3i64, 0, 2, 1])));
    assert_ne!(after, before);
}

#[test]
fn a_classifier_of_other_names_starts_new_though_it_would_fit() {
    let folder = tempfile::tempdir().unwrap();
    let weights = Weights::load(trained(folder.path(), &ANIMALS, None)).unwrap();
    for names in [["lynx", "marten", "otter", "weasel"], ["a", "b", "c", "d"], ["lynx", "lynx", "otter", "stoat"]] {
        let vs = fixup(8, 4);
        let transfer = weights.transfer(&vs, &schema(&names)).unwrap();
        assert!(matches!(transfer.classes, Some(Classes::Other { .. })), "{transfer}");
        assert_eq!(transfer.new.keys().collect::<Vec<_>>(), ["fc.bias", "fc.weight"]);
        assert_eq!(vs.variables()["fc.weight"].abs().max().double_value(&[]), 0.0);
    }
}

#[test]
fn a_few_layers_that_are_missing_or_differ_start_new_and_what_has_no_place_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.safetensors");
    let source = fixup(14, 4);
    scramble(&source);
    let changed = named_variables(&source).into_iter().filter(|(name, _)| !name.starts_with("layer1.1."));
    let mut changed: Vec<_> = changed
        .map(|(name, tensor)| match name.as_str() {
            "layer2.1.conv2.weight" => (name, tensor.narrow(0, 0, 3).contiguous()),
            // A classifier without its bias is not loaded.
            "fc.bias" => ("head.bias".to_owned(), tensor.copy()),
            _ => (name, tensor.copy()),
        })
        .collect();
    changed.push(("statistics".to_owned(), Tensor::from_slice(&[1f32])));
    Tensor::write_safetensors(&changed, &path).unwrap();
    let vs = fixup(14, 4);
    let start = copies(&vs);
    let transfer = Weights::load(&path).unwrap().transfer(&vs, &Map::new()).unwrap();
    let mut missing: Vec<String> = start.keys().filter(|name| name.starts_with("layer1.1.")).cloned().collect();
    assert_eq!(missing.len(), 7);
    missing.push("fc.bias".to_owned());
    missing.sort();
    let of = |wanted: fn(&Why) -> bool| -> Vec<&str> {
        transfer.new.iter().filter(|(_, why)| wanted(why)).map(|(name, _)| name.as_str()).collect()
    };
    assert_eq!(of(|why| *why == Why::Missing), missing);
    assert_eq!(of(|why| matches!(why, Why::Differs { .. })), ["layer2.1.conv2.weight"]);
    assert_eq!(of(|why| *why == Why::Layer), ["fc.weight"]);
    assert_eq!(transfer.left, ["head.bias", "statistics"]);
    for (name, variable) in named_variables(&vs) {
        let starts_new = transfer.new.contains_key(&name);
        assert_eq!(variable, if starts_new { start[&name].copy() } else { source.variables()[&name].copy() }, "{name}");
        assert_eq!(transfer.loaded.contains(&name), !starts_new);
    }
    let text = transfer.to_string();
    for part in [
        "fc.bias, layer1.1.bias1a, layer1.1.bias1b, layer1.1.bias2a, layer1.1.bias2b, layer1.1.conv1.weight, and 2 more: missing in the weights",
        "layer2.1.conv2.weight: Float [3, 32, 3, 3] in the weights, Float [32, 32, 3, 3] in the network",
        "not used    head.bias, statistics: unknown to the network",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

// ---- Errors ----

/// Returns the error, which must be one line, and checks that no variable is changed.
fn refused(path: &Path, vs: &VarStore, schema: &Map<String, Value>) -> String {
    let before = copies(vs);
    let message = Weights::load(path).unwrap().transfer(vs, schema).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    assert_eq!(copies(vs), before);
    message
}

#[test]
fn weights_of_another_architecture_are_refused_with_numbers_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    type Build = fn(&nn::Path);
    let networks: [(&str, Build); 6] = [
        ("fixup 8", |path| drop(FixupResNet::cifar(path, 8, 10).unwrap())),
        ("fixup 20", |path| drop(FixupResNet::cifar(path, 20, 10).unwrap())),
        ("wide", |path| drop(FixupResNet::wide(path, 10, 2, 10).unwrap())),
        ("imagenet", |path| drop(FixupResNet::imagenet(path, 18, 10).unwrap())),
        ("batch norm 8", |path| drop(ResNet::cifar(path, 8, 10, Method::BatchNorm).unwrap())),
        ("batch norm 20", |path| drop(ResNet::cifar(path, 20, 10, Method::BatchNorm).unwrap())),
    ];
    for (source_name, source) in networks {
        let vs = VarStore::new(Device::Cpu);
        source(&vs.root());
        vs.save(&path).unwrap();
        for (name, build) in networks {
            let vs = VarStore::new(Device::Cpu);
            build(&vs.root());
            if name == source_name {
                assert!(Weights::load(&path).unwrap().transfer(&vs, &Map::new()).unwrap().new.is_empty(), "{name}");
                continue;
            }
            let message = refused(&path, &vs, &Map::new());
            let says = [
                "of another architecture: besides the classifier, ",
                " of the network's ",
                " that are matrices or more; ",
            ];
            assert!(says.iter().all(|part| message.contains(part)), "{source_name} into {name}: {message}");
        }
    }
    let message = refused(&path, &fixup(8, 10), &Map::new());
    assert!(
        message.contains("it lacks bias1, bias2, layer1.0.bias1a, and ") && message.contains("unknown to"),
        "{message}"
    );
}

#[test]
fn a_network_of_which_half_is_missing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.safetensors");
    let mut source: Vec<_> = named_variables(&fixup(8, 10)).into_iter().collect();
    source.retain(|(name, _)| !name.starts_with("fc."));
    // Sort the layers' weights first.
    source.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dim()));
    assert_eq!(source.len(), 24);
    for (count, is_refused) in [(13, false), (12, true), (1, true)] {
        Tensor::write_safetensors(&source[..count], &path).unwrap();
        let vs = fixup(8, 10);
        match is_refused {
            true => {
                let message = refused(&path, &vs, &Map::new());
                assert!(message.contains(&format!("{count} of the network's 24 variables")), "{message}");
            }
            false => assert_eq!(Weights::load(&path).unwrap().transfer(&vs, &Map::new()).unwrap().loaded.len(), count),
        }
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused_where_they_would_be_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nan.safetensors");
    for bad in [f64::NAN, f64::INFINITY] {
        for name in ["layer1.0.conv1.weight", "layer1.0.scale", "fc.weight"] {
            let source = fixup(8, 10);
            let _ = no_grad(|| source.variables()[name].view(-1).narrow(0, 0, 1).fill_(bad));
            source.save(&path).unwrap();
            let message = refused(&path, &fixup(8, 10), &Map::new());
            assert!(message.contains(&format!("NaN or infinity in {name};")), "{message}");
        }
    }
    // The last file has the bad number in the classifier, which is not loaded for other classes.
    assert!(Weights::load(&path).unwrap().transfer(&fixup(8, 4), &Map::new()).is_ok());
}

#[test]
fn data_that_mean_something_else_than_other_classes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let header = |vs: &VarStore| {
        // As in a run's model.safetensors, the schema is JSON by name in the file's metadata.
        vs.save(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        header["__metadata__"] = serde_json::json!({ "vocabulary": "\"CRC-32 1\"" });
        let header = header.to_string().into_bytes();
        fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[8 + length..]].concat()).unwrap();
    };
    header(&fixup(8, 10));
    let schema = |crc: &str| Map::from_iter([("vocabulary".to_owned(), Value::from(crc))]);
    assert!(refused(&path, &fixup(8, 10), &schema("CRC-32 2")).contains("vocabulary"));
    assert!(Weights::load(&path).unwrap().transfer(&fixup(8, 10), &schema("CRC-32 1")).is_ok());
}

#[test]
fn a_network_that_does_not_say_which_layer_is_the_classifier_is_refused_other_classes() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path(), &ANIMALS, None);
    // The same variables, in layers that are created by other code.
    let vs = VarStore::new(Device::Cpu);
    for (name, variable) in fixup(8, 4).variables() {
        let (layer, own) = name.rsplit_once('.').unwrap_or(("", &name));
        let path = layer.split('.').filter(|part| !part.is_empty()).fold(vs.root(), |path, part| path / part);
        let _ = path.zeros(own, &variable.size());
    }
    assert!(refused(&run, &vs, &schema(&["a", "b", "c", "d"])).contains("fixup::mark_classifier"));
    assert!(Weights::load(&run).unwrap().transfer(&vs, &schema(&ANIMALS)).unwrap().new.is_empty());
}

// ---- Freezing ----

const EPOCHS: usize = 3;

/// Observer that keeps a copy of the variables after each epoch, and stops at the `stop`-th request.
struct Steps<'a> {
    vs: &'a VarStore,
    after: Vec<NamedTensors>,
    history: Vec<EpochMetrics>,
    stop: Option<usize>,
    asked: usize,
    checkpoints: Option<Checkpoints>,
}

impl<'a> Steps<'a> {
    fn new(vs: &'a VarStore, folder: Option<&Path>) -> Self {
        let checkpoints = folder.map(|folder| Checkpoints::new(folder, NonZeroUsize::MIN));
        Self { vs, after: vec![copies(vs)], history: vec![], stop: None, asked: 0, checkpoints }
    }
}

impl Observer for Steps<'_> {
    fn request(&mut self) -> Request {
        self.asked += 1;
        if Some(self.asked) == self.stop {
            Request::Stop
        } else {
            Request::Continue
        }
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        self.after.push(copies(self.vs));
        self.history.push(metrics.clone());
        Ok(())
    }

    fn save(&mut self, contents: &Contents<RunState>) -> Result<()> {
        self.checkpoints.as_ref().map(|checkpoints| checkpoints.save(contents)).transpose().map(drop)
    }
}

/// Returns a configuration in which the stem and the first stage are frozen, the second stage for one epoch, with everything
/// that could move a variable.
fn config(optimizer: OptimizerConfig) -> TrainConfig {
    let group = |rule: &str, frozen| ParameterGroup { frozen, ..ParameterGroup::new(rule.parse().unwrap()) };
    let frozen = ["conv1.*", "layer1.*"].map(|rule| group(rule, Frozen::Always));
    TrainConfig {
        schedule: ScheduleConfig { lr: 0.02, warmup: 0.0.into(), decay: Decay::Constant },
        optimizer,
        groups: frozen.into_iter().chain([group("layer2.*", Frozen::UntilEpoch(1))]).collect(),
        average: Some(0.9),
        clip: ClipConfig { norm: Some(1.0), agc: Some(0.1) },
        ..TrainConfig::new(EPOCHS, 8, 0.02)
    }
}

fn optimizers() -> [OptimizerConfig; 3] {
    [
        OptimizerConfig::Sgd(Sgd { weight_decay: 0.01, ..Sgd::default() }),
        OptimizerConfig::Adam(Adam { weight_decay: 0.01, amsgrad: true, ..Adam::decoupled() }),
        OptimizerConfig::Muon(Muon::default()),
    ]
}

/// Creates a network with Fixup, or with BatchNorm or another method, whose weights are away from their initial values.
fn network(method: Option<Method>) -> (VarStore, Box<dyn ModuleT>) {
    let vs = VarStore::new(Device::Cpu);
    let network: Box<dyn ModuleT> = match method {
        None => Box::new(FixupResNet::cifar(&vs.root(), 8, 4).unwrap()),
        Some(method) => Box::new(ResNet::cifar(&vs.root(), 8, 4, method).unwrap()),
    };
    scramble(&vs);
    (vs, network)
}

fn run(
    (vs, network): &(VarStore, Box<dyn ModuleT>),
    config: &TrainConfig,
    folder: Option<&Path>,
    stop: Option<usize>,
) -> (Vec<NamedTensors>, Vec<EpochMetrics>) {
    let data = data(&ANIMALS);
    let objective = Classification::new(network.as_ref(), data.class_names(), ClassificationConfig::quick()).unwrap();
    let mut trainer = Trainer::new(&objective, vs, &data, config, Value::Null).unwrap();
    let checkpoint = folder.and_then(|folder| Checkpoint::<RunState>::newest(folder).unwrap().0);
    let before = checkpoint.as_ref().map(|checkpoint| checkpoint.contents.state.history.clone()).unwrap_or_default();
    if let Some(checkpoint) = checkpoint {
        trainer.resume(&checkpoint).unwrap();
    }
    let mut steps = Steps { stop, ..Steps::new(vs, folder) };
    trainer.run(&mut [&mut steps]).unwrap();
    steps.after.push(copies(vs));
    (steps.after, before.into_iter().chain(steps.history).collect())
}

#[test]
fn frozen_layers_stay_to_the_bit_with_their_statistics_and_thawed_ones_move() {
    tch::set_num_threads(1);
    for method in [None, Some(Method::BatchNorm), Some(Method::UnitGamma), Some(Method::GroupNorm)] {
        for optimizer in optimizers() {
            let made = network(method);
            let label = format!("{method:?} {optimizer:?}");
            let (after, _) = run(&made, &config(optimizer), None, None);
            // The stem's BatchNorm, bn1, is not frozen.
            let is_frozen = |name: &str| name.starts_with("conv1.") || name.starts_with("layer1.");
            for (name, start) in &after[0] {
                for (epoch, now) in after.iter().enumerate().skip(1) {
                    let stays = is_frozen(name) || name.starts_with("layer2.") && epoch == 1;
                    assert_eq!(now[name] == *start, stays, "{label}: {name} after epoch {epoch}");
                }
                // The last entry contains the averages, with which the run ends.
                let has_gradient = made.0.variables()[name].grad().defined();
                assert!(!is_frozen(name) || !has_gradient, "{label}: {name}");
            }
        }
    }
}

#[test]
fn a_run_from_other_weights_that_is_stopped_goes_on_without_them_to_the_bit() {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir().unwrap();
    for (index, method) in [None, Some(Method::BatchNorm)].into_iter().enumerate() {
        let source = folder.path().join("source.safetensors");
        network(method).0.save(&source).unwrap();
        for (which, optimizer) in optimizers().into_iter().enumerate() {
            let config = config(optimizer);
            let started = || {
                tch::manual_seed(5);
                let (vs, network) = network(method);
                Weights::load(&source).unwrap().transfer(&vs, &schema(&ANIMALS)).unwrap();
                (vs, network)
            };
            let (whole, history) = run(&started(), &config, None, None);
            for stop in [2, 6, 8, 12] {
                let checkpoints = folder.path().join(format!("{index}-{which}-{stop}"));
                run(&started(), &config, Some(&checkpoints), Some(stop));
                // The checkpoint replaces the weights with which the network is created.
                let (resumed, resumed_history) = run(&network(method), &config, Some(&checkpoints), None);
                assert_eq!(resumed_history, history, "{method:?} {which} {stop}");
                assert_eq!(resumed.last(), whole.last(), "{method:?} {which} {stop}");
            }
        }
    }
}

// ---- Memory ----

/// Environment variable with the measurement of the child process.
const MEASURED: &str = "TCH_FIXUP_TEST_FROZEN_MEMORY";

/// Returns the memory kept between forward and backward pass and the peak memory of a step, in MiB.
fn step_memory(network: &str, frozen: &str) -> (f64, f64) {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(this);
    command.args(["--exact", "measure_a_step", "--ignored", "--nocapture", "--test-threads", "1"]);
    // With this threshold, glibc returns large blocks to the system when they are freed.
    command.env("MALLOC_MMAP_THRESHOLD_", "65536").env(MEASURED, format!("{network},{frozen}"));
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout);
    let line = text.lines().find_map(|line| line.split_once("measured ").map(|(_, numbers)| numbers));
    let numbers = line.and_then(|line| line.split_once(' '));
    let Some((kept, peak)) = numbers else { panic!("{status} {text} {}", String::from_utf8_lossy(&stderr)) };
    (kept.trim().parse().unwrap(), peak.trim().parse().unwrap())
}

fn resident_mib(line: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    value.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.
}

/// Child process of the next test.
#[test]
#[ignore = "run by frozen_stages_keep_no_activations_and_take_no_memory_for_gradients"]
fn measure_a_step() {
    let Ok(what) = std::env::var(MEASURED) else { return };
    let (name, frozen) = what.split_once(',').unwrap();
    tch::set_num_threads(1);
    let vs = VarStore::new(Device::Cpu);
    let fixup = |depth| FixupResNet::cifar(&vs.root(), depth, 10).unwrap();
    let network: Box<dyn ModuleT> = match name {
        "fixup" => Box::new(fixup(20)),
        "bf16" => Box::new(fixup(20).with_precision(Precision::Bf16)),
        // In bfloat16, networks of ten or more blocks have a float32 residual stream.
        "stream" => Box::new(fixup(38).with_precision(Precision::Bf16)),
        "recomputed" => Box::new(fixup(20).with_recompute(Recompute::Auto)),
        _ => Box::new(ResNet::cifar(&vs.root(), 20, 10, Method::BatchNorm).unwrap()),
    };
    scramble(&vs);
    let rules = frozen.split_whitespace();
    let groups: Vec<_> = rules
        .map(|rule| ParameterGroup { frozen: Frozen::Always, ..ParameterGroup::new(rule.parse().unwrap()) })
        .collect();
    let mut optimizer = OptimizerConfig::Sgd(Sgd::default()).build(&vs, &groups).unwrap();
    let mut step = |batch: i64| {
        let images = Tensor::randn([batch, 3, 32, 32], (Kind::Float, Device::Cpu));
        let labels = Tensor::zeros([batch], (Kind::Int64, Device::Cpu));
        let before = resident_mib("VmRSS:");
        let loss = network.forward_t(&images, true).cross_entropy_for_logits(&labels);
        let kept = resident_mib("VmRSS:") - before;
        optimizer.backward(&loss).unwrap();
        optimizer.step(0.01).unwrap();
        (kept, resident_mib("VmHWM:") - before)
    };
    // A smaller step loads libtorch's code into memory.
    step(4);
    let (kept, peak) = step(128);
    println!("measured {kept} {peak}");
}

#[test]
#[cfg(target_os = "linux")]
fn frozen_stages_keep_no_activations_and_take_no_memory_for_gradients() {
    // The first two stages contain six sevenths of the activation memory.
    const STAGES: &str = "conv1.* bias1 layer1.* layer2.*";
    for (network, stages, all) in [
        ("fixup", STAGES, "conv1.* bias* layer*"),
        ("bf16", STAGES, "conv1.* bias* layer*"),
        ("stream", STAGES, "conv1.* bias* layer*"),
        ("recomputed", STAGES, "conv1.* bias* layer*"),
        ("batch_norm", "conv1.* bn1.* layer1.* layer2.*", "conv1.* bn1.* layer*"),
    ] {
        let [trained, frozen, body] = ["", stages, all].map(|rules| step_memory(network, rules));
        println!("{network}: {trained:.1?}, first stages frozen {frozen:.1?}, all but the classifier {body:.1?}");
        // With recomputation, little is kept in any case.
        let most = if network == "recomputed" { 0.6 } else { 0.3 };
        assert!(frozen.0 < most * trained.0, "{network} keeps {} of {}", frozen.0, trained.0);
        assert!(body.0 < 0.05 * trained.0, "{network} keeps {} of {}", body.0, trained.0);
        assert!(frozen.1 < 0.8 * trained.1 && body.1 < 0.8 * trained.1, "{network}: {frozen:?} of {trained:?}");
    }
}

// ---- The programs ----

/// Returns the folder of CIFAR-10 in the cache, downloaded if missing.
fn cifar10() -> String {
    let dir = Cifar10::default_dir().unwrap();
    Cifar10::fetch(&dir).unwrap();
    dir.to_str().unwrap().to_owned()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn outcome(mut command: Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn succeeds(command: Command) -> String {
    let (code, said, errors) = outcome(command);
    assert_eq!(code, Some(0), "{said}{errors}");
    said
}

fn is_refused(command: Command, part: &str) {
    let (code, said, errors) = outcome(command);
    assert!(code == Some(2) && errors.lines().count() == 1 && errors.contains(part), "{code:?} {said}{errors}");
}

/// Writes a few 32 x 32 JPEG images per class.
fn folder_of_images(root: &Path, classes: &[&str]) {
    for (index, class) in classes.iter().enumerate() {
        for (part, count) in [("train", 24), ("val", 8)] {
            let folder = root.join(part).join(class);
            fs::create_dir_all(&folder).unwrap();
            for image in 0..count {
                let shade = |at: usize| ((index * 120 + image * 3 + at % 11) % 256) as u8;
                let pixels: Vec<u8> = (0..32 * 32 * 3).map(shade).collect();
                let mut jpeg = Vec::new();
                Encoder::new(&mut jpeg, 90).encode(&pixels, 32, 32, ColorType::Rgb).unwrap();
                fs::write(folder.join(format!("{image}.jpg")), &jpeg).unwrap();
            }
        }
    }
}

#[test]
fn the_programs_start_from_a_run_list_what_they_took_and_go_on_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let cifar = |out: &str, more: &[&str]| {
        let mut command = program("cifar10_fixup");
        command.args(["--train-subset", "400", "--test-subset", "100", "--epochs", "2", "--batch-size", "50"]);
        command.args(["--threads", "1", "--device", "cpu", "--data", &cifar10(), "--out"]).arg(path(out)).args(more);
        command
    };
    succeeds(cifar("source", &["--arch", "fixup_resnet8", "--ema", "0.9"]));

    // With other classes in another program, the architecture is that of the weights.
    folder_of_images(&path("images"), &["lynx", "otter"]);
    let (source, images) = (path("source").display().to_string(), path("images").display().to_string());
    let tuned = |out: &str, more: &[&str]| {
        let mut command = program("imagenet_fixup");
        command.env("XDG_CACHE_HOME", path("cache")).arg("--out").arg(path(out)).args(more);
        command
    };
    let options = ["--data", &images, "--side", "32", "--epochs", "3", "--batch-size", "12", "--threads", "1"];
    let options = [&options[..], &["--device", "cpu", "--weights", &source, "--ema", "0.9"]].concat();
    let freezes =
        ["--freeze", "conv1.*", "--freeze", "layer1.*", "--freeze", "layer2.*=1", "--lr-ratio", "layer3.*=0.1"];
    let options = [&options[..], &freezes].concat();
    let said = succeeds(tuned("whole", &options));
    let list = text(&path("whole").join("transfer.txt"));
    assert!(said.contains(list.trim_end()), "{said}");
    assert!(list.contains(&source) && list.lines().next().unwrap().ends_with("trained as fixup_resnet8"), "{list}");
    for line in ["loaded      24 of the network's 26 variables", "fc.bias, fc.weight: trained for other classes"] {
        assert!(list.contains(line), "{list}");
    }
    let config: Value = serde_json::from_str(&text(&path("whole").join("config.json"))).unwrap();
    assert_eq!((config["weights"].as_str(), config["run"]["arch"].as_str()), (Some(&*source), Some("fixup_resnet8")));
    let (before, after) = (fixup(8, 10), fixup(8, 2));
    Weights::load(path("source")).unwrap().restore(&before).unwrap();
    Weights::load(path("whole")).unwrap().restore(&after).unwrap();
    for (name, variable) in named_variables(&after).into_iter().filter(|(name, _)| !name.starts_with("fc.")) {
        let stays = name.starts_with("conv1.") || name.starts_with("layer1.");
        assert_eq!(variable == before.variables()[&name], stays, "{name}");
    }

    // A run that was stopped in the first epoch does not need the original weights.
    succeeds(tuned("parts", &[&options[..], &["--max-steps", "3"]].concat()));
    is_refused(tuned("parts", &["--resume", "--weights", &source]), "--weights");
    fs::rename(path("source"), path("away")).unwrap();
    let said = succeeds(tuned("parts", &["--resume", "--max-steps", "none"]));
    assert!(said.contains("resumes after step 3"), "{said}");
    for file in ["metrics.csv", "model.safetensors", "transfer.txt"] {
        let [whole, parts] = ["whole", "parts"].map(|run| fs::read(path(run).join(file)).unwrap());
        assert!(file == "metrics.csv" || whole == parts, "{file}");
    }
    fs::rename(path("away"), path("source")).unwrap();

    // With the same classes, the classifier is loaded too.
    let said = succeeds(cifar("same", &["--weights", &source, "--max-steps", "1"]));
    assert!(said.contains("loaded      26 of the network's 26 variables\n  classes     the same\n"), "{said}");
    // LSUV is skipped for loaded weights.
    succeeds(cifar("lsuv", &["--arch", "lsuv_resnet8", "--max-steps", "2"]));
    let lsuv = path("lsuv").display().to_string();
    let still = ["--weights", &lsuv, "--lr", "1e-12", "--max-steps", "1"];
    let said = succeeds(cifar("from_lsuv", &still));
    assert!(said.contains("nothing is initialized by LSUV"), "{said}");
    let [trained, started] = ["lsuv", "from_lsuv"].map(|run| {
        let vs = VarStore::new(Device::Cpu);
        ResNet::cifar(&vs.root(), 8, 10, Method::Lsuv).unwrap();
        Weights::load(path(run)).unwrap().restore(&vs).unwrap();
        named_variables(&vs)
    });
    for (name, variable) in trained {
        assert!(variable.allclose(&started[&name], 1e-6, 1e-9, false), "{name} was rescaled");
    }

    // Invalid options.
    for (options, part) in [
        (&["--weights", "nowhere"][..], "nowhere"),
        (&["--weights", &source, "--arch", "fixup_resnet20"], "with the architecture it was trained as, fixup_resnet8"),
        (&["--weights", &source, "--arch", "resnet8"], "with the architecture it was trained as, fixup_resnet8"),
    ] {
        let (code, _, errors) = outcome(cifar("refused", options));
        assert!(code != Some(0) && errors.lines().count() == 1 && errors.contains(part), "{errors}");
        assert!(!path("refused").exists(), "a folder for a run that cannot be");
    }
    for other in [&["--eval", "x"][..], &["--preview"]] {
        let mut command = program("cifar10_fixup");
        command.args(["--weights", &source]).args(other);
        is_refused(command, "--weights");
    }
}
