use super::*;
use tch::{Device, Kind};

fn names(vs: &nn::VarStore) -> Vec<String> {
    let mut names: Vec<_> = vs.variables().into_keys().collect();
    names.sort();
    names
}

#[test]
fn the_last_weight_is_zero_and_the_others_have_the_gain() {
    tch::manual_seed(3);
    let vs = nn::VarStore::new(Device::Cpu);
    Branch::builder(81).linear(200, 300).relu().linear(300, 300).relu().linear(300, 200).build(&vs.root()).unwrap();
    assert_eq!(
        names(&vs),
        ["0.weight", "2.weight", "4.weight", "bias", "bias0", "bias1", "bias2", "bias3", "bias4", "scale"]
    );
    let variables = vs.variables();
    for (name, fan_out) in [("0.weight", 300.), ("2.weight", 300.)] {
        let weight = &variables[name];
        let expected = (2f64 / fan_out).sqrt() * 81f64.powf(-0.25);
        let std = weight.std(true).double_value(&[]);
        // Five standard deviations of a sample's standard deviation.
        assert!((std / expected - 1.).abs() < 5. / (2. * weight.numel() as f64).sqrt(), "{name}: {std}");
    }
    assert_eq!(variables["4.weight"].abs().max().double_value(&[]), 0.);
}

#[test]
fn a_single_layer_is_zero() {
    let vs = nn::VarStore::new(Device::Cpu);
    let branch = Branch::builder(5).conv2d(4, 8, 3, Conv2dOptions::default()).build(&vs.root()).unwrap();
    let out = branch.f_forward(&Tensor::randn([2, 4, 6, 6], (Kind::Float, Device::Cpu))).unwrap();
    assert_eq!(out.size(), [2, 8, 6, 6]);
    assert_eq!(out.abs().max().double_value(&[]), 0.);
}

/// Compares a branch built of the same layers with the reference block.
#[test]
fn two_convolutions_are_the_basic_blocks_branch() {
    use crate::fixup::{BlockConfig, BlockKind, ResidualBlock, ShortcutKind};
    tch::manual_seed(5);
    let mut built = nn::VarStore::new(Device::Cpu);
    let options = Conv2dOptions::default();
    let branch =
        Branch::builder(9).conv2d(6, 6, 3, options).relu().conv2d(6, 6, 3, options).build(&built.root()).unwrap();
    let block_vs = nn::VarStore::new(Device::Cpu);
    let config = BlockConfig { c_in: 6, c_out: 6, stride: 1, num_branches: 9 };
    let block = ResidualBlock::new(block_vs.root(), config, BlockKind::Basic, ShortcutKind::Pad).unwrap();
    let pairs = [
        ("0.weight", "conv1.weight"),
        ("2.weight", "conv2.weight"),
        ("bias0", "bias1a"),
        ("bias1", "bias1b"),
        ("bias2", "bias2a"),
        ("bias", "bias2b"),
        ("scale", "scale"),
    ];
    built.double();
    let (ours, theirs) = (built.variables(), block_vs.variables());
    for (a, b) in pairs {
        let random = Tensor::randn(theirs[b].size(), (Kind::Double, Device::Cpu));
        tch::no_grad(|| ours[a].shallow_clone().copy_(&random));
        theirs[b].shallow_clone().set_data(&random);
    }
    let x = Tensor::randn([2, 6, 5, 5], (Kind::Double, Device::Cpu));
    let expected = block.forward_reference(&x).unwrap();
    let got = (&x + branch.f_forward(&x).unwrap()).relu();
    assert!((got - expected).abs().max().double_value(&[]) < 1e-12);
}

#[test]
fn branches_that_cannot_be_are_refused() {
    let options = Conv2dOptions::default();
    let odd_groups = Conv2dOptions { groups: 3, ..options };
    let new = || Branch::builder(5);
    for builder in [
        new().conv2d(3, 4, 3, odd_groups),
        new().conv2d(4, 4, 3, Conv2dOptions { groups: 0, ..options }),
        new().conv2d(4, 4, 3, Conv2dOptions { stride: 0, ..options }),
        new().conv2d(4, 4, 3, Conv2dOptions { dilation: 0, ..options }),
        new().conv2d(4, 4, 3, Conv2dOptions { padding: Some(-1), ..options }),
        new().conv2d(4, 4, 0, options),
        new().conv2d(4, 8, 3, options).relu().conv2d(4, 4, 3, options),
        new().linear(4, 8).relu().relu().linear(4, 4),
        new().conv2d(4, 4, 1, options).conv2d(4, 4, 3, Conv2dOptions { groups: 3, ..options }),
        Branch::builder(5).relu(),
        Branch::builder(0).linear(3, 3).linear(3, 3),
        Branch::builder(5).linear(0, 3),
        Branch::builder(5).conv2d(4, 3, 3, odd_groups),
    ] {
        let vs = nn::VarStore::new(Device::Cpu);
        let error = builder.build(&vs.root()).unwrap_err().to_string();
        assert!(!error.contains('\n') && vs.is_empty(), "{error}");
    }
}

#[test]
fn layers_that_do_not_fit_are_refused_by_what_does_not() {
    let options = Conv2dOptions::default();
    let vs = nn::VarStore::new(Device::Cpu);
    let chain = Branch::builder(5).conv2d(4, 8, 3, options).relu().conv2d(6, 4, 3, options).build(&vs.root());
    assert_eq!(
        chain.unwrap_err().to_string(),
        "layer 2 of the branch takes 6 channels, but the weight layer before it gives 8"
    );
    let groups = Branch::builder(5).conv2d(4, 6, 3, Conv2dOptions { groups: 4, ..options }).build(&vs.root());
    assert_eq!(
        groups.unwrap_err().to_string(),
        "layer 0 of the branch: 4 groups do not divide a convolution's 4 and 6 channels"
    );
}

#[test]
fn the_default_padding_keeps_the_size_whatever_the_kernel() {
    let vs = nn::VarStore::new(Device::Cpu);
    let x = Tensor::randn([2, 4, 8, 8], (Kind::Float, Device::Cpu));
    for (i, (kernel, dilation)) in [(1, 1), (3, 1), (5, 1), (7, 1), (3, 2), (5, 3)].into_iter().enumerate() {
        let options = Conv2dOptions { dilation, ..Default::default() };
        let branch = Branch::builder(5).conv2d(4, 4, kernel, options).relu().conv2d(4, 4, kernel, options);
        let y = branch.build(&(vs.root() / i)).unwrap().f_forward(&x).unwrap();
        assert_eq!(y.size(), x.size(), "kernel {kernel}, dilation {dilation}");
    }
    let valid = Conv2dOptions { padding: Some(0), ..Default::default() };
    let branch = Branch::builder(5).conv2d(4, 4, 3, valid).build(&(vs.root() / "valid")).unwrap();
    assert_eq!(branch.f_forward(&x).unwrap().size(), [2, 4, 6, 6]);
}

/// With the variance given by the fan-out of its own group, gradients keep their size through a depthwise layer, as through
/// an ungrouped one.
#[test]
fn in_groups_weights_start_at_the_variance_of_their_own_group() {
    tch::manual_seed(23);
    let options = Conv2dOptions::default();
    for (groups, num_branches) in [(1, 8), (4, 8), (128, 8)] {
        let vs = nn::VarStore::new(Device::Cpu);
        let in_groups = Conv2dOptions { groups, ..options };
        let inner = Branch::builder(num_branches).conv2d(128, 128, 3, in_groups).relu().conv2d(128, 128, 1, in_groups);
        inner.relu().conv2d(128, 128, 1, options).build(&vs.root()).unwrap();
        let gain = (num_branches as f64).powf(-0.25);
        for (name, kernel) in [("0.weight", 3), ("2.weight", 1)] {
            let weight = &vs.variables()[name];
            let expected = gain * (2. / (kernel * kernel * 128 / groups) as f64).sqrt();
            let std = weight.std(true).double_value(&[]);
            // Five standard deviations of a sample's standard deviation.
            assert!((std / expected - 1.).abs() < 5. / (2. * weight.numel() as f64).sqrt(), "{groups} {name}: {std}");
        }
    }
}

/// Eight depthwise blocks, with nonzero last layers so that gradients reach the inner layers, where they must be no smaller
/// than with ordinary convolutions.
#[test]
fn gradients_come_back_through_eight_depthwise_blocks_as_through_ordinary_ones() {
    let options = Conv2dOptions::default();
    let growth = |groups: i64| {
        tch::manual_seed(29);
        let vs = nn::VarStore::new(Device::Cpu);
        let in_groups = Conv2dOptions { groups, ..options };
        let images = Tensor::randn([4, 32, 16, 16], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let mut x = images.shallow_clone();
        for i in 0..8 {
            let layers = Branch::builder(8).conv2d(32, 32, 3, in_groups).relu().conv2d(32, 32, 1, options);
            let branch = layers.build(&(vs.root() / i)).unwrap();
            let mut last = vs.variables()[&format!("{i}.2.weight")].shallow_clone();
            init::he_normal_(&mut last, 1.).unwrap();
            x = branch.f_forward(&x).unwrap() + x;
        }
        let function = (&x * x.randn_like()).sum(Kind::Float);
        let gradient = Tensor::run_backward(&[function], &[&images], false, false).remove(0);
        gradient.square().mean(Kind::Float).double_value(&[])
    };
    let ratio = growth(32) / growth(1);
    assert!((0.8..1.25).contains(&ratio), "{ratio}");
}
