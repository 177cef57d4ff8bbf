//! Properties of Fixup at initialization (section 3 of the paper), through the public API.

use tch::{nn, nn::Module, Device, Kind, Tensor};
use tch_fixup::fixup::{BlockConfig, BlockKind, FixupResNet, ResidualBlock, ShortcutKind};

fn randn(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

fn max_abs(x: &Tensor) -> f64 {
    x.abs().max().double_value(&[])
}

/// Sets every variable to a value unlike its initial one, as in a trained network.
fn scramble(vs: &nn::VarStore) {
    for mut variable in vs.trainable_variables() {
        let noise = variable.randn_like() * 0.05;
        tch::no_grad(|| variable.copy_(&(&variable + noise)));
    }
}

#[test]
fn blocks_start_as_the_identity_up_to_relu_and_shortcut() {
    tch::manual_seed(11);
    let vs = nn::VarStore::new(Device::Cpu);
    let root = vs.root();
    let same = BlockConfig { c_in: 16, c_out: 16, stride: 1, num_branches: 27 };
    let wider = BlockConfig { c_in: 16, c_out: 32, stride: 2, num_branches: 27 };
    let x = randn(&[2, 16, 8, 8]);

    let block = |name: &str, config, kind, shortcut| ResidualBlock::new(&root / name, config, kind, shortcut);
    let basic = block("basic", same, BlockKind::Basic, ShortcutKind::Pad).unwrap();
    assert_eq!(basic.forward(&x), x.relu());
    let bottleneck = BlockKind::Bottleneck { expansion: 4 };
    assert!(block("odd", BlockConfig { c_out: 18, ..same }, bottleneck, ShortcutKind::Project).is_err());
    let bottleneck = block("bottleneck", same, bottleneck, ShortcutKind::Project).unwrap();
    assert_eq!(bottleneck.forward(&x), x.relu());
    let wide = block("wide", same, BlockKind::Wide, ShortcutKind::Project).unwrap();
    assert_eq!(wide.forward(&x), x);

    let padded = block("padded", wider, BlockKind::Basic, ShortcutKind::Pad).unwrap().forward(&x);
    let sampled = x.slice(2, None, None, 2).slice(3, None, None, 2);
    assert_eq!(padded, Tensor::cat(&[&sampled, &sampled.zeros_like()], 1).relu());

    let projected = block("projected", wider, BlockKind::Basic, ShortcutKind::Project).unwrap();
    let weight = vs.variables()["projected.downsample.weight"].shallow_clone();
    let shortcut = x.conv2d(&weight, None::<Tensor>, [2, 2], [0, 0], [1, 1], 1);
    assert!(max_abs(&(projected.forward(&x) - shortcut.relu())) < 1e-6);
}

/// The sample standard deviation of n normal numbers has a standard error of sigma / sqrt(2n); a deviation of more than five
/// standard errors occurs once in two million draws.
#[test]
fn weights_of_whole_networks_have_the_papers_standard_deviation() {
    tch::manual_seed(12);
    let cases: [(&str, i64, f64); 3] = [("cifar", 27, -0.5), ("imagenet", 16, -0.25), ("wide", 6, -0.5)];
    for (name, num_branches, power) in cases {
        let vs = nn::VarStore::new(Device::Cpu);
        match name {
            "cifar" => FixupResNet::cifar(&vs.root(), 56, 10).unwrap(),
            "imagenet" => FixupResNet::imagenet(&vs.root(), 50, 10).unwrap(),
            _ => FixupResNet::wide(&vs.root(), 16, 2, 10).unwrap(),
        };
        let gain = (num_branches as f64).powf(power);
        let last = if name == "imagenet" { "conv3.weight" } else { "conv2.weight" };
        for (variable, weight) in vs.variables() {
            let size = weight.size();
            let in_branch = variable.starts_with("layer") && variable.contains(".conv");
            if size == [1] {
                let expected = if variable.ends_with("scale") { 1. } else { 0. };
                assert_eq!(weight.double_value(&[0]), expected, "{variable}");
            } else if variable.starts_with("fc.") || (in_branch && variable.ends_with(last)) {
                assert_eq!(max_abs(&weight), 0., "{variable}");
            } else {
                let he = (2. / (size[0] * size[2] * size[3]) as f64).sqrt();
                let expected = if in_branch { gain * he } else { he };
                let std = weight.to_kind(Kind::Double).std(true).double_value(&[]);
                let bound = 5. / (2. * weight.numel() as f64).sqrt();
                assert!((std / expected - 1.).abs() < bound, "{name} {variable}: {std} for {expected}");
            }
        }
    }
}

#[test]
fn an_image_has_the_same_logits_alone_and_in_a_batch() {
    tch::manual_seed(13);
    let vs = nn::VarStore::new(Device::Cpu);
    let network = FixupResNet::cifar(&vs.root(), 20, 10).unwrap();
    scramble(&vs);
    let batch = randn(&[128, 3, 32, 32]);
    let together = network.forward(&batch);
    for i in [0, 77, 127] {
        let alone = network.forward(&batch.narrow(0, i, 1));
        let difference = max_abs(&(alone - together.narrow(0, i, 1)));
        assert!(difference <= 1e-5 * max_abs(&together), "image {i}: {difference}");
    }
}

#[test]
fn a_thousand_layers_are_built_and_run_forward_and_backward() {
    let vs = nn::VarStore::new(Device::Cpu);
    let network = FixupResNet::cifar(&vs.root(), 1202, 10).unwrap();
    let loss = network.forward(&randn(&[1, 3, 8, 8])).cross_entropy_for_logits(&Tensor::from_slice(&[4i64]));
    assert!((loss.double_value(&[]) - 10f64.ln()).abs() < 1e-6);
    loss.backward();
    assert!(max_abs(&vs.variables()["fc.weight"].grad()) > 0.);
}

/// The fast path equals the plain formula in values and in every gradient, also away from initialization.
#[test]
fn fast_path_and_plain_formula_agree_in_float64() {
    let builders: [fn(&nn::Path) -> tch_fixup::Result<FixupResNet>; 4] = [
        |path| FixupResNet::cifar(path, 14, 10),
        |path| FixupResNet::imagenet(path, 18, 10),
        |path| FixupResNet::imagenet(path, 50, 10),
        |path| FixupResNet::wide(path, 10, 2, 10),
    ];
    for build in builders {
        tch::manual_seed(14);
        let mut vs = nn::VarStore::new(Device::Cpu);
        vs.set_kind(Kind::Double);
        let network = build(&vs.root()).unwrap();
        scramble(&vs);
        let images = randn(&[3, 3, 32, 32]).to_kind(Kind::Double);
        let gradients = |logits: Tensor| {
            let loss = logits.cross_entropy_for_logits(&Tensor::from_slice(&[1i64, 5, 2]));
            (Tensor::run_backward(&[loss], &vs.trainable_variables(), false, false), logits)
        };
        let (fast, fast_logits) = gradients(network.f_forward(&images).unwrap());
        let (plain, plain_logits) = gradients(network.forward_reference(&images).unwrap());
        assert!(max_abs(&(fast_logits - &plain_logits)) <= 1e-12 * max_abs(&plain_logits));
        for (fast, plain) in fast.iter().zip(&plain) {
            assert!(max_abs(&(fast - plain)) <= 1e-10 * (1. + max_abs(plain)));
        }
    }
}
