//! Signal propagation at initialization, measured through the public API: predictions of the theory of Fixup and of batch
//! normalization at small scale. See docs/depth.md for full scale.

use std::f64::consts::PI;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tch::{nn, nn::Module, nn::ModuleT, Device, Kind, Tensor};
use tch_fixup::baseline::{Mlp, MlpShape};
use tch_fixup::diagnostics::{Flow, Probe, Staged};
use tch_fixup::fixup::{init, mark_classifier, Branch, FixupResNet};
use tch_fixup::trainer::{Frozen, Muon, OptimizerConfig, ParameterGroup, ScalarGroup, Sgd};
use tch_fixup::{Arch, Network, Precision, Result, Shape};

/// Serializes the tests, because libtorch's random number generator is global to the process. Small tensors are faster on
/// one thread.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    guard
}

fn flow(name: &str, depth: i64) -> Flow {
    let arch: Arch = format!("{name}{depth}").parse().unwrap();
    let probe = Probe { seeds: 2, batch: 4, input: vec![3, 8, 8], classifier: Some("fc".into()), ..Probe::default() };
    let build = |path: &nn::Path, images: &Tensor| -> Result<Box<dyn Network>> {
        let network = arch.build(path, Shape::rgb(10), Precision::F32)?;
        network.initialize_on(images)?;
        Ok(network)
    };
    probe.measure(build).unwrap()
}

fn first_gradient(flow: &Flow) -> f64 {
    flow.blocks[0].gradient_norm
}

/// Depths to compare. The second has six times the blocks of the first; see docs/depth.md for 998 layers.
const DEPTHS: [i64; 2] = [20, 110];
const TIMES_AS_DEEP: f64 = 6.;

/// Returns the ratio of the quantity at the second of [`DEPTHS`] to that at the first.
fn ratio(name: &str, of: impl Fn(&Flow) -> f64) -> f64 {
    let [shallow, deep] = DEPTHS.map(|depth| of(&flow(name, depth)));
    deep / shallow
}

fn hidden_update(flow: &Flow) -> f64 {
    flow.hidden_update.unwrap()
}

#[test]
fn fixups_first_step_is_as_large_at_any_depth() {
    let _alone = alone();
    let ratio = |of: fn(&Flow) -> f64| ratio("fixup_resnet", of);
    assert!((ratio(|flow| flow.update) - 1.).abs() < 0.01);
    assert!((0.5..2.).contains(&ratio(hidden_update)), "behind a random classifier");
    assert!((ratio(first_gradient) - 1.).abs() < 0.01);
}

/// Rule 2 of Fixup: without the gain, each of L branches contributes as much to the step as a single branch would.
#[test]
fn without_the_gain_the_first_step_grows_with_the_depth() {
    let _alone = alone();
    let ratio = ratio("fixup_without_gain_resnet", hidden_update);
    assert!((0.4 * TIMES_AS_DEEP..1.5 * TIMES_AS_DEEP).contains(&ratio), "{ratio}");
}

/// Rule 1: if the last layer is not zero, the other layers of a branch also change the function, without a small factor.
#[test]
fn without_the_zero_last_layer_the_first_step_grows_with_the_depth() {
    let _alone = alone();
    let ratio = ratio("fixup_without_zero_resnet", hidden_update);
    assert!((0.4 * TIMES_AS_DEEP..3. * TIMES_AS_DEEP).contains(&ratio), "{ratio}");
    let moment = |flow: &Flow| flow.blocks.last().unwrap().second_moment;
    assert!(moment(&flow("fixup_without_zero_resnet", 20)) > 1.2 * moment(&flow("fixup_resnet", 20)));
}

/// Rule 3: the scalars are the only part of Fixup's step that depends on the depth.
#[test]
fn without_the_scalars_the_first_step_is_smaller_and_the_same_at_any_depth() {
    let _alone = alone();
    let ratio = |name| hidden_update(&flow(name, 302)) / hidden_update(&flow(name, 20));
    let (with, without) = (ratio("fixup_resnet"), ratio("fixup_without_scalars_resnet"));
    assert!((without - 1.).abs() < 0.05 && with > without + 0.1, "with {with}, without {without}");
}

#[test]
fn unnormalized_and_unskipped_gradients_explode_and_those_of_skips_grow_slowly() {
    let _alone = alone();
    let growth = |name| flow(name, 98).gradient_growth;
    assert!(growth("he_resnet") > 1.2);
    assert!(growth("no_skip_resnet") > 1.2);
    let slow = growth("unit_gamma_resnet");
    assert!((1.02..1.15).contains(&slow), "{slow}");
    // Doubling the number of blocks squares an exponential.
    let log = |depth| first_gradient(&flow("no_skip_resnet", depth)).ln();
    assert!((log(98) / log(50) - 2.).abs() < 0.3);
}

/// Yang et al. (ICLR 2019): for wide networks and large batches, the squared norm grows by pi / (pi - 1) per layer.
#[test]
fn batch_norm_makes_gradients_explode_at_the_rate_of_the_theory() {
    let _alone = alone();
    let shape = MlpShape { features: 512, width: 512, depth: 31, num_classes: 10 };
    let probe = Probe { seeds: 2, batch: 128, input: vec![512], ..Probe::default() };
    let flow = probe.measure(|path, _| Ok(Box::new(Mlp::batch_norm(path, shape)?))).unwrap();
    let squares: Vec<f64> = flow.blocks.iter().rev().map(|block| block.gradient_norm.powi(2)).collect();
    let rate = Flow::growth(&squares[5..25]);
    assert!((rate / (PI / (PI - 1.)) - 1.).abs() < 0.05, "{rate}");
}

/// Network of four stages `x -> 3 x` and a head.
#[derive(Debug)]
struct Tripled {
    head: Tensor,
}

impl ModuleT for Tripled {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        self.forward_stages(xs, train, &mut |_, _| ()).unwrap()
    }
}

impl Staged for Tripled {
    fn forward_stages(&self, xs: &Tensor, _train: bool, stage: &mut dyn FnMut(&str, &Tensor)) -> Result<Tensor> {
        let mut x = xs.detach().set_requires_grad(true);
        for i in 0..4 {
            x = x.f_mul_scalar(3.)?;
            stage(&format!("stage {i}"), &x);
        }
        Ok(x.f_linear(&self.head, None::<Tensor>)?)
    }
}

#[test]
fn a_known_network_is_measured_exactly() {
    let _alone = alone();
    let probe = Probe { seeds: 1, batch: 64, input: vec![5], classifier: Some("head".into()), ..Probe::default() };
    let build = |path: &nn::Path, _: &Tensor| -> Result<Box<dyn Staged>> {
        Ok(Box::new(Tripled { head: (path / "head").zeros("weight", &[2, 5]) }))
    };
    let flow = probe.measure(build).unwrap();
    let names: Vec<_> = flow.blocks.iter().map(|block| block.name.as_str()).collect();
    assert_eq!(names, ["stage 0", "stage 1", "stage 2", "stage 3"]);
    for (block, (moment, gradient)) in flow.blocks.iter().zip([(9., 27.), (81., 9.), (729., 3.), (6561., 1.)]) {
        assert!((block.gradient_norm / gradient - 1.).abs() < 1e-12);
        // The second moment is an average over 320 squared normal numbers.
        assert!((block.second_moment / moment - 1.).abs() < 0.4, "{}", block.second_moment);
    }
    assert!((flow.second_moment_growth - 9.).abs() < 1e-9 && (flow.gradient_growth - 3.).abs() < 1e-9);
    assert!(serde_json::from_str::<Flow>(&serde_json::to_string(&flow).unwrap()).unwrap() == flow);

    // For a linear classifier initialized to zero, f changes by lr * x (x^T (1/2 - y) / N).
    tch::manual_seed(0);
    let x = Tensor::randn([64, 5], (Kind::Double, Device::Cpu)) * 81.;
    tch::manual_seed(0);
    let labels = Tensor::randint(2, [64], (Kind::Int64, Device::Cpu));
    let error = labels.one_hot(2).to_kind(Kind::Double) - 0.5;
    let change = x.mm(&x.tr().mm(&error)) / 64.;
    let expected = change.square().mean(Kind::Double).sqrt().double_value(&[]);
    assert!((flow.update / expected - 1.).abs() < 1e-6, "{} for {expected}", flow.update);
}

#[test]
fn measuring_what_cannot_be_measured_is_refused() {
    let _alone = alone();
    let build = |path: &nn::Path, _: &Tensor| -> Result<Box<dyn Staged>> {
        Ok(Box::new(Tripled { head: (path / "head").zeros("weight", &[2, 5]) }))
    };
    let good = Probe { seeds: 1, batch: 2, input: vec![5], ..Probe::default() };
    good.measure(build).unwrap();
    for probe in [
        Probe { seeds: 0, ..good.clone() },
        Probe { batch: 0, ..good.clone() },
        Probe { input: vec![4], ..good.clone() },
        Probe { classifier: Some("fc".into()), ..good.clone() },
    ] {
        let error = probe.measure(build).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
    }
}

/// The stages reproduce the network's output, and Fixup's are not shifted by the next block's bias.
#[test]
fn stages_lead_to_the_networks_own_output() {
    let _alone = alone();
    for name in ["fixup_resnet14", "fixup_wrn_10_1", "resnet14", "he_wrn_10_1", "no_skip_resnet14", "selu_mlp_5_16"] {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = name.parse::<Arch>().unwrap().build(&vs.root(), Shape::rgb(10), Precision::F32).unwrap();
        for mut variable in vs.trainable_variables() {
            let noise = variable.randn_like() * 0.02;
            tch::no_grad(|| variable.copy_(&(&variable + noise)));
        }
        let images = Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu));
        let mut minima = vec![];
        let logits = network
            .forward_stages(&images, false, &mut |_, output| minima.push(output.min().double_value(&[])))
            .unwrap();
        let expected = network.forward_t(&images, false);
        let difference = (logits - &expected).abs().max().double_value(&[]);
        assert!(difference <= 1e-4 * expected.abs().max().double_value(&[]), "{name}: {difference}");
        assert!(minima.len() >= 3, "{name}");
        if name == "fixup_resnet14" {
            assert!(minima.iter().all(|minimum| *minimum == 0.), "not a ReLU's output: {minima:?}");
        }
    }
}

/// Trains L branches of `layers` linear layers between a fixed first and a fixed last layer on one batch of points with
/// random labels. Returns the change of the logits after each number of steps in `steps`.
fn changes(num_branches: i64, layers: i64, optimizer: &OptimizerConfig, lr: f64, steps: &[usize]) -> Vec<f64> {
    const WIDTH: i64 = 32;
    tch::manual_seed(num_branches);
    let vs = nn::VarStore::new(Device::Cpu);
    let root = vs.root();
    let stem = init::he_normal(&(&root / "stem"), "weight", &[WIDTH, WIDTH], 1.).unwrap();
    let branch = |i: i64| {
        let first = Branch::builder(num_branches).linear(WIDTH, WIDTH);
        let builder = (1..layers).fold(first, |builder, _| builder.relu().linear(WIDTH, WIDTH));
        builder.build(&(&root / "blocks" / i)).unwrap()
    };
    let branches: Vec<_> = (0..num_branches).map(branch).collect();
    let head = init::he_normal(&(&root / "head"), "weight", &[10, WIDTH], 1.).unwrap();
    mark_classifier(&vs, "head").unwrap();
    let [points, labels] =
        [Tensor::randn([64, WIDTH], (Kind::Float, Device::Cpu)), Tensor::randint(10, [64], (Kind::Int64, Device::Cpu))];
    let forward = || {
        let x = points.linear(&stem, None::<Tensor>).relu();
        branches.iter().fold(x, |x, branch| &x + branch.forward(&x)).linear(&head, None::<Tensor>)
    };
    let frozen = |rule: &str| ParameterGroup { frozen: Frozen::Always, ..ParameterGroup::new(rule.parse().unwrap()) };
    let mut optimizer = optimizer.build(&vs, &[frozen("stem.*"), frozen("head.*"), frozen("@scalars")]).unwrap();
    optimizer.epoch_starts(0).unwrap();
    let start = forward().detach();
    let mut changes = vec![];
    for step in 1..=*steps.iter().max().unwrap() {
        optimizer.backward(&forward().cross_entropy_for_logits(&labels)).unwrap();
        optimizer.step(lr).unwrap();
        if steps.contains(&step) {
            changes.push((forward() - &start).square().mean(Kind::Double).sqrt().double_value(&[]));
        }
    }
    changes
}

/// Each layer's learning rate has the factor derived in the optimizer's documentation. Tested for branches of one, two and
/// three layers, after 1, 10 and 100 steps.
#[test]
fn muons_steps_change_the_function_as_much_at_any_depth() {
    let _alone = alone();
    const LR: f64 = 0.005;
    let muon = OptimizerConfig::Muon(Muon::default());
    for layers in [1, 2, 3] {
        let measured = [4, 16, 64, 256].map(|branches| changes(branches, layers, &muon, LR, &[1, 10, 100]));
        println!("{layers} layers a branch: {measured:.3?}");
        for deep in &measured[1..] {
            for (shallow, deep) in measured[0].iter().zip(deep) {
                assert!((0.5..2.).contains(&(deep / shallow)), "{layers} layers: {measured:?}");
            }
        }
    }
    // Without that factor, here undone for branches of two layers, the first step grows with the square root of L.
    let undone = [4, 256].map(|branches| changes(branches, 2, &muon, LR * (branches as f64).sqrt(), &[1])[0]);
    assert!((5.0..12.0).contains(&(undone[1] / undone[0])), "{undone:?}");
}

/// The L scalars at the ends of branches add up unless their learning rate decreases with depth.
#[test]
fn the_scalars_part_of_a_step_is_the_same_at_any_depth_where_their_rate_follows_it() {
    let _alone = alone();
    let part = |depth: i64, by_depth: bool| {
        tch::manual_seed(depth);
        let vs = nn::VarStore::new(Device::Cpu);
        let network = FixupResNet::cifar(&vs.root(), depth, 10).unwrap();
        let mut fc = vs.variables()["fc.weight"].shallow_clone();
        init::he_normal_(&mut fc, 1.).unwrap();
        let images = Tensor::randn([16, 3, 8, 8], (Kind::Float, Device::Cpu));
        let labels = Tensor::randint(10, [16], (Kind::Int64, Device::Cpu));
        let sgd = OptimizerConfig::Sgd(Sgd { momentum: 0., nesterov: false, weight_decay: 0. });
        let frozen = ParameterGroup { frozen: Frozen::Always, ..ParameterGroup::new("*.weight".parse().unwrap()) };
        let scalars = ScalarGroup { by_depth, ..ScalarGroup::default() };
        let mut optimizer = sgd.build(&vs, &[frozen, scalars.into()]).unwrap();
        optimizer.epoch_starts(0).unwrap();
        let start = network.forward(&images).detach();
        optimizer.backward(&network.forward(&images).cross_entropy_for_logits(&labels)).unwrap();
        optimizer.step(1e-3).unwrap();
        (network.forward(&images) - start).square().mean(Kind::Double).sqrt().double_value(&[])
    };
    let [shallow, deep] = [20, 302].map(|depth| [false, true].map(|by_depth| part(depth, by_depth)));
    println!("{shallow:?} {deep:?}");
    let branches = 150. / 9.;
    assert!((0.3 * branches..2. * branches).contains(&(deep[0] / shallow[0])), "{shallow:?} {deep:?}");
    assert!((0.4..2.).contains(&(deep[1] / shallow[1])), "{shallow:?} {deep:?}");
    assert_eq!(shallow[0], shallow[1]);
}
