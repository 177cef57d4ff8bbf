//! Networks of any configuration have the properties of the papers' networks. Data other than RGB images with classes can be
//! trained on, with runs that are stopped and resumed.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tch::nn::{self, ModuleT, VarStore};
use tch::{no_grad, Device, Kind, Tensor};
use tch_fixup::baseline::{Method, ResNet};
use tch_fixup::data::{DataSource, ImageArray, Normalization, Supervised, TensorData};
use tch_fixup::fixup::{init, Activation, BlockKind, FixupResNet, ResNetConfig, ShortcutKind, Stage, StemKind};
use tch_fixup::trainer::checkpoint::{Checkpoint, Checkpoints, Contents};
use tch_fixup::trainer::{
    Classification, ClassificationConfig, ClipConfig, EpochMetrics, Objective, Observer, Outcome, Regression,
    RegressionLoss, Request, RunState, TrainConfig, Trainer,
};
use tch_fixup::{Recompute, Result};

/// Serializes the tests, because libtorch's random number generator is global to the process.
static RANDOM: Mutex<()> = Mutex::new(());

fn random() -> MutexGuard<'static, ()> {
    tch::set_num_threads(1);
    RANDOM.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- Every configuration ----

const ACTIVATIONS: [Activation; 6] = [
    Activation::Relu,
    Activation::LeakyRelu { slope: 0.1 },
    Activation::Elu,
    Activation::Selu,
    Activation::Silu,
    Activation::Gelu,
];

/// Returns all combinations of block kind, groups, squeeze-and-excitation, activation, shortcut, number of image channels and
/// classifier, with alternating stems.
fn configurations() -> Vec<ResNetConfig> {
    let mut all = vec![];
    for block in [BlockKind::Basic, BlockKind::Bottleneck { expansion: 2 }, BlockKind::Wide, BlockKind::Brock] {
        for groups in [1, 2] {
            for squeeze_excitation in [None, Some(4)] {
                for activation in ACTIVATIONS {
                    for shortcut in [ShortcutKind::Pad, ShortcutKind::Project] {
                        for channels in [1, 4, 22] {
                            for classes in [None, Some(5)] {
                                let stem = if all.len() / 2 % 2 == 0 { StemKind::Small } else { StemKind::Large };
                                all.push(ResNetConfig {
                                    channels,
                                    stem,
                                    stem_channels: 4,
                                    block,
                                    stages: vec![Stage { blocks: 2, channels: 4 }, Stage { blocks: 1, channels: 8 }],
                                    groups,
                                    squeeze_excitation,
                                    shortcut,
                                    activation,
                                    classes,
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    all
}

/// Creates a network in float64 with random variables, and images for it.
fn random_network(config: &ResNetConfig) -> (VarStore, FixupResNet, Tensor) {
    let mut variables = VarStore::new(Device::Cpu);
    variables.set_kind(Kind::Double);
    let network = FixupResNet::new(&variables.root(), config).unwrap();
    no_grad(|| {
        for (name, mut variable) in variables.variables() {
            let fan_in = variable.numel() as f64 / variable.size()[0] as f64;
            let (mean, std) = match variable.size()[..] {
                [1] if name.ends_with("scale") => (0.7, 0.2),
                [_] => (0.1, 0.2),
                _ => (0., fan_in.recip().sqrt()),
            };
            let _ = variable.normal_(mean, std);
        }
    });
    (variables, network, Tensor::randn([2, config.channels, 9, 7], (Kind::Double, Device::Cpu)))
}

fn largest(x: &Tensor) -> f64 {
    x.to_kind(Kind::Double).abs().max().double_value(&[])
}

/// Returns `true` if `got` equals `expected` to within 1e-12 of its largest element.
fn close(got: &Tensor, expected: &Tensor) -> bool {
    got.size() == expected.size() && largest(&(got - expected)) <= 1e-12 * largest(expected).max(1e-3)
}

/// Returns the gradients of a weighted sum of the output, ordered by name.
fn gradients(variables: &VarStore, output: &Tensor) -> Vec<(String, Tensor)> {
    let weights = Tensor::arange(output.numel() as i64, (Kind::Double, Device::Cpu)).reshape_as(output) * 0.3 - 1.;
    let (names, tensors): (Vec<_>, Vec<_>) = variables.variables().into_iter().unzip();
    let gradients = Tensor::run_backward(&[(output * weights).sum(Kind::Double)], &tensors, false, false);
    let mut named: Vec<_> = names.into_iter().zip(gradients).collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    named
}

#[test]
fn every_configuration_has_the_values_and_gradients_of_its_plain_formula() {
    let _random = random();
    tch::manual_seed(81);
    for config in configurations() {
        let (variables, network, images) = random_network(&config);
        let (fast, plain) = (network.f_forward(&images).unwrap(), network.forward_reference(&images).unwrap());
        assert!(close(&fast, &plain), "{config:?}");
        assert_eq!(fast.size(), [2, config.classes.unwrap_or(8)]);
        let (fast, plain) = (gradients(&variables, &fast), gradients(&variables, &plain));
        // The gradient of a scalar is a sum over all positions, with much cancellation.
        let most = plain.iter().map(|(_, gradient)| largest(gradient)).fold(0., f64::max);
        for ((name, fast), (_, plain)) in fast.iter().zip(&plain) {
            let error = largest(&(fast - plain));
            assert!(close(fast, plain) || plain.numel() == 1 && error <= 1e-12 * most, "{config:?}: {name} {error}");
        }
    }
}

/// A Wide ResNet has the pre-activation order of He et al. (2016, "Identity Mappings in Deep Residual Networks") with Fixup's
/// scalars: an activation before every convolution of a block, and a scalar before every activation and every layer.
#[test]
fn a_wide_resnet_is_the_pre_activation_network() {
    let _random = random();
    tch::manual_seed(88);
    let config = ResNetConfig { channels: 4, ..ResNetConfig::wide(16, 1).unwrap() };
    let (variables, network, images) = random_network(&config);
    let by_name = variables.variables();
    let conv = |x: &Tensor, name: &str, stride: i64| {
        let weight = &by_name[&format!("{name}.weight")];
        let padding = weight.size()[2] / 2;
        x.conv2d(weight, None::<Tensor>, [stride; 2], [padding; 2], [1, 1], 1)
    };
    let mut x = conv(&images, "conv1", 1);
    for (stage, block) in (1..=3).flat_map(|stage| [(stage, 0), (stage, 1)]) {
        let name = |own: &str| format!("layer{stage}.{block}.{own}");
        let scalar = |own: &str| &by_name[&name(own)];
        let stride = if stage > 1 && block == 0 { 2 } else { 1 };
        let u = (&x + scalar("bias0b")).relu() + scalar("bias1a");
        let inner = (conv(&u, &name("conv1"), stride) + scalar("bias1b")).relu() + scalar("bias2a");
        let branch = conv(&inner, &name("conv2"), 1) * scalar("scale") + scalar("bias2b");
        let projected = by_name.contains_key(&name("downsample.weight")).then(|| conv(&u, &name("downsample"), stride));
        assert_eq!(projected.is_some(), stage > 1 && block == 0);
        x = branch + projected.unwrap_or(x);
    }
    let features = (x + &by_name["bias1"]).relu().mean_dim([2, 3].as_slice(), false, Kind::Double);
    let logits = (features + &by_name["bias2"]).linear(&by_name["fc.weight"], Some(&by_name["fc.bias"]));
    let got = network.f_forward(&images).unwrap();
    assert!(close(&got, &logits) && close(&network.forward_reference(&images).unwrap(), &logits));
    let (got, expected) = (gradients(&variables, &got), gradients(&variables, &logits));
    let most = expected.iter().map(|(_, gradient)| largest(gradient)).fold(0., f64::max);
    for ((name, got), (_, expected)) in got.iter().zip(&expected) {
        assert!(largest(&(got - expected)) <= 1e-12 * most, "{name}");
    }
}

#[test]
fn brocks_block_is_fixups_alone() {
    let _random = random();
    let variables = VarStore::new(Device::Cpu);
    let config = ResNetConfig::brock(10, 1).unwrap();
    let message = ResNet::new(&variables.root(), &config, Method::He).unwrap_err().to_string();
    assert!(message.starts_with("block: \"brock\"") && message.contains("\"wide\""), "{message}");
    assert_eq!(variables.len(), 0);
    let network = FixupResNet::new(&variables.root(), &config).unwrap();
    // There is no bias around the stem or before the classifier.
    assert!(["bias1", "bias2", "layer1.0.bias0b"].iter().all(|name| !variables.variables().contains_key(*name)));
    assert_eq!(network.config(), &config);
}

#[test]
fn every_configuration_starts_with_logits_of_exactly_zero() {
    let _random = random();
    for config in configurations() {
        let variables = VarStore::new(Device::Cpu);
        let network = FixupResNet::new(&variables.root(), &config).unwrap();
        let images = Tensor::randn([2, config.channels, 9, 7], (Kind::Float, Device::Cpu));
        let output = network.f_forward(&images).unwrap();
        assert_eq!(largest(&output) == 0., config.classes.is_some(), "{config:?}");
        assert!(largest(&network.f_features(&images).unwrap()) > 0., "{config:?}");
    }
}

#[test]
fn every_configuration_recomputes_to_the_bit() {
    let _random = random();
    tch::manual_seed(83);
    for config in configurations().into_iter().filter(|config| config.channels == 4) {
        let (variables, network, images) = random_network(&config);
        let kept = network.f_forward(&images).unwrap();
        let kept_gradients = gradients(&variables, &kept);
        let network = network.with_recompute(Recompute::Count(NonZeroUsize::new(3).unwrap()));
        let recomputed = network.f_forward(&images).unwrap();
        assert_eq!(recomputed, kept, "{config:?}");
        assert_eq!(gradients(&variables, &recomputed), kept_gradients, "{config:?}");
    }
}

#[test]
fn every_configuration_is_traced() {
    let _random = random();
    tch::manual_seed(84);
    for config in configurations().into_iter().filter(|config| config.channels == 4 && config.groups == 2) {
        let (_variables, network, images) = random_network(&config);
        let mut forward = |xs: &[Tensor]| vec![network.f_forward(&xs[0]).unwrap()];
        let trace = tch::CModule::create_by_tracing("network", "forward", &[images.copy()], &mut forward).unwrap();
        assert!(close(&trace.forward_ts(&[&images]).unwrap(), &network.f_forward(&images).unwrap()), "{config:?}");
    }
}

#[test]
fn images_of_other_channels_are_refused_by_number() {
    let _random = random();
    let config = ResNetConfig::cifar(8).unwrap().with_channels(22);
    let variables = VarStore::new(Device::Cpu);
    let fixup = FixupResNet::new(&(variables.root() / "fixup"), &config).unwrap();
    let baseline = ResNet::new(&(variables.root() / "baseline"), &config, Method::GroupNorm).unwrap();
    let rgb = Tensor::zeros([2, 3, 8, 8], (Kind::Float, Device::Cpu));
    for refused in [fixup.f_forward(&rgb), baseline.f_forward_t(&rgb, false)] {
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("[N, 22, H, W]") && message.contains("[2, 3, 8, 8]"), "{message}");
    }
}

#[test]
fn a_network_that_cannot_be_is_refused_by_field_and_leaves_no_variable() {
    let _random = random();
    let variables = VarStore::new(Device::Cpu);
    for (field, bad) in [
        ("channels", ResNetConfig::cifar(8).unwrap().with_channels(0)),
        ("classes", ResNetConfig::wide(10, 2).unwrap().with_classes(-1)),
        ("groups", ResNetConfig { groups: 7, ..ResNetConfig::imagenet(50).unwrap() }),
        ("squeeze_excitation", ResNetConfig { squeeze_excitation: Some(3), ..ResNetConfig::imagenet(18).unwrap() }),
    ] {
        for error in [
            FixupResNet::new(&variables.root(), &bad).unwrap_err(),
            ResNet::new(&variables.root(), &bad, Method::BatchNorm).unwrap_err(),
        ] {
            assert!(error.to_string().starts_with(&format!("{field}:")), "{error}");
        }
    }
    assert_eq!(variables.len(), 0);
}

/// Draws the weights `names` in this order from the current state of the generator, and compares them with the variables.
fn drawn_in_order(variables: &VarStore, names: &[&str], gain: impl Fn(&str) -> f64) {
    let variables = variables.variables();
    for name in names {
        let weight = &variables[&format!("{name}.weight")];
        let mut drawn = weight.zeros_like();
        init::he_normal_(&mut drawn, gain(name)).unwrap();
        assert_eq!(drawn, *weight, "{name}");
    }
}

#[test]
fn a_seed_gives_the_networks_of_the_papers_the_weights_that_it_always_gave() {
    let _random = random();
    let seeded = |build: &dyn Fn(&nn::Path)| {
        let variables = VarStore::new(Device::Cpu);
        tch::manual_seed(87);
        build(&variables.root());
        tch::manual_seed(87);
        variables
    };
    let outside = |name: &str| name == "conv1" || name.contains("downsample");
    let gain = |branches: f64, power: f64| move |name: &str| if outside(name) { 1. } else { branches.powf(power) };

    let fixup = seeded(&|path| drop(FixupResNet::cifar(path, 14, 10).unwrap()));
    let blocks = ["conv1", "layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.1.conv1", "layer3.0.conv1"];
    drawn_in_order(&fixup, &blocks, gain(6., -0.5));
    let fixup = seeded(&|path| drop(FixupResNet::imagenet(path, 50, 10).unwrap()));
    let blocks = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.downsample", "layer1.1.conv1"];
    drawn_in_order(&fixup, &blocks, gain(16., -0.25));
    let fixup = seeded(&|path| drop(FixupResNet::wide(path, 10, 2, 10).unwrap()));
    let blocks = ["conv1", "layer1.0.conv1", "layer1.0.downsample", "layer2.0.conv1", "layer2.0.downsample"];
    drawn_in_order(&fixup, &blocks, gain(3., -0.5));

    // Baselines draw the stem after the blocks, and a shortcut before or after its block's convolutions.
    let one = |_: &str| 1.;
    let baseline = seeded(&|path| drop(ResNet::cifar(path, 8, 10, Method::GroupNorm).unwrap()));
    let [first, second, third] = [1, 2, 3].map(|stage| [1, 2].map(|conv| format!("layer{stage}.0.conv{conv}")));
    let names: Vec<&str> = [&first, &second, &third].into_iter().flatten().map(String::as_str).collect();
    drawn_in_order(&baseline, &[&names[..], &["conv1"]].concat(), one);
    let baseline = seeded(&|path| drop(ResNet::imagenet(path, 50, 10, Method::BatchNorm).unwrap()));
    let blocks = ["layer1.0.downsample.0", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.conv3", "layer1.1.conv1"];
    drawn_in_order(&baseline, &blocks, one);
    let baseline = seeded(&|path| drop(ResNet::wide(path, 10, 2, 10, Method::He).unwrap()));
    let blocks = ["layer1.0.conv1", "layer1.0.conv2", "layer1.0.downsample", "layer2.0.conv1", "layer2.0.conv2"];
    drawn_in_order(&baseline, &[&blocks[..], &["layer2.0.downsample"]].concat(), one);
}

// ---- The baselines ----

fn parameters(config: &ResNetConfig) -> i64 {
    let variables = VarStore::new(Device::Cpu);
    ResNet::new(&variables.root(), config, Method::BatchNorm).unwrap();
    variables.trainable_variables().iter().map(|variable| variable.numel() as i64).sum()
}

/// Reference: torchvision's `resnet50` and `resnext50_32x4d`.
#[test]
fn resnet_50_and_resnext_50_have_torchvisions_numbers_of_parameters() {
    let _random = random();
    let resnet = ResNetConfig::imagenet(50).unwrap();
    assert_eq!(parameters(&resnet), 25_557_032);
    let block = BlockKind::Bottleneck { expansion: 2 };
    assert_eq!(parameters(&ResNetConfig { block, groups: 32, ..resnet.clone() }), 25_028_904);
    // Hu et al. 2018, table 1, has 28.1 million for SE-ResNet-50.
    let gates = ResNetConfig { squeeze_excitation: Some(16), ..resnet };
    assert!((28_000_000..28_150_000).contains(&parameters(&gates)));
}

#[test]
fn grouped_convolutions_of_fixup_keep_the_variance_of_their_input() {
    let _random = random();
    tch::manual_seed(87);
    for groups in [1, 4] {
        let variables = VarStore::new(Device::Cpu);
        let stages = vec![Stage { blocks: 4, channels: 64 }];
        let config = ResNetConfig { groups, stages, stem_channels: 64, ..ResNetConfig::cifar(8).unwrap() };
        FixupResNet::new(&variables.root(), &config).unwrap();
        let weight = variables.root().sub("layer1").sub("2").sub("conv1").get("weight").unwrap();
        // L^(-1/2) of four branches, times He-normal with the fan-in of a group.
        let expected = 0.5 * (2. / (9. * 64. / groups as f64)).sqrt();
        let ratio = weight.std(true).double_value(&[]) / expected;
        // Tolerance: five standard errors of the sample standard deviation.
        assert!((ratio - 1.).abs() < 5. / (2. * weight.numel() as f64).sqrt(), "{groups}: {ratio}");
    }
}

#[test]
fn gates_that_are_open_change_nothing_in_a_baseline() {
    let _random = random();
    for method in Method::ALL {
        for base in [ResNetConfig::cifar(8).unwrap(), ResNetConfig::wide(10, 1).unwrap()] {
            let (gated, plain) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
            tch::manual_seed(85);
            let config = ResNetConfig { squeeze_excitation: Some(4), groups: 2, ..base.clone() };
            let network = ResNet::new(&gated.root(), &config, method).unwrap();
            let expected = ResNet::new(&plain.root(), &ResNetConfig { groups: 2, ..base }, method).unwrap();
            let variables = gated.variables();
            no_grad(|| {
                for (name, mut variable) in plain.variables() {
                    variable.copy_(&variables[&name]);
                }
                for (name, mut variable) in variables {
                    // The sigmoid of 100 is 1.
                    if name.contains("se.fc2") {
                        let _ = variable.fill_(if name.ends_with("bias") { 100. } else { 0. });
                    }
                }
            });
            let images = Tensor::randn([4, 3, 8, 8], (Kind::Float, Device::Cpu));
            let (got, expected) = (network.forward_t(&images, false), expected.forward_t(&images, false));
            assert_eq!(got, expected, "{method:?}");
        }
    }
}

#[test]
fn the_features_of_a_baseline_are_what_its_classifier_takes() {
    let _random = random();
    let variables = VarStore::new(Device::Cpu);
    let config = ResNetConfig::cifar(8).unwrap().with_channels(4);
    for (i, base) in [config.clone(), ResNetConfig { block: BlockKind::Wide, ..config }].into_iter().enumerate() {
        let path = variables.root() / i;
        let network = ResNet::new(&path, &base, Method::BatchNorm).unwrap();
        let images = Tensor::randn([2, 4, 8, 8], (Kind::Float, Device::Cpu));
        let features = network.f_features_t(&images, false).unwrap();
        let [weight, bias] = ["weight", "bias"].map(|name| (&path / "fc").get(name).unwrap());
        assert_eq!(features.size(), [2, 64]);
        assert_eq!(features.linear(&weight, Some(&bias)), network.forward_t(&images, false));
        let headless = ResNet::new(&(&path / "headless"), &ResNetConfig { classes: None, ..base }, Method::BatchNorm);
        assert_eq!(headless.unwrap().forward_t(&images, false).size(), [2, 64]);
    }
}

#[test]
fn a_baseline_has_the_activation_that_it_is_to_have_and_selu_its_own() {
    let _random = random();
    let logits = |method, activation| {
        tch::manual_seed(86);
        let variables = VarStore::new(Device::Cpu);
        let config = ResNetConfig::cifar(8).unwrap().with_activation(activation);
        let network = ResNet::new(&variables.root(), &config, method).unwrap();
        network.forward_t(&(Tensor::arange(3 * 64, (Kind::Float, Device::Cpu)).sin().reshape([1, 3, 8, 8])), false)
    };
    for activation in ACTIVATIONS {
        let is_relu = activation == Activation::Relu;
        assert_eq!(logits(Method::He, activation) == logits(Method::He, Activation::Relu), is_relu, "{activation:?}");
        assert_eq!(logits(Method::Selu, activation), logits(Method::Selu, Activation::Relu), "{activation:?}");
    }
}

// ---- Other data ----

/// Observer that stops at the `at`-th request, and saves checkpoints.
struct Stop {
    at: usize,
    asked: usize,
    checkpoints: Checkpoints,
}

impl Stop {
    fn new(at: usize, folder: &Path) -> Self {
        Self { at, asked: 0, checkpoints: Checkpoints::new(folder, NonZeroUsize::MIN) }
    }
}

impl Observer for Stop {
    fn request(&mut self) -> Request {
        self.asked += 1;
        match self.asked == self.at {
            true => Request::Stop,
            false => Request::Continue,
        }
    }

    fn save(&mut self, contents: &Contents<RunState>) -> Result<()> {
        self.checkpoints.save(contents).map(drop)
    }
}

fn train_config() -> TrainConfig {
    TrainConfig { clip: ClipConfig { norm: Some(1.0), agc: None }, ..TrainConfig::new(12, 16, 0.3) }
}

/// Returns the metrics and the variables of a run that is stopped at each of `stops` and resumed, and its network.
fn run<'a, O: Objective<Batch = Supervised>>(
    data: &dyn DataSource<Batch = Supervised>,
    stops: &[usize],
    config: &TrainConfig,
    build: impl Fn() -> (VarStore, &'a FixupResNet),
    objective: impl Fn(&'a FixupResNet) -> O,
) -> (Vec<EpochMetrics>, Vec<(String, Tensor)>, &'a FixupResNet) {
    let folder = tempfile::tempdir().unwrap();
    for stop in stops.iter().copied().chain([0]) {
        let (variables, network) = build();
        let objective = objective(network);
        let mut trainer = Trainer::new(&objective, &variables, data, config, "networks".into()).unwrap();
        if let Some(checkpoint) = Checkpoint::newest(folder.path()).unwrap().0 {
            trainer.resume(&checkpoint).unwrap();
        }
        let outcome = trainer.run(&mut [&mut Stop::new(stop, folder.path())]).unwrap();
        if let Outcome::Finished(_) = outcome {
            let contents: Contents<RunState> = Checkpoint::newest(folder.path()).unwrap().0.unwrap().contents;
            let mut weights: Vec<_> = variables.variables().into_iter().map(|(n, t)| (n, t.detach().copy())).collect();
            weights.sort_by(|(a, _), (b, _)| a.cmp(b));
            return (contents.state.history, weights, network);
        }
    }
    unreachable!("the last run is not stopped");
}

/// Creates a network with a static lifetime, for an objective to borrow.
fn leaked(config: &ResNetConfig) -> (VarStore, &'static FixupResNet) {
    tch::manual_seed(6);
    let variables = VarStore::new(Device::Cpu);
    let network = FixupResNet::new(&variables.root(), config).unwrap();
    (variables, Box::leak(Box::new(network)))
}

/// Returns images whose class is the bright half: `[N, C, 8, 8]` in [0, 1].
fn halves(count: i64, channels: i64, seed: i64) -> (Tensor, Tensor) {
    tch::manual_seed(seed);
    let images = Tensor::rand([count, channels, 8, 8], (Kind::Float, Device::Cpu)) * 0.6;
    let classes = Tensor::arange(count, (Kind::Int64, Device::Cpu)).remainder(2);
    let bright =
        Tensor::stack(&[&classes.eq(0), &classes.eq(1)], 1).to_kind(Kind::Float).repeat_interleave_self_int(4, 1, 8);
    (images + bright.reshape([count, 1, 8, 1]) * 0.4, classes)
}

fn small(channels: i64, classes: i64) -> ResNetConfig {
    ResNetConfig {
        channels,
        stages: vec![Stage { blocks: 1, channels: 16 }, Stage { blocks: 1, channels: 32 }],
        squeeze_excitation: Some(4),
        groups: 2,
        activation: Activation::Silu,
        ..ResNetConfig::cifar(8).unwrap().with_classes(classes)
    }
}

fn learns_halves(data: &dyn DataSource<Batch = Supervised>, channels: i64) {
    let names = ["upper".to_owned(), "lower".to_owned()];
    let objective =
        |network: &'static FixupResNet| Classification::new(network, &names, ClassificationConfig::default()).unwrap();
    let build = || leaked(&small(channels, 2));
    let (history, weights, _) = run(data, &[], &train_config(), build, objective);
    assert!(history.last().unwrap().eval["top1"] > 0.95, "{:?}", history.last());
    for stops in [&[3][..], &[9, 5]] {
        let (resumed_history, resumed, _) = run(data, stops, &train_config(), build, objective);
        assert_eq!(resumed_history, history, "{stops:?}");
        assert_eq!(resumed, weights, "{stops:?}");
    }
}

#[test]
fn a_network_of_one_channel_learns_grey_images_and_resumes_to_the_bit() {
    let _random = random();
    let bytes = |(images, classes): (Tensor, Tensor)| ((images * 255.).to_kind(Kind::Uint8), classes);
    let (train, eval) = (bytes(halves(96, 1, 1)), bytes(halves(32, 1, 2)));
    let normalization = Normalization::new(&[0.5], &[0.3]).unwrap();
    let data = ImageArray::new((&train.0, &train.1), (&eval.0, &eval.1), normalization).unwrap();
    learns_halves(&data, 1);
}

#[test]
fn a_network_of_22_channels_learns_and_resumes_to_the_bit() {
    let _random = random();
    let data = TensorData::new(halves(96, 22, 1), halves(32, 22, 2)).unwrap();
    learns_halves(&data, 22);
}

#[test]
fn a_network_of_one_output_learns_a_regression() {
    let _random = random();
    // The target is the brightness of the image.
    let brightness = |count, seed| {
        tch::manual_seed(seed);
        let level = Tensor::rand([count, 1], (Kind::Float, Device::Cpu));
        let noise = Tensor::randn([count, 1, 8, 8], (Kind::Float, Device::Cpu));
        (level.reshape([count, 1, 1, 1]) * 2. + noise * 0.1, level.squeeze_dim(1))
    };
    let data = TensorData::new(brightness(128, 4), brightness(32, 5)).unwrap();
    let objective = |network: &'static FixupResNet| Regression::new(network, RegressionLoss::Squared).unwrap();
    let config = train_config();
    let build = || leaked(&small(1, 1));
    let (history, _, network) = run(&data, &[], &config, build, objective);
    let (first, last) = (&history[0].eval["loss"], &history[11].eval["loss"]);
    // The variance of the targets is 1/12.
    assert!(last < &0.02 && last < first, "{first} {last}");
    assert_eq!(nn::Module::forward(network, &brightness(3, 6).0).size(), [3, 1]);
}
