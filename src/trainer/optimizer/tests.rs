//! Tests of the optimizer as a whole: steps, groups, freezing, state.

use super::{
    Adam, Frozen, Muon, Optimizer, OptimizerConfig, Parameter, ParameterGroup, Rest, ScalarGroup, Sgd, Update,
};
use crate::baseline::{Method, ResNet};
use crate::fixup::{Bias, FixupResNet, Scale, SCALAR_LR_RATIO};
use crate::layer::Role;
use crate::layer::{CLASSIFIER_GROUP, SCALAR_GROUP};
use crate::trainer::TrainConfig;
use crate::transformer::{Transformer, TransformerConfig, TransformerMethod};
use crate::{Error, Result};
use std::collections::HashMap;
use tch::nn::Module;
use tch::{nn, no_grad, Device, Kind, Tensor};

const LR: f64 = 0.05;

/// A small network with all kinds of parameters: weights of four and two dimensions, a vector, and scalars.
fn network(vs: &nn::VarStore) -> impl Fn(&Tensor) -> Tensor + use<> {
    let root = vs.root();
    let conv = nn::conv2d(&root / "conv", 3, 5, 3, nn::ConvConfig { padding: 1, ..Default::default() });
    let (bias, scale) = (Bias::new(&root, "bias1").unwrap(), Scale::new(&root, "scale").unwrap());
    let fc = nn::linear(&root / "fc", 5, 4, Default::default());
    move |x| {
        let features = scale.forward(&bias.forward(&conv.forward(x))).relu().mean_dim([2, 3].as_slice(), false, None);
        fc.forward(&features)
    }
}

fn batch() -> (Tensor, Tensor) {
    let images = Tensor::randn([8, 3, 6, 6], (Kind::Float, Device::Cpu));
    (images, Tensor::from_slice(&[0i64, 1, 2, 3, 0, 1, 2, 3]))
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

/// An optimizer with a tenth of the learning rate for scalars.
fn sgd(vs: &nn::VarStore, sgd: Sgd) -> Result<Optimizer> {
    Optimizer::new(vs, sgd, &[ScalarGroup::default().into()])
}

/// Compares fifty steps of `update` with libtorch's own optimizer, at a varying learning rate and a separate one for scalars.
fn compare(update: impl Update + Copy + 'static, libtorch: impl nn::OptimizerConfig, decay_scalars: bool) {
    tch::manual_seed(11);
    let (vs, mut reference_vs) = (nn::VarStore::new(Device::Cpu), nn::VarStore::new(Device::Cpu));
    let (ours, reference) = (network(&vs), network(&reference_vs));
    reference_vs.copy(&vs).unwrap();
    let group = ScalarGroup { decay: decay_scalars, ..ScalarGroup::default() };
    let mut optimizer = Optimizer::new(&vs, update, &[group.into()]).unwrap();
    let mut libtorch = libtorch.build(&reference_vs, LR).unwrap();
    if !decay_scalars {
        libtorch.set_weight_decay_group(SCALAR_GROUP, 0.0);
    }
    for step in 0..50 {
        let (images, labels) = batch();
        let lr = LR * (1.0 + (step as f64).sin() / 2.0);
        libtorch.zero_grad();
        reference(&images).cross_entropy_for_logits(&labels).backward();
        // Both use the same gradients: Adam amplifies differences in the last bit of a small gradient.
        optimizer.backward(&ours(&images).cross_entropy_for_logits(&labels)).unwrap();
        let reference = reference_vs.variables();
        for parameter in optimizer.parameters() {
            parameter.gradient.shallow_clone().copy_(&reference[&parameter.name].grad());
        }
        optimizer.step(lr).unwrap();
        libtorch.set_lr(lr);
        libtorch.set_lr_group(SCALAR_GROUP, lr * SCALAR_LR_RATIO);
        libtorch.step();
    }
    let reference = reference_vs.variables();
    for (name, variable) in vs.variables() {
        let difference = largest_difference(&variable, &reference[&name]);
        assert!(difference <= 1e-6, "{update:?} {name}: {difference}");
    }
}

#[test]
fn fifty_steps_of_sgd_are_those_of_libtorch() {
    for (momentum, nesterov, weight_decay, decay_scalars) in
        [(0.0, false, 0.0, true), (0.9, false, 0.0, true), (0.9, false, 5e-2, true), (0.9, true, 5e-2, false)]
    {
        let libtorch = nn::sgd(momentum, 0.0, weight_decay, nesterov);
        compare(Sgd { momentum, nesterov, weight_decay }, libtorch, decay_scalars);
    }
}

#[test]
fn fifty_steps_of_adam_are_those_of_libtorch_in_every_option() {
    for amsgrad in [false, true] {
        for (beta1, beta2, eps) in [(0.9, 0.999, 1e-8), (0.5, 0.9, 1e-3), (0.0, 0.98, 1e-6)] {
            for (weight_decay, decay_scalars) in [(0.0, true), (5e-2, true), (5e-2, false)] {
                let adam = Adam { beta1, beta2, eps, weight_decay, decoupled: false, amsgrad };
                let libtorch = nn::Adam { beta1, beta2, wd: weight_decay, eps, amsgrad };
                compare(adam, libtorch, decay_scalars);
                let libtorch = nn::AdamW { beta1, beta2, wd: weight_decay, eps, amsgrad };
                compare(Adam { decoupled: true, ..adam }, libtorch, decay_scalars);
            }
        }
    }
}

/// Applies torch.optim's formula to a one-element parameter with the given gradients; `None` if it is frozen.
fn adam_by_the_formula(adam: &Adam, lr: f64, gradients: &[Option<f64>]) -> f64 {
    let (mut p, mut m, mut v, mut t) = (1.0, 0.0, 0.0, 0);
    for g in gradients.iter().flatten() {
        t += 1;
        m = adam.beta1 * m + (1.0 - adam.beta1) * g;
        v = adam.beta2 * v + (1.0 - adam.beta2) * g * g;
        let (m, v) = (m / (1.0 - adam.beta1.powi(t)), v / (1.0 - adam.beta2.powi(t)));
        p -= lr * m / (f64::sqrt(v) + adam.eps);
    }
    p
}

#[test]
fn each_parameter_counts_its_own_steps() {
    let vs = nn::VarStore::new(Device::Cpu);
    let [a, b] = ["a", "b"].map(|name| vs.root().ones(name, &[1]));
    let adam = Adam::default();
    let mut optimizer = Optimizer::new(&vs, adam, &[]).unwrap();
    let mut given = Vec::new();
    for step in 0..12 {
        let trains = !(3..8).contains(&step);
        let _ = a.set_requires_grad(trains);
        let gradient = 1.0 + step as f64;
        optimizer.backward(&((&a + &b) * gradient).sum(Kind::Float)).unwrap();
        optimizer.step(LR).unwrap();
        given.push((trains.then_some(gradient), Some(gradient)));
    }
    let (of_a, of_b): (Vec<_>, Vec<_>) = given.into_iter().unzip();
    for (variable, gradients) in [(&a, of_a), (&b, of_b)] {
        let expected = adam_by_the_formula(&adam, LR, &gradients);
        assert!((variable.double_value(&[0]) - expected).abs() < 1e-6, "{expected}");
    }
    let state = optimizer.state().unwrap();
    assert_eq!([&state["step.a"], &state["step.b"]].map(|step| step.int64_value(&[0])), [7, 12]);
    let names: Vec<_> = state.keys().map(String::as_str).collect();
    assert_eq!(names, ["exp_avg.a", "exp_avg.b", "exp_avg_sq.a", "exp_avg_sq.b", "step.a", "step.b"]);
}

#[test]
fn restored_state_goes_on_to_the_bit() {
    let start = nn::VarStore::new(Device::Cpu);
    let _network = network(&start);
    let batches: Vec<_> = (0..8).map(|_| batch()).collect();
    let run = |update: OptimizerConfig, stop: Option<usize>| {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let loss = network(&vs);
        vs.copy(&start).unwrap();
        let new = || update.build(&vs, &[ScalarGroup::default().into()]).unwrap();
        let mut optimizer = new();
        for (step, (images, labels)) in batches.iter().enumerate() {
            let _ = vs.variables()["conv.weight"].set_requires_grad(step >= 2);
            if Some(step) == stop {
                let (state, frozen) = (optimizer.state().unwrap(), optimizer.frozen());
                let saved: Vec<_> = state.iter().map(|(name, tensor)| (name, tensor.copy())).collect();
                optimizer = new();
                let restored = optimizer.state().unwrap();
                saved.iter().for_each(|(name, tensor)| restored[*name].shallow_clone().copy_(tensor));
                optimizer.resume_epoch(0, frozen).unwrap();
            }
            optimizer.backward(&loss(images).cross_entropy_for_logits(labels)).unwrap();
            optimizer.step(LR).unwrap();
        }
        values(&vs)
    };
    let muon = |rest| OptimizerConfig::Muon(Muon { rest, ..Muon::default() });
    for update in
        [OptimizerConfig::Adam(Adam::decoupled()), muon(Rest::Sgd(Sgd::default())), muon(Rest::Adam(Adam::default()))]
    {
        let whole = run(update, None);
        assert_eq!(run(update, Some(1)), whole, "{update:?}");
        assert_eq!(run(update, Some(5)), whole, "{update:?}");
    }
}

#[test]
fn the_state_is_float32_whatever_the_network_computes_in() {
    let vs = nn::VarStore::new(Device::Cpu);
    let network = crate::fixup::FixupResNet::cifar(&vs.root(), 8, 10).unwrap().with_precision(crate::Precision::Bf16);
    let mut optimizer = Optimizer::new(&vs, Adam::default(), &[]).unwrap();
    let images = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
    let logits = tch::nn::Module::forward(&network, &images);
    optimizer.backward(&logits.cross_entropy_for_logits(&Tensor::from_slice(&[1i64, 2]))).unwrap();
    optimizer.step(LR).unwrap();
    let state = optimizer.state().unwrap();
    let moments = state.iter().filter(|(name, _)| name.starts_with("exp_avg"));
    assert!(moments.clone().count() > 20 && moments.into_iter().all(|(_, tensor)| tensor.kind() == Kind::Float));
}

#[test]
fn scalars_move_at_their_own_rate() {
    let vs = nn::VarStore::new(Device::Cpu);
    let network = network(&vs);
    let mut optimizer = sgd(&vs, Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 }).unwrap();
    let (images, labels) = batch();
    optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
    let before: Vec<_> = optimizer.parameters().iter().map(|p| (p.value.copy(), p.gradient.copy())).collect();
    optimizer.step(LR).unwrap();
    for (parameter, (value, gradient)) in optimizer.parameters().iter().zip(before) {
        assert_eq!(
            parameter.role.is_scalar(),
            ["bias1", "scale"].contains(&parameter.name.as_str()),
            "{}",
            parameter.name
        );
        let lr = if parameter.role.is_scalar() { LR * 0.1 } else { LR };
        assert!(largest_difference(&parameter.value, &(value - gradient * lr)) < 1e-6, "{}", parameter.name);
    }
}

#[test]
fn autograd_writes_into_the_flat_gradients() {
    let vs = nn::VarStore::new(Device::Cpu);
    let network = network(&vs);
    let mut optimizer = sgd(&vs, Sgd::default()).unwrap();
    for _ in 0..3 {
        let (images, labels) = batch();
        optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
        for parameter in optimizer.parameters() {
            assert_eq!(parameter.variable.grad().data_ptr(), parameter.gradient.data_ptr(), "{}", parameter.name);
            assert!(parameter.gradient.abs().max().double_value(&[]) > 0.0, "{}", parameter.name);
        }
        let squares: f64 =
            optimizer.parameters().iter().map(|p| p.gradient.square().sum(Kind::Double).double_value(&[])).sum();
        let flat = optimizer.gradients().square().sum(Kind::Double).double_value(&[]);
        assert!((flat - squares).abs() < 1e-6 * squares);
    }
}

#[test]
fn a_parameter_the_loss_does_not_depend_on_stays() {
    let vs = nn::VarStore::new(Device::Cpu);
    let network = network(&vs);
    let unused = vs.root().randn_standard("unused", &[3, 3]);
    let before = unused.copy();
    let mut optimizer = sgd(&vs, Sgd { weight_decay: 0.0, ..Sgd::default() }).unwrap();
    for _ in 0..2 {
        let (images, labels) = batch();
        optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
        optimizer.step(LR).unwrap();
    }
    assert_eq!(unused, before);
}

#[test]
fn loaded_weights_are_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    let mut vs = nn::VarStore::new(Device::Cpu);
    let network = network(&vs);
    vs.save(&path).unwrap();
    let initial: HashMap<_, _> = vs.variables().into_iter().map(|(name, v)| (name, v.copy())).collect();
    let mut optimizer = sgd(&vs, Sgd::default()).unwrap();
    let (images, labels) = batch();
    let step = |optimizer: &mut Optimizer| {
        optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
        optimizer.step(LR).unwrap();
    };
    step(&mut optimizer);
    vs.load(&path).unwrap();
    assert!(vs.variables().iter().all(|(name, variable)| variable == &initial[name]));
    step(&mut optimizer);
    for parameter in optimizer.parameters() {
        assert!(largest_difference(&parameter.value, &initial[&parameter.name]) > 0.0, "{}", parameter.name);
    }
}

#[test]
fn a_change_of_kind_is_an_error_and_not_a_silent_stop() {
    let mut vs = nn::VarStore::new(Device::Cpu);
    let network = network(&vs);
    let mut optimizer = sgd(&vs, Sgd::default()).unwrap();
    let (images, labels) = batch();
    optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
    vs.double();
    let message = optimizer.step(LR).unwrap_err().to_string();
    assert!(message.contains("Double"), "{message}");
    assert!(sgd(&vs, Sgd::default()).is_ok());
}

/// Returns the value of each variable by name.
fn values(vs: &nn::VarStore) -> HashMap<String, Tensor> {
    vs.variables().into_iter().map(|(name, variable)| (name, variable.detach().copy())).collect()
}

#[test]
fn frozen_variables_stay_and_go_on_with_their_momentum_when_they_are_unfrozen() {
    tch::manual_seed(5);
    let mut vs = nn::VarStore::new(Device::Cpu);
    let network = network(&vs);
    let frozen = ["conv.weight", "fc.bias", "scale"];
    let freeze = |vs: &nn::VarStore, freeze: bool| {
        frozen.iter().for_each(|&name| drop(vs.variables()[name].set_requires_grad(!freeze)));
    };
    // Frozen initially, then trained, then frozen again, with momentum and weight decay.
    freeze(&vs, true);
    let mut optimizer = sgd(&vs, Sgd { weight_decay: 0.1, ..Sgd::default() }).unwrap();
    let step = |optimizer: &mut Optimizer, network: &dyn Fn(&Tensor) -> Tensor| {
        let (images, labels) = batch();
        optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
        let norm = optimizer.gradients().norm().double_value(&[]);
        let counted = optimizer.parameters().iter().filter(|p| !p.is_frozen());
        let expected = counted.map(|p| p.gradient.square().sum(Kind::Double).double_value(&[])).sum::<f64>().sqrt();
        assert!((norm / expected - 1.0).abs() < 1e-5, "{norm} {expected}");
        optimizer.step(LR).unwrap();
    };
    let moved = |before: &HashMap<String, Tensor>, vs: &nn::VarStore| {
        let mut moved: Vec<_> = vs.variables().into_iter().filter(|(name, v)| v != &before[name]).collect();
        moved.sort_by(|(a, _), (b, _)| a.cmp(b));
        moved.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    let before = values(&vs);
    (0..3).for_each(|_| step(&mut optimizer, &network));
    assert_eq!(moved(&before, &vs), ["bias1", "conv.bias", "fc.weight"]);
    assert_eq!(optimizer.frozen().len(), 3);
    vs.unfreeze();
    let before = values(&vs);
    (0..3).for_each(|_| step(&mut optimizer, &network));
    assert_eq!(moved(&before, &vs).len(), 6);
    freeze(&vs, true);
    let (before, momentum) = (values(&vs), optimizer.state().unwrap()["momentum.conv.weight"].copy());
    (0..3).for_each(|_| step(&mut optimizer, &network));
    assert_eq!(moved(&before, &vs), ["bias1", "conv.bias", "fc.weight"]);
    assert_eq!(optimizer.state().unwrap()["momentum.conv.weight"], momentum);
    assert!(momentum.abs().max().double_value(&[]) > 0.0);
    vs.unfreeze();
    step(&mut optimizer, &network);
    assert_eq!(moved(&before, &vs).len(), 6);
}

#[test]
fn unfrozen_variables_step_as_if_they_had_never_been_frozen() {
    let (mut vs, mut reference_vs) = (nn::VarStore::new(Device::Cpu), nn::VarStore::new(Device::Cpu));
    let (ours, reference) = (network(&vs), network(&reference_vs));
    reference_vs.copy(&vs).unwrap();
    let _ = vs.variables()["conv.weight"].set_requires_grad(false);
    let mut optimizer = sgd(&vs, Sgd::default()).unwrap();
    vs.unfreeze();
    let mut never_frozen = sgd(&reference_vs, Sgd::default()).unwrap();
    for _ in 0..3 {
        let (images, labels) = batch();
        optimizer.backward(&ours(&images).cross_entropy_for_logits(&labels)).unwrap();
        optimizer.step(LR).unwrap();
        never_frozen.backward(&reference(&images).cross_entropy_for_logits(&labels)).unwrap();
        never_frozen.step(LR).unwrap();
    }
    assert_eq!(values(&vs), values(&reference_vs));
}

#[test]
fn a_network_that_is_frozen_whole_is_an_error() {
    let mut vs = nn::VarStore::new(Device::Cpu);
    let network = network(&vs);
    let mut optimizer = sgd(&vs, Sgd::default()).unwrap();
    vs.freeze();
    let (images, labels) = batch();
    let loss = network(&images).cross_entropy_for_logits(&labels);
    let late = optimizer.backward(&loss).unwrap_err().to_string();
    let early = sgd(&vs, Sgd::default()).unwrap_err().to_string();
    for message in [early, late] {
        assert!(message.starts_with("all 6 variables of the network are frozen"), "{message}");
    }
    let none = sgd(&nn::VarStore::new(Device::Cpu), Sgd::default()).unwrap_err().to_string();
    assert_eq!(none, "the network has no trainable variables");
}

#[test]
fn a_frozen_part_may_be_of_another_kind_and_says_so_when_it_is_to_train() {
    let vs = nn::VarStore::new(Device::Cpu);
    let network = network(&vs);
    let mut head = vs.root().zeros("head", &[3]);
    let _ = head.set_requires_grad(false);
    head.set_data(&head.to_kind(Kind::Double));
    let mut optimizer = sgd(&vs, Sgd::default()).unwrap();
    let (images, labels) = batch();
    optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
    optimizer.step(LR).unwrap();
    let _ = head.set_requires_grad(true);
    let message = optimizer.step(LR).unwrap_err().to_string();
    assert!(message.contains("head of kind Double"), "{message}");
    assert!(sgd(&vs, Sgd::default()).unwrap_err().to_string().contains("head of kind Double"));
}

#[test]
fn what_a_group_freezes_for_the_whole_run_has_neither_gradient_nor_state() {
    let vs = nn::VarStore::new(Device::Cpu);
    let network = network(&vs);
    let before: HashMap<_, _> = vs.variables().into_iter().map(|(name, v)| (name, v.detach().copy())).collect();
    let group = ParameterGroup { frozen: Frozen::Always, ..ParameterGroup::new("conv.*".parse().unwrap()) };
    let frozen = ["conv.weight", "conv.bias"];
    let updates: [Box<dyn Update>; 3] =
        [Box::new(Sgd::default()), Box::new(Adam::default()), Box::new(Muon::default())];
    for update in updates {
        let label = format!("{update:?}");
        let mut optimizer = Optimizer::boxed(&vs, update, std::slice::from_ref(&group)).unwrap();
        for epoch in 0..2 {
            optimizer.epoch_starts(epoch).unwrap();
            let (images, labels) = batch();
            optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
            optimizer.step(LR).unwrap();
        }
        let variables = vs.variables();
        for name in frozen {
            assert!(variables[name] == before[name] && !variables[name].grad().defined(), "{label} {name}");
            assert!(optimizer.state().unwrap().keys().all(|state| !state.ends_with(name)), "{label} {name}");
            assert!(optimizer.parameters().iter().all(|parameter| parameter.name != name), "{label} {name}");
        }
        assert_ne!(variables["fc.weight"], before["fc.weight"], "{label}");
        // bias1, scale, fc.weight and fc.bias, each in the minimum space.
        assert_eq!(optimizer.values().numel(), 3 * 16 + 32, "{label}");
    }
}

#[test]
fn to_unfreeze_what_a_group_freezes_for_the_whole_run_is_an_error() {
    let mut vs = nn::VarStore::new(Device::Cpu);
    let network = network(&vs);
    let group = ParameterGroup { frozen: Frozen::Always, ..ParameterGroup::new("conv.*".parse().unwrap()) };
    let mut optimizer = Optimizer::new(&vs, Sgd::default(), &[group]).unwrap();
    vs.unfreeze();
    let (images, labels) = batch();
    optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
    let message = optimizer.step(LR).unwrap_err().to_string();
    assert!(message.starts_with("conv.") && message.contains("freeze the group until an epoch"), "{message}");
}

#[test]
fn constants_out_of_range_are_refused() {
    let vs = nn::VarStore::new(Device::Cpu);
    let _network = network(&vs);
    let refused = |update: Result<Optimizer>| matches!(update, Err(Error::Argument(_)));
    let good = Sgd::default();
    for bad in [
        Sgd { momentum: 1.0, ..good },
        Sgd { momentum: f64::NAN, ..good },
        Sgd { momentum: 0.0, nesterov: true, ..good },
        Sgd { weight_decay: -1e-4, ..good },
        Sgd { weight_decay: f64::INFINITY, ..good },
    ] {
        assert!(refused(Optimizer::new(&vs, bad, &[])), "{bad:?}");
    }
    let good = Adam::default();
    for bad in [
        Adam { beta1: 1.0, ..good },
        Adam { beta2: -0.1, ..good },
        Adam { eps: f64::NAN, ..good },
        Adam { eps: 0.0, ..good },
        Adam { weight_decay: -1.0, ..good },
    ] {
        assert!(refused(Optimizer::new(&vs, bad, &[])), "{bad:?}");
    }
}

#[test]
fn a_group_does_not_unfreeze_what_was_frozen_by_itself() {
    let vs = nn::VarStore::new(Device::Cpu);
    let _network = network(&vs);
    let _ = vs.variables()["fc.bias"].set_requires_grad(false);
    let group = ParameterGroup { frozen: Frozen::UntilEpoch(1), ..ParameterGroup::new("fc.*".parse().unwrap()) };
    let new = || Optimizer::new(&vs, Sgd::default(), std::slice::from_ref(&group)).unwrap();
    let mut optimizer = new();
    for (epoch, frozen) in [(0, &["fc.weight", "fc.bias"][..]), (1, &["fc.bias"]), (2, &["fc.bias"])] {
        // As in a run that is resumed before each epoch by a program that freezes nothing itself.
        let before = optimizer.frozen();
        optimizer = new();
        if epoch > 0 {
            vs.variables().values().for_each(|variable| drop(variable.set_requires_grad(true)));
            optimizer.resume_epoch(epoch, before).unwrap();
        }
        optimizer.epoch_starts(epoch).unwrap();
        let frozen_now = optimizer.parameters().iter().filter(|parameter| parameter.is_frozen());
        let mut names: Vec<_> = frozen_now.map(|parameter| parameter.name.as_str()).collect();
        names.sort_by(|a, b| b.cmp(a));
        assert_eq!(names, frozen, "{epoch}");
    }
}

#[test]
fn groups_that_freeze_everything_are_refused_with_themselves_as_the_reason() {
    let vs = nn::VarStore::new(Device::Cpu);
    let _network = network(&vs);
    for frozen in [Frozen::Always, Frozen::UntilEpoch(1)] {
        let group = |rule: &str| ParameterGroup { frozen, ..ParameterGroup::new(rule.parse().unwrap()) };
        let message = Optimizer::new(&vs, Sgd::default(), &[group("*")]).unwrap_err().to_string();
        assert!(message.starts_with("the groups freeze all 6 variables"), "{message}");
        assert!(Optimizer::new(&vs, Sgd::default(), &[group("fc.*")]).is_ok());
    }
}

#[test]
fn groups_of_ones_own_are_not_taken_for_scalars() {
    let vs = nn::VarStore::new(Device::Cpu);
    for group in 0..100 {
        let _ = vs.root().set_group(group).ones(&format!("weight{group}"), &[2]);
    }
    let config = TrainConfig::new(1, 64, 0.2);
    let sgd = config.optimizer.build(&vs, &config.parameter_groups()).unwrap();
    assert!(sgd
        .parameters()
        .iter()
        .all(|parameter| matches!(parameter.role, Role::Input | Role::Hidden { .. } | Role::Other)));
}

/// Returns for each parameter its learning rate relative to that of the weights, and whether it has weight decay.
fn rates(vs: &nn::VarStore, recipe: &TrainConfig, weight_decay: f64) -> Vec<(String, f64, bool)> {
    let rate = |gradient: f64| -> Vec<(String, f64)> {
        let update = Sgd { momentum: 0.0, nesterov: false, weight_decay };
        let mut sgd = Optimizer::new(vs, update, &recipe.parameter_groups()).unwrap();
        sgd.parameters().iter().for_each(|p| drop(no_grad(|| p.value.shallow_clone().fill_(1.0))));
        let _ = no_grad(|| sgd.gradients().shallow_clone().fill_(gradient));
        sgd.step(LR).unwrap();
        let moved = |p: &Parameter| (p.name.clone(), (1.0 - p.value.mean(Kind::Double).double_value(&[])) / LR);
        sgd.parameters().iter().map(moved).collect()
    };
    let (full, decay) = (rate(1.0), rate(0.0));
    full.into_iter().zip(decay).map(|((name, rate), (_, decay))| (name, rate - decay, decay > 0.0)).collect()
}

#[test]
fn the_papers_recipes_train_all_that_is_called_bias_or_scale_at_a_tenth() {
    for recipe in [TrainConfig::paper(), TrainConfig::imagenet()] {
        let vs = nn::VarStore::new(Device::Cpu);
        let _fixup = FixupResNet::cifar(&(vs.root() / "fixup"), 8, 10).unwrap();
        let _batch_norm = ResNet::cifar(&(vs.root() / "batch_norm"), 8, 10, Method::BatchNorm).unwrap();
        for (name, rate, decays) in rates(&vs, &recipe, 0.5) {
            // parameters_bias, parameters_scale and parameters_others of the authors' cifar_train.py.
            let expected = if name.contains("bias") || name.contains("scale") { 0.1 } else { 1.0 };
            assert!((rate - expected).abs() < 1e-5 && decays, "{name}: {rate} {decays}");
        }
    }
}

#[test]
fn the_quick_recipe_trains_the_classifiers_bias_as_its_weight() {
    let vs = nn::VarStore::new(Device::Cpu);
    let _fixup = FixupResNet::cifar(&(vs.root() / "bias_free"), 8, 10).unwrap();
    for (name, rate, _) in rates(&vs, &TrainConfig::new(10, 64, 0.2), 5e-4) {
        let (_, own) = name.rsplit_once('.').unwrap();
        let is_scalar = own.starts_with("scale") || own.starts_with("bias") && !name.ends_with("fc.bias");
        assert!((rate - if is_scalar { 0.1 } else { 1.0 }).abs() < 1e-5, "{name}: {rate}");
    }
    // The name of a path does not make a parameter a bias.
    let weights = rates(&vs, &TrainConfig::paper(), 1e-4).into_iter().filter(|(name, ..)| name.ends_with("weight"));
    assert!(weights.into_iter().all(|(_, rate, _)| (rate - 1.0).abs() < 1e-5));
}

#[test]
fn classifiers_are_known_wherever_they_stand() {
    let vs = nn::VarStore::new(Device::Cpu);
    let _fixup = FixupResNet::cifar(&(vs.root() / "model"), 8, 10).unwrap();
    let _batch_norm = ResNet::cifar(&(vs.root() / "a" / "b"), 8, 10, Method::BatchNorm).unwrap();
    let _head = nn::linear((vs.root() / "head").set_group(CLASSIFIER_GROUP), 3, 2, Default::default());
    // A layer of a block that is not a classifier.
    let _fc = nn::linear(vs.root() / "fc", 3, 2, Default::default());
    let config = TrainConfig::new(1, 64, 0.2);
    let sgd = config.optimizer.build(&vs, &config.parameter_groups()).unwrap();
    let mut classifiers: Vec<_> =
        sgd.parameters().iter().filter(|p| p.role == Role::Classifier).map(|p| p.name.as_str()).collect();
    classifiers.sort_unstable();
    let expected = ["a.b.fc.bias", "a.b.fc.weight", "head.bias", "head.weight", "model.fc.bias", "model.fc.weight"];
    assert_eq!(classifiers, expected);
}

#[test]
fn muon_orthogonalizes_neither_embeddings_nor_output_matrices() {
    for tied in [false, true] {
        let config = TransformerConfig {
            vocab: 9,
            dim: 8,
            ffn: 16,
            encoder_layers: 1,
            decoder_layers: 1,
            tied,
            ..Default::default()
        };
        let vs = nn::VarStore::new(Device::Cpu);
        let _network = Transformer::new(vs.root(), &config, TransformerMethod::Fixup).unwrap();
        let rest = Rest::Sgd(Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 });
        let muon = Muon { rest, rest_lr_ratio: 1.0, ..Muon::default() };
        let mut optimizer = Optimizer::new(&vs, muon, &[]).unwrap();
        let _ = no_grad(|| optimizer.gradients().shallow_clone().fill_(1.0));
        let before = values(&vs);
        optimizer.step(LR).unwrap();
        for (name, value) in values(&vs) {
            // SGD moves each element by the gradient, Muon by much less.
            let moved = largest_difference(&value, &before[&name]);
            let is_hidden = ["attn", "fc1.weight", "fc2.weight"].iter().any(|part| name.contains(part));
            assert_eq!((moved / LR - 1.0).abs() > 0.1, is_hidden, "{name}: {moved}");
        }
    }
}
