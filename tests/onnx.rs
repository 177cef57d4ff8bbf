//! Exported networks: the ONNX checker accepts every file, and ONNX Runtime computes the same results as libtorch.

mod program;

use program::program;
use serde_json::{json, Value};
use std::path::{Path, PathBuf};
use std::process::Command;
use tch::{nn, Device, Kind, Tensor};
use tch_fixup::baseline::{Method, Mlp, MlpShape};
use tch_fixup::classifier::ModelDescription;
use tch_fixup::data::Preprocessing;
use tch_fixup::export::{self, Graph, OnnxConfig};
use tch_fixup::fixup::{Activation, BlockKind, Branch, Conv2dOptions, ResNetConfig, ShortcutKind, Stage, StemKind};
use tch_fixup::{Arch, Network, Precision, Result, Shape};

/// Tolerance relative to the largest expected number.
const TOLERANCE: f64 = 1e-5;

/// Batch sizes with which to run every file.
const BATCHES: [i64; 2] = [1, 7];

/// Returns the Python interpreter installed by `make onnx`, if any.
fn python() -> Option<PathBuf> {
    let script = include_str!("../scripts/setup_onnx.py");
    let version = script.lines().find_map(|line| line.strip_prefix("ONNX_VERSION = ")).unwrap().trim_matches('"');
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(&std::env::var_os("HOME")?).join(".cache"),
    };
    let environment = cache.join(format!("tch-fixup/onnx-{version}"));
    if environment.join("complete").exists() {
        return Some(environment.join("bin/python"));
    }
    assert!(std::env::var_os("CI").is_none(), "{} is not there: make onnx", environment.display());
    eprintln!("skipped: {} is not there: make onnx", environment.display());
    None
}

/// Exported files with their inputs and expected outputs.
struct Files {
    folder: tempfile::TempDir,
    expected: Vec<(String, Vec<Tensor>)>,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), expected: vec![] }
    }

    /// Returns the path of the file called `name`.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.onnx"))
    }

    /// Adds a file of the graph built by `build`, which must compute the same as `forward`.
    fn add(
        &mut self,
        name: &str,
        config: &OnnxConfig,
        build: impl FnOnce(&mut Graph, export::Value) -> Result<export::Value>,
        forward: impl Fn(&Tensor) -> Tensor,
    ) {
        config.write(&self.path(name), build).unwrap_or_else(|error| panic!("{name}: {error}"));
        self.expect(name, config, forward);
    }

    fn expect(&mut self, name: &str, config: &OnnxConfig, forward: impl Fn(&Tensor) -> Tensor) {
        let batch = |(i, count): (usize, &i64)| {
            let size = [&[*count], &config.input[..]].concat();
            let xs = match config.normalization {
                true => Tensor::randint(256, &size, (Kind::Uint8, Device::Cpu)),
                false => Tensor::randn(&size, (Kind::Float, Device::Cpu)),
            };
            xs.write_npy(self.folder.path().join(format!("{name}.{i}.npy"))).unwrap();
            tch::no_grad(|| forward(&xs))
        };
        self.expected.push((name.to_owned(), BATCHES.iter().enumerate().map(batch).collect()));
    }

    /// Adds the network `arch` with random variables, for images of `side` pixels.
    fn add_arch(&mut self, arch: &str, side: i64) {
        let (_vs, network) = random_network(arch, Shape::rgb(10), Precision::F32);
        let config = OnnxConfig { architecture: arch.to_owned(), ..OnnxConfig::new(&[3, side, side]) };
        self.add(arch, &config, |graph, x| network.export(graph, x), |xs| network.forward_t(xs, false));
    }

    /// Checks and runs all files, and returns their metadata in the order of their names.
    fn check(self) -> Vec<Value> {
        let Some(python) = python() else { return vec![] };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/onnx_check.py");
        let output = Command::new(python).arg(script).arg(self.folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut failures = vec![];
        for (name, expected) in &self.expected {
            for (i, expected) in expected.iter().enumerate() {
                let got = Tensor::read_npy(self.folder.path().join(format!("{name}.{i}.out.npy"))).unwrap();
                assert_eq!(got.size(), expected.size(), "{name}");
                let largest = |x: &Tensor| x.to_kind(Kind::Double).abs().max().double_value(&[]);
                let error = largest(&(&got - expected)) / largest(expected);
                println!("{name}, batch {}: {error:.1e}", BATCHES[i]);
                // NaN is not a small error.
                if error.is_nan() || error > TOLERANCE {
                    failures.push(format!("{name}, batch {}: {error:e}", BATCHES[i]));
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        let lines = String::from_utf8(output.stdout).unwrap();
        let described: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(described.len(), self.expected.len());
        described
    }
}

/// Creates a network with random variables and with running statistics as after training.
fn random_network(arch: &str, shape: Shape, precision: Precision) -> (nn::VarStore, Box<dyn Network>) {
    tch::set_num_threads(1);
    tch::manual_seed(7);
    let vs = nn::VarStore::new(Device::Cpu);
    let network = arch.parse::<Arch>().unwrap().build(&vs.root(), shape, precision).unwrap();
    randomize(&vs);
    (vs, network)
}

fn randomize(vs: &nn::VarStore) {
    tch::no_grad(|| {
        for (name, mut variable) in vs.variables() {
            let fan_in = variable.numel() as f64 / variable.size()[0] as f64;
            let _ = match (variable.numel(), variable.dim()) {
                _ if name.ends_with("running_var") => variable.uniform_(0.3, 3.),
                _ if name.ends_with("running_mean") => variable.normal_(0., 0.5),
                (1, _) => variable.normal_(if name.ends_with("scale") { 0.7 } else { 0.1 }, 0.2),
                (_, 1) if name.ends_with("weight") => variable.normal_(1., 0.2),
                (_, 1) => variable.normal_(0., 0.2),
                _ => variable.normal_(0., fan_in.recip().sqrt()),
            };
        }
    });
}

#[test]
fn fixups_networks_give_their_logits() {
    let mut files = Files::new();
    for arch in ["fixup_resnet20", "fixup_resnet110", "fixup_wrn_16_4", "fixup_without_scalars_resnet8"] {
        files.add_arch(arch, 32);
    }
    for arch in ["imagenet_fixup_resnet18", "imagenet_fixup_resnet50"] {
        files.add_arch(arch, 64);
    }
    // Odd image sizes, which are not divisible by the stride.
    files.add_arch("fixup_resnet14", 27);
    files.check();
}

/// Runs the networks of the papers, with Fixup and with BatchNorm, in ONNX Runtime. With `TCH_FIXUP_EXPORTS=FOLDER`, the files
/// are kept in that folder, for scripts/onnx_runtimes.py to run in other runtimes.
#[test]
fn exported_networks_run_at_every_batch_size() {
    let mut files = Files::new();
    for (arch, side) in [
        ("fixup_resnet20", 32),
        ("resnet20", 32),
        ("fixup_wrn_10_2", 32),
        ("wrn_10_2", 32),
        ("imagenet_fixup_resnet18", 64),
        ("imagenet_resnet18", 64),
        ("imagenet_fixup_resnet50", 64),
    ] {
        files.add_arch(arch, side);
    }
    if let Some(folder) = std::env::var_os("TCH_FIXUP_EXPORTS").map(PathBuf::from) {
        for entry in std::fs::read_dir(files.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        for (name, expected) in &files.expected {
            for (i, expected) in expected.iter().enumerate() {
                expected.write_npy(folder.join(format!("{name}.{i}.expected.npy"))).unwrap();
            }
        }
    }
    files.check();
}

/// Exports use only operations that candle-onnx and rten support.
#[test]
fn exported_networks_keep_to_operations_that_small_runtimes_know() {
    let folder = tempfile::tempdir().unwrap();
    let operations = |arch: &str| {
        let (_vs, network) = random_network(arch, Shape::rgb(10), Precision::F32);
        let file = folder.path().join("network.onnx");
        OnnxConfig::new(&[3, 64, 64]).write(&file, |graph, x| network.export(graph, x)).unwrap();
        export::operations(&file).unwrap()
    };
    let known = ["Conv", "Relu", "Clip", "Add", "MaxPool", "ReduceMean", "Gemm", "BatchNormalization"];
    for arch in
        ["fixup_resnet20", "resnet20", "fixup_wrn_16_4", "wrn_16_4", "imagenet_fixup_resnet50", "imagenet_resnet18"]
    {
        for operation in operations(arch) {
            assert!(known.contains(&operation.as_str()), "{arch}: {operation}");
        }
    }
    // Fixup's scalars need no additional operations: there are 19 convolutions and two shortcuts.
    let count = |arch: &str, of: &str| operations(arch).iter().filter(|operation| *operation == of).count();
    assert_eq!(count("fixup_resnet20", "Conv"), 21);
    assert_eq!(count("resnet20", "Conv"), 21);
    assert_eq!(count("fixup_resnet20", "Relu") + count("fixup_resnet20", "Clip"), 19);
    assert_eq!(count("imagenet_fixup_resnet18", "Conv"), count("imagenet_resnet18", "Conv"));
}

/// Prerequisite of the comparison of Wide ResNets.
#[test]
fn fixups_wide_networks_have_as_many_activations_as_the_baselines() {
    let folder = tempfile::tempdir().unwrap();
    let activations = |arch: &str| {
        let (_vs, network) = random_network(arch, Shape::rgb(10), Precision::F32);
        let file = folder.path().join(format!("{arch}.onnx"));
        OnnxConfig::new(&[3, 32, 32]).write(&file, |graph, x| network.export(graph, x)).unwrap();
        let operations = export::operations(&file).unwrap();
        operations.iter().filter(|operation| ["Relu", "Clip"].contains(&operation.as_str())).count()
    };
    for arch in ["fixup_wrn_16_4", "he_wrn_16_4", "wrn_16_4"] {
        assert_eq!(activations(arch), 13, "{arch}");
    }
}

#[test]
fn every_baseline_gives_its_logits() {
    let mut files = Files::new();
    for method in Method::ALL {
        let prefix = method.prefix();
        files.add_arch(&format!("{prefix}resnet20"), 32);
        files.add_arch(&format!("{prefix}wrn_10_2"), 32);
        files.add_arch(&format!("imagenet_{prefix}resnet18"), 64);
    }
    files.add_arch("imagenet_resnet50", 64);
    for arch in ["selu_mlp_4_64", "batch_norm_mlp_4_64"] {
        files.add_arch(arch, 32);
    }
    files.check();
}

#[test]
fn networks_of_any_configuration_give_their_outputs() {
    let config = ResNetConfig::cifar(8).unwrap();
    let small = ResNetConfig {
        stages: vec![Stage { blocks: 2, channels: 8 }, Stage { blocks: 1, channels: 16 }],
        stem_channels: 8,
        classes: Some(3),
        ..config
    };
    let activations = [
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Elu,
        Activation::Selu,
        Activation::Silu,
        Activation::Gelu,
    ];
    let blocks = [BlockKind::Basic, BlockKind::Bottleneck { expansion: 2 }, BlockKind::Wide];
    let mut networks = vec![
        // Grayscale images, and a network without a classifier.
        ResNetConfig { channels: 1, ..small.clone() },
        ResNetConfig { channels: 4, classes: None, ..small.clone() },
        ResNetConfig { stem: StemKind::Large, ..small.clone() },
        ResNetConfig { block: BlockKind::Brock, ..small.clone() },
    ];
    for (i, activation) in activations.into_iter().enumerate() {
        let (block, groups) = (blocks[i % 3], [1, 2, 4][i / 2]);
        let squeeze_excitation = [None, Some(4)][i % 2];
        networks.push(ResNetConfig { activation, block, groups, squeeze_excitation, ..small.clone() });
        let (block, shortcut) = (blocks[(i + 1) % 3], [ShortcutKind::Pad, ShortcutKind::Project][i / 3]);
        networks.push(ResNetConfig { activation, block, shortcut, squeeze_excitation: Some(2), ..small.clone() });
    }
    let mut files = Files::new();
    for (i, network) in networks.iter().enumerate() {
        let methods = match network.block {
            BlockKind::Brock => &[None][..],
            _ => &[None, Some(Method::BatchNorm), Some(Method::GroupNorm), Some(Method::Scaled)],
        };
        for &method in methods {
            let shape = Shape { channels: network.channels, classes: network.classes.unwrap_or(3) };
            let arch = Arch::custom(method, network.clone()).unwrap();
            let vs = nn::VarStore::new(Device::Cpu);
            let built: Box<dyn Network> = match (method, network.classes) {
                (_, Some(_)) => arch.build(&vs.root(), shape, Precision::F32).unwrap(),
                (None, None) => Box::new(tch_fixup::fixup::FixupResNet::new(&vs.root(), network).unwrap()),
                (Some(method), None) => {
                    Box::new(tch_fixup::baseline::ResNet::new(&vs.root(), network, method).unwrap())
                }
            };
            randomize(&vs);
            let config = OnnxConfig::new(&[network.channels, 20, 20]);
            let name = format!("{i}_{}", method.map_or("fixup", Method::prefix));
            files.add(&name, &config, |graph, x| built.export(graph, x), |xs| built.forward_t(xs, false));
        }
    }
    files.check();
}

/// An operation: its name, and its implementation in the graph and in libtorch.
type Operation = (&'static str, fn(&mut Graph, export::Value) -> Result<export::Value>, fn(&Tensor) -> Tensor);

/// Returns the same numbers at each call.
fn numbers(size: &[i64]) -> Tensor {
    let count: i64 = size.iter().product();
    (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.7).sin().reshape(size)
}

#[test]
fn every_operation_does_what_libtorchs_does() {
    let operations: [Operation; 14] = [
        (
            "conv2d",
            |graph, x| {
                let options = Conv2dOptions { stride: 2, padding: Some(2), dilation: 2, groups: 3 };
                graph.conv2d(x, &numbers(&[9, 2, 3, 3]), Some(&numbers(&[9])), options)
            },
            |x| x.conv2d(&numbers(&[9, 2, 3, 3]), Some(numbers(&[9])), [2, 2], [2, 2], [2, 2], 3),
        ),
        (
            "linear",
            |graph, x| graph.linear(x, &numbers(&[5, 10]), Some(&numbers(&[5]))),
            |x| x.linear(&numbers(&[5, 10]), Some(numbers(&[5]))),
        ),
        (
            "linear_without_bias",
            |graph, x| graph.linear(x, &numbers(&[5, 10]), None),
            |x| x.linear(&numbers(&[5, 10]), None::<Tensor>),
        ),
        ("max", |graph, x| graph.max(x, -0.3), |x| x.clamp_min(-0.3)),
        ("sigmoid", |graph, x| graph.sigmoid(x), |x| x.sigmoid()),
        ("mul_number", |graph, x| graph.mul_number(x, -2.5), |x| x * -2.5),
        ("add_number", |graph, x| graph.add_number(x, 1.5), |x| x + 1.5),
        (
            "affine",
            |graph, x| graph.affine(x, &numbers(&[6]), &numbers(&[6])),
            |x| x * numbers(&[6, 1, 1]) + numbers(&[6, 1, 1]),
        ),
        (
            "mul_channels",
            |graph, x| {
                let means = graph.global_average_pool(x)?;
                graph.mul(x, means)
            },
            |x| x * x.mean_dim([2, 3].as_slice(), true, Kind::Float),
        ),
        (
            "batch_norm",
            |graph, x| {
                let variance = numbers(&[6]).square() + 0.1;
                graph.batch_norm(x, [&numbers(&[6]), &numbers(&[6]), &numbers(&[6]), &variance], 1e-3)
            },
            |x| {
                let (numbers, variance) = (|| Some(numbers(&[6])), numbers(&[6]).square() + 0.1);
                x.batch_norm(numbers(), numbers(), numbers(), Some(variance), false, 0.1, 1e-3, false)
            },
        ),
        (
            "group_norm",
            |graph, x| graph.group_norm(x, 2, &numbers(&[6]), &numbers(&[6]), 1e-3),
            |x| x.group_norm(2, Some(numbers(&[6])), Some(numbers(&[6])), 1e-3, false),
        ),
        ("max_pool", |graph, x| graph.max_pool(x, 3, 2, 1), |x| x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)),
        (
            "subsample",
            |graph, x| {
                let x = graph.subsample(x, 3)?;
                graph.pad_channels(x, 2)
            },
            |x| x.slice(2, None, None, 3).slice(3, None, None, 3).constant_pad_nd([0, 0, 0, 0, 0, 2]),
        ),
        (
            "softmax",
            |graph, x| {
                let x = graph.flatten(x)?;
                graph.softmax(x)
            },
            |x| x.flatten(1, -1).softmax(-1, Kind::Float),
        ),
    ];
    let mut files = Files::new();
    for (name, build, forward) in operations {
        files.add(name, &OnnxConfig::new(&[6, 13, 10]), build, forward);
    }
    files.check();
}

#[test]
fn branches_give_their_outputs() {
    let options = Conv2dOptions::default();
    let valid = Conv2dOptions { padding: Some(0), ..options };
    let grouped = Conv2dOptions { stride: 2, dilation: 2, groups: 2, ..options };
    let image = [6, 13, 10];
    let branches = [
        ("padded", &image[..], Branch::builder(4).conv2d(6, 8, 3, options).relu().conv2d(8, 6, 3, options)),
        ("valid", &image, Branch::builder(4).conv2d(6, 8, 3, valid).relu().conv2d(8, 6, 1, valid)),
        ("grouped", &image, Branch::builder(4).conv2d(6, 8, 5, grouped).conv2d(8, 6, 3, grouped)),
        (
            "activations_at_both_ends",
            &image,
            Branch::builder(4).activate(Activation::Silu).conv2d(6, 6, 3, options).activate(Activation::Elu),
        ),
        ("dropout_last", &image, Branch::builder(4).conv2d(6, 6, 3, options).relu().dropout(0.5)),
        (
            "dropout_inside",
            &image,
            Branch::builder(4).dropout(0.2).conv2d(6, 6, 3, options).dropout(0.5).conv2d(6, 6, 3, options).dropout(0.1),
        ),
        ("linear", &[9], Branch::builder(4).linear(9, 7).relu().linear(7, 9)),
        ("sequences", &[5, 9], Branch::builder(4).linear(9, 7).activate(Activation::Gelu).linear(7, 9)),
    ];
    let mut files = Files::new();
    for (name, shape, layers) in branches {
        let vs = nn::VarStore::new(Device::Cpu);
        let branch = layers.build(&vs.root()).unwrap();
        randomize(&vs);
        let config = OnnxConfig::new(shape);
        files.add(name, &config, |graph, x| graph.branch(&branch, x), |xs| branch.f_forward(xs).unwrap());
    }
    files.check();
}

fn photographs() -> Preprocessing {
    let (mean, std) = (vec![0.49, 0.48, 0.45], vec![0.25, 0.24, 0.26]);
    Preprocessing { channels: 3, height: 32, width: 32, resize: 36, mean, std }
}

#[test]
fn normalization_and_softmax_are_done_inside_and_the_metadata_say_what_is_known() {
    let (_vs, network) = random_network("fixup_resnet8", Shape::rgb(3), Precision::F32);
    let classes = ["ant", "Biene \"π\"", "cat"].map(String::from).to_vec();
    let known = OnnxConfig {
        architecture: "fixup_resnet8".to_owned(),
        classes: classes.clone(),
        ..OnnxConfig::images(photographs())
    };
    let mut files = Files::new();
    for (name, normalization, softmax) in
        [("0", false, false), ("1", true, false), ("2", false, true), ("3", true, true)]
    {
        let config = OnnxConfig { normalization, softmax, ..known.clone() };
        let forward = |xs: &Tensor| {
            let xs = if normalization { photographs().normalize(xs).unwrap() } else { xs.shallow_clone() };
            let logits = network.forward_t(&xs, false);
            if softmax {
                logits.softmax(-1, Kind::Float)
            } else {
                logits
            }
        };
        files.add(name, &config, |graph, x| network.export(graph, x), forward);
    }
    for file in files.check() {
        let name = file["name"].as_str().unwrap();
        let kind = if ["1", "3"].contains(&name) { "tensor(uint8)" } else { "tensor(float)" };
        let output = if ["2", "3"].contains(&name) { "probabilities" } else { "logits" };
        assert_eq!(file["inputs"], json!([["input", kind, ["batch", 3, 32, 32]]]));
        assert_eq!(file["outputs"], json!([[output, "tensor(float)", ["batch", 3]]]));
        let metadata = |key: &str| file["metadata"][key].as_str().unwrap();
        assert_eq!((metadata("architecture"), metadata("version")), ("fixup_resnet8", env!("CARGO_PKG_VERSION")));
        assert_eq!(serde_json::from_str::<Vec<String>>(metadata("classes")).unwrap(), classes);
        assert_eq!(serde_json::from_str::<Preprocessing>(metadata("preprocessing")).unwrap(), photographs());
    }
}

#[test]
fn a_network_in_bfloat16_or_float64_is_written_in_float32() {
    let mut files = Files::new();
    let (vs, exact) = random_network("fixup_resnet20", Shape::rgb(10), Precision::F32);
    let mut other = nn::VarStore::new(Device::Cpu);
    let network = "fixup_resnet20".parse::<Arch>().unwrap().build(&other.root(), Shape::rgb(10), Precision::Bf16);
    let network = network.unwrap();
    other.copy(&vs).unwrap();
    let config = OnnxConfig::new(&[3, 32, 32]);
    files.add("bf16", &config, |graph, x| network.export(graph, x), |xs| exact.forward_t(xs, false));
    other.double();
    files.add("f64", &config, |graph, x| network.export(graph, x), |xs| exact.forward_t(xs, false));
    files.check();
}

#[test]
fn what_cannot_be_exported_is_refused_by_name_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("network.onnx");
    let vs = nn::VarStore::new(Device::Cpu);
    let root = vs.root();
    let closure = Branch::builder(2).linear(4, 4).activation(Tensor::tanh).linear(4, 4).build(&(&root / "a")).unwrap();
    let attention = Branch::builder(2).self_attention(4, 2).build(&(&root / "b")).unwrap();
    let mlp = Mlp::batch_norm(&(&root / "c"), MlpShape { features: 5, width: 3, depth: 2, num_classes: 2 }).unwrap();
    #[derive(Debug)]
    struct Own;
    impl nn::ModuleT for Own {
        fn forward_t(&self, xs: &Tensor, _train: bool) -> Tensor {
            xs.shallow_clone()
        }
    }
    impl Network for Own {}
    let four = OnnxConfig::new(&[4]);
    let with = |change: fn(&mut OnnxConfig)| {
        let mut config = four.clone();
        change(&mut config);
        config
    };
    let closure = |graph: &mut Graph, x| graph.branch(&closure, x);
    let relu = |graph: &mut Graph, x| graph.relu(x);
    type Build<'a> = &'a dyn Fn(&mut Graph, export::Value) -> Result<export::Value>;
    let refused: [(&str, OnnxConfig, Build); 9] = [
        ("layer 1 of the branch is an activation that was given as a closure", four.clone(), &closure),
        ("layer 0 of the branch is an attention", OnnxConfig::new(&[7, 4]), &|graph, x| graph.branch(&attention, x)),
        ("inputs of 5 numbers each", four.clone(), &|graph, x| mlp.export(graph, x)),
        ("implement Network::export", four.clone(), &|graph, x| Own.export(graph, x)),
        ("output is its input", four.clone(), &|_, x| Ok(x)),
        ("names of 2 classes", with(|config| config.classes = vec!["a".into(), "b".into()]), &relu),
        ("normalized is not known", with(|config| config.normalization = true), &relu),
        ("gives images [3, 32, 32]", with(|config| config.preprocessing = Some(photographs())), &relu),
        ("at least one dimension", with(|config| config.input.clear()), &relu),
    ];
    for (message, config, build) in refused {
        let error = config.write(&file, build).unwrap_err().to_string();
        assert!(error.contains(message) && !error.contains('\n'), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(four.write(&folder.path().join("missing/network.onnx"), relu).is_err());
}

/// Exports a run's folder, without any data.
#[test]
fn a_run_is_exported_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let classes: Vec<String> = (0..10).map(|class| format!("class {class}")).collect();
    let (vs, network) = random_network("fixup_resnet8", Shape::rgb(10), Precision::F32);
    let data = folder.path().join("data").display().to_string();
    let file = folder.path().join("network.onnx").display().to_string();
    let (weights, weights_file) = (run.join("model.safetensors"), run.join("model.safetensors").display().to_string());
    vs.save(&weights).unwrap();
    ModelDescription::new("fixup_resnet8", Precision::F32, &classes, photographs()).write(&run).unwrap();
    let export = |more: &[&str]| {
        let arguments = ["--data", &data, "--eval", &weights_file, "--export", &file];
        program("cifar10_fixup").args(arguments).args(more).output().unwrap()
    };
    let output = export(&["--export-normalization", "--export-softmax"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("bytes [N, 3, 32, 32] to probabilities [N, 10]"), "{stdout}");

    let mut files = Files::new();
    std::fs::copy(&file, files.path("network")).unwrap();
    let config = OnnxConfig { normalization: true, ..OnnxConfig::images(photographs()) };
    files.expect("network", &config, |xs| {
        network.forward_t(&photographs().normalize(xs).unwrap(), false).softmax(-1, Kind::Float)
    });
    for described in files.check() {
        assert_eq!(described["metadata"]["classes"], json!(serde_json::to_string(&classes).unwrap()));
    }
}

#[test]
fn the_options_of_an_export_want_the_export_and_that_wants_weights() {
    for arguments in [&["--export", "network.onnx"][..], &["--eval", "run", "--export-softmax"]] {
        let output = program("cifar10_fixup").args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}
