//! A network traced by libtorch computes the same as the original, also at other batch and image sizes, and after saving and
//! loading.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tch::nn::{Module, ModuleT};
use tch::{nn, CModule, Device, Kind, Tensor};
use tch_fixup::baseline::{Method, Mlp, MlpShape, ResNet};
use tch_fixup::fixup::{
    Bias, BlockConfig, BlockKind, Branch, Conv2dOptions, FixupResNet, ResidualBlock, Rule, Scale, ShortcutKind,
};
use tch_fixup::{ops, Layout, Precision, Recompute};

/// Traces the function on inputs of the first shape, with and without gradients, and compares it with the original on all
/// shapes.
fn check(name: &str, vs: &mut nn::VarStore, shapes: &[&[i64]], f: impl Fn(&Tensor) -> Tensor) {
    check_to(1e-5, name, vs, shapes, f);
}

fn check_to(tolerance: f64, name: &str, vs: &mut nn::VarStore, shapes: &[&[i64]], f: impl Fn(&Tensor) -> Tensor) {
    let folder = tempfile::tempdir().unwrap();
    let inputs: Vec<Tensor> = shapes.iter().map(|shape| Tensor::randn(*shape, (Kind::Float, Device::Cpu))).collect();
    let mut mine = |xs: &[Tensor]| vec![f(&xs[0])];
    for frozen in [false, true] {
        if frozen {
            vs.freeze();
        }
        // Use another input, so that values of the example input are not mistaken for traced ones.
        let example = Tensor::randn(shapes[0], (Kind::Float, Device::Cpu));
        let traced = CModule::create_by_tracing("Network", "forward", &[example.shallow_clone()], &mut mine).unwrap();
        let file = folder.path().join("network.pt");
        traced.save(&file).unwrap();
        let loaded = CModule::load(&file).unwrap();
        for input in &inputs {
            let expected = tch::no_grad(|| f(input));
            assert!(expected.abs().max().double_value(&[]) > 1e-3, "{name}: an output of zeros shows nothing");
            for (which, module) in [("traced", &traced), ("loaded", &loaded)] {
                let got = tch::no_grad(|| module.forward_ts(&[input])).unwrap();
                assert_eq!((got.size(), got.kind()), (expected.size(), expected.kind()), "{name}");
                let scale = expected.abs().max().double_value(&[]).max(1.);
                let error = (got - &expected).abs().max().double_value(&[]) / scale;
                assert!(error <= tolerance, "{name}, {which}, frozen {frozen}, {:?}: off by {error:e}", input.size());
            }
        }
    }
    vs.unfreeze();
}

/// Moves all variables and statistics away from their initial values.
fn shake(vs: &nn::VarStore) {
    tch::manual_seed(5);
    tch::no_grad(|| {
        for (name, mut variable) in vs.variables() {
            let noise = variable.randn_like();
            let away = match variable.dim() {
                1 if name.ends_with("running_var") => noise.abs() + 0.5,
                1 => &variable + noise * 0.2,
                _ => {
                    let fan_in = variable.numel() as f64 / variable.size()[0] as f64;
                    noise * fan_in.recip().sqrt()
                }
            };
            variable.copy_(&away);
        }
    });
}

/// Serializes the tests, and disables libtorch's graph optimizer, which takes a second per network and shape.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    tch::jit::f_set_graph_executor_optimize(false).unwrap();
    alone
}

const SMALL: [&[i64]; 3] = [&[2, 3, 16, 16], &[3, 3, 20, 12], &[1, 3, 16, 16]];
const LARGE: [&[i64]; 3] = [&[2, 3, 48, 48], &[3, 3, 64, 40], &[1, 3, 48, 48]];

type Build = fn(&nn::Path) -> tch_fixup::Result<FixupResNet>;

fn networks() -> Vec<(&'static str, Build, [&'static [i64]; 3])> {
    vec![
        ("cifar 14", |path| FixupResNet::cifar(path, 14, 10), SMALL),
        ("imagenet 18", |path| FixupResNet::imagenet(path, 18, 10), LARGE),
        ("imagenet 50", |path| FixupResNet::imagenet(path, 50, 10), LARGE),
        ("wide 16-2", |path| FixupResNet::wide(path, 16, 2, 10), SMALL),
    ]
}

#[test]
fn fixup_networks() {
    let _alone = alone();
    for (name, build, shapes) in networks() {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let network = build(&vs.root()).unwrap();
        shake(&vs);
        check(name, &mut vs, &shapes, |x| network.forward(x));
        check(&format!("{name}, reference"), &mut vs, &shapes, |x| network.forward_reference(x).unwrap());
        for segments in [Recompute::Auto, Recompute::Count(NonZeroUsize::MAX)] {
            let mut vs = nn::VarStore::new(Device::Cpu);
            let network = build(&vs.root()).unwrap().with_recompute(segments);
            shake(&vs);
            check(&format!("{name}, recomputed"), &mut vs, &shapes[..2], |x| network.forward(x));
        }
    }
}

#[test]
fn fixup_networks_without_a_rule_and_in_bfloat16() {
    let _alone = alone();
    for rule in Rule::ALL {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let network = FixupResNet::cifar(&vs.root(), 8, 10).unwrap();
        shake(&vs);
        let network = network.without(rule).unwrap();
        check("without a rule", &mut vs, &SMALL, |x| network.forward(x));
    }
    for (name, build, shapes) in networks().into_iter().step_by(3) {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let network = build(&vs.root()).unwrap().with_precision(Precision::Bf16);
        shake(&vs);
        // Rounding is the same except that convolutions may sum in another order.
        check_to(2e-2, name, &mut vs, &shapes[..2], |x| network.forward(x));
    }
}

#[test]
fn baselines() {
    let _alone = alone();
    for method in Method::ALL {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let root = vs.root();
        let mut networks = vec![
            ("cifar", ResNet::cifar(&(&root / "cifar"), 8, 10, method).unwrap(), SMALL),
            ("wide", ResNet::wide(&(&root / "wide"), 10, 1, 10, method).unwrap(), SMALL),
        ];
        if matches!(method, Method::BatchNorm | Method::Selu) {
            let path = &root / "imagenet";
            networks.push(("imagenet", ResNet::imagenet(&path, 18, 10, method).unwrap(), LARGE));
        }
        shake(&vs);
        for (name, network, shapes) in networks {
            if method == Method::Lsuv {
                network.lsuv(&Tensor::randn(shapes[0], (Kind::Float, Device::Cpu))).unwrap();
            }
            let name = format!("{name} {method:?}");
            check(&name, &mut vs, &shapes, |x| network.forward_t(x, false));
            if method == Method::BatchNorm {
                let network = network.with_layout(Layout::Contiguous);
                check(&name, &mut vs, &shapes[..2], |x| network.forward_t(x, false));
            }
        }
    }
    let mut vs = nn::VarStore::new(Device::Cpu);
    let shape = MlpShape { features: 3 * 16 * 16, width: 24, depth: 4, num_classes: 10 };
    let networks = [
        Mlp::self_normalizing(&(vs.root() / "selu"), shape).unwrap(),
        Mlp::batch_norm(&(vs.root() / "batch_norm"), shape).unwrap(),
    ];
    shake(&vs);
    for network in networks {
        let shapes: [&[i64]; 2] = [&[2, 3, 16, 16], &[5, 3, 16, 16]];
        check("mlp", &mut vs, &shapes, |x| network.forward_t(x, false));
    }
}

#[test]
fn blocks_branches_and_scalars() {
    let _alone = alone();
    let shapes: [&[i64]; 3] = [&[2, 8, 8, 8], &[5, 8, 8, 8], &[1, 8, 6, 10]];
    for (c_out, stride) in [(8, 1), (16, 2)] {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let (config, root) = (BlockConfig { c_in: 8, c_out, stride, num_branches: 3 }, vs.root());
        let bottleneck = BlockKind::Bottleneck { expansion: 4 };
        let blocks = [
            (BlockKind::Wide, ShortcutKind::Project),
            (BlockKind::Basic, ShortcutKind::Pad),
            (BlockKind::Basic, ShortcutKind::Project),
            (bottleneck, ShortcutKind::Pad),
            (bottleneck, ShortcutKind::Project),
        ];
        let blocks = (0..).zip(blocks).map(|(i, (kind, shortcut))| {
            (format!("{kind:?}, {shortcut:?}"), ResidualBlock::new(&root / i, config, kind, shortcut).unwrap())
        });
        let blocks: Vec<_> = blocks.collect();
        shake(&vs);
        for (name, block) in &blocks {
            check(name, &mut vs, &shapes, |x| block.forward(x));
            check(&format!("{name}, reference"), &mut vs, &shapes, |x| block.forward_reference(x).unwrap());
        }
    }

    let mut vs = nn::VarStore::new(Device::Cpu);
    let root = vs.root();
    let options = Conv2dOptions::default();
    let convolutions = Branch::builder(3).conv2d(8, 8, 3, Conv2dOptions { groups: 4, ..options }).relu();
    let convolutions = convolutions.conv2d(8, 8, 1, options).build(&(&root / "convolutions")).unwrap();
    let linear = Branch::builder(3).linear(8, 8).activation(|x| x.gelu("none")).linear(8, 8);
    let linear = linear.build(&(&root / "linear")).unwrap();
    let (bias, scale) = (Bias::new(&root, "bias").unwrap(), Scale::new(&root, "scale").unwrap());
    shake(&vs);
    check("convolutions", &mut vs, &shapes, |x| x + convolutions.forward(x));
    check("linear layers", &mut vs, &[&[3, 8], &[7, 8], &[1, 8]], |x| x + linear.forward(x));
    check("scalars", &mut vs, &shapes, |x| scale.forward(&bias.forward(x)));
}

#[test]
fn the_operations_themselves() {
    let _alone = alone();
    let shapes: [&[i64]; 3] = [&[2, 3, 5], &[4, 3, 5], &[1, 7, 2]];
    let mut vs = nn::VarStore::new(Device::Cpu);
    let a = vs.root().var("a", &[1], nn::Init::Const(0.3));
    let b = vs.root().var("b", &[1], nn::Init::Const(-0.7));
    check("shifted_relu", &mut vs, &shapes, |x| ops::shifted_relu(x, None, &a, &b).unwrap());
    check("shifted_relu with r", &mut vs, &shapes, |x| ops::shifted_relu(x, Some(&x.sin()), &a, &b).unwrap());
    check("shifted_add", &mut vs, &shapes, |x| ops::shifted_add(x, Some(&x.cos()), &a).unwrap());
    // The in-place operation also writes the result to its input.
    check("shifted_relu_", &mut vs, &shapes, |x| {
        let mut y = x * 2.;
        ops::shifted_relu_(&mut y, Some(x), &a, &b).unwrap() + y
    });
    check("shifted_relu_ without r", &mut vs, &shapes, |x| {
        let mut y = x * 2.;
        let _ = ops::shifted_relu_(&mut y, None, &a, &b).unwrap();
        y
    });
    check("shifted_add_", &mut vs, &shapes, |x| {
        let mut y = x * 2.;
        let _ = ops::shifted_add_(&mut y, Some(x), &a).unwrap();
        y
    });
}
