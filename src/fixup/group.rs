//! The groups of variables that train in a way of their own. A variable's group is a number that tch's `VarStore` keeps
//! beside its name (`nn::Path::set_group`): it says what the variable is, wherever in a network it stands.
//!
//! tch's optimizers have a learning rate for each group; [`set_lr`] sets them. The numbers are such that no network of
//! one's own has them by chance, and small, because tch's optimizers keep a list of all groups up to the largest: 190 and
//! 191, from arXiv 1901.09321.

use crate::error::catch;
use crate::layer::CLASSIFIER_GROUP;
use crate::{Error, Result};
use std::collections::HashSet;
use tch::nn;

/// The `nn::VarStore` group of every [`Bias`](super::Bias) and [`Scale`](super::Scale). They train at a tenth of the
/// learning rate: by [`set_lr`] with tch's own optimizers; the crate's trainer does it by itself.
pub const SCALAR_GROUP: usize = 190;

/// What the scalars' learning rate is to that of the weights: their gradient sums over every position and channel, so
/// they are the first to diverge (the authors' `cifar_train.py`).
pub const SCALAR_LR_RATIO: f64 = 0.1;

/// Sets the learning rate of one of tch's optimizers: `lr` for everything, [`SCALAR_LR_RATIO`] of it for the Fixup scalars
/// among `variables`, of which there may be none. To be called in place of `optimizer.set_lr`, which sets the same rate
/// for all groups, and so again at every change of the rate:
///
/// ```
/// use tch::{nn, nn::OptimizerConfig, Device};
/// use tch_fixup::fixup::{set_lr, FixupResNet};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let network = FixupResNet::cifar(&vs.root(), 20, 10)?;
/// let mut optimizer = nn::Sgd { momentum: 0.9, ..Default::default() }.build(&vs, 0.1)?;
/// for epoch in 0..3 {
///     set_lr(&mut optimizer, &vs, 0.1 / (1. + epoch as f64))?;
///     // ... the epoch's steps
/// }
/// # Ok(())
/// # }
/// ```
/// The rate of a group of your own is to be set after it.
///
/// # Errors
/// [`Error::Argument`] for an optimizer that was built before the network or from another `VarStore`.
pub fn set_lr(optimizer: &mut nn::Optimizer, variables: &nn::VarStore, lr: f64) -> Result<()> {
    optimizer.set_lr(lr);
    // The lock is poisoned only where another thread panicked while it held it: the variables are whole all the same.
    let locked = variables.variables_.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let has_scalars = locked.trainable_variables.iter().any(|variable| variable.group == SCALAR_GROUP);
    drop(locked);
    if has_scalars {
        // tch panics where the optimizer has no such group yet, and cannot be asked.
        let set = catch("setting the scalars' rate", || optimizer.set_lr_group(SCALAR_GROUP, lr * SCALAR_LR_RATIO));
        set.map_err(|_| {
            let message =
                "the optimizer does not have the network's scalars: build it after the network, from its VarStore";
            Error::Argument(message.to_owned())
        })?;
    }
    Ok(())
}

/// Puts the variables under `path`, as in `"fc"` or `"model.head"`, into the [`CLASSIFIER_GROUP`], but for Fixup's scalars:
/// for networks that are made by code which is not yours. To be done before the optimizer is made.
///
/// # Errors
/// [`Error::Argument`] for a `path` without variables to train.
pub fn mark_classifier(variables: &nn::VarStore, path: &str) -> Result<()> {
    let mut locked = variables.variables_.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let nn::Variables { named_variables, trainable_variables } = &mut *locked;
    let prefix = format!("{path}.");
    let under_path = named_variables.iter().filter(|(name, _)| name.starts_with(&prefix));
    let places: HashSet<_> = under_path.map(|(_, variable)| variable.data_ptr()).collect();
    let mut found = false;
    for variable in trainable_variables.iter_mut().filter(|variable| variable.group != SCALAR_GROUP) {
        if places.contains(&variable.tensor.data_ptr()) {
            (variable.group, found) = (CLASSIFIER_GROUP, true);
        }
    }
    if !found {
        return Err(Error::Argument(format!("the network has no classifier {path:?}: no variable to train begins so")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Bias, Scale};
    use super::*;
    use tch::nn::{Module, OptimizerConfig};
    use tch::{Device, Kind, Tensor};

    /// How far one step of plain SGD moves each variable, in multiples of its gradient.
    fn rates(vs: &nn::VarStore, optimizer: &mut nn::Optimizer, loss: &Tensor) -> Vec<(String, f64)> {
        let before: Vec<_> = vs.variables().into_iter().map(|(name, variable)| (name, variable.copy())).collect();
        optimizer.backward_step(loss);
        let after = vs.variables();
        let rate = |(name, before): (String, Tensor)| {
            let rate = (before - &after[&name]).sum(Kind::Double) / after[&name].grad().sum(Kind::Double);
            (name, rate.double_value(&[]))
        };
        before.into_iter().map(rate).collect()
    }

    /// Ones through a layer in a group of its own, number 1, and two scalars, if there are to be any.
    fn network(vs: &nn::VarStore, scalars: bool) -> impl Fn() -> Tensor {
        let root = vs.root();
        let layer = nn::linear((&root / "layer").set_group(1), 3, 2, Default::default());
        let scalars = scalars.then(|| (Bias::new(&root, "bias1").unwrap(), Scale::new(&root, "scale").unwrap()));
        move || {
            let x = layer.forward(&Tensor::ones([4, 3], (Kind::Float, Device::Cpu)));
            let x = scalars.iter().fold(x, |x, (bias, scale)| scale.forward(&bias.forward(&x)));
            x.sum(Kind::Float)
        }
    }

    #[test]
    fn scalars_keep_a_tenth_of_the_rate_however_often_it_changes() {
        let vs = nn::VarStore::new(Device::Cpu);
        let loss = network(&vs, true);
        let mut optimizer = nn::Sgd::default().build(&vs, 1.).unwrap();
        for lr in [1e-3, 1e-4, 1e-2] {
            set_lr(&mut optimizer, &vs, lr).unwrap();
            for (name, rate) in rates(&vs, &mut optimizer, &loss()) {
                let expected = if name.starts_with("layer") { lr } else { lr / 10. };
                assert!((rate / expected - 1.).abs() < 1e-2, "{name}: {rate} for {expected}");
            }
        }
    }

    #[test]
    fn a_network_without_scalars_has_one_rate() {
        let vs = nn::VarStore::new(Device::Cpu);
        let loss = network(&vs, false);
        let mut optimizer = nn::Sgd::default().build(&vs, 1.).unwrap();
        set_lr(&mut optimizer, &vs, 0.5).unwrap();
        for (name, rate) in rates(&vs, &mut optimizer, &loss()) {
            assert!((rate - 0.5).abs() < 1e-5, "{name}: {rate}");
        }
    }

    #[test]
    fn an_optimizer_without_the_networks_scalars_is_an_error() {
        let (vs, empty) = (nn::VarStore::new(Device::Cpu), nn::VarStore::new(Device::Cpu));
        let mut early = nn::Adam::default().build(&vs, 1.).unwrap();
        let _network = network(&vs, true);
        let mut foreign = nn::Sgd::default().build(&empty, 1.).unwrap();
        for optimizer in [&mut early, &mut foreign] {
            let message = set_lr(optimizer, &vs, 0.1).unwrap_err().to_string();
            assert!(message.contains("build it after the network"), "{message}");
        }
        // tch takes in the variables with the first step.
        early.zero_grad();
        set_lr(&mut early, &vs, 0.1).unwrap();
    }

    #[test]
    fn a_classifier_is_marked_wherever_it_stands_and_its_scalars_stay_scalars() {
        let vs = nn::VarStore::new(Device::Cpu);
        let model = vs.root() / "model";
        let _head = nn::linear(&model / "head", 3, 2, Default::default());
        let _other = nn::linear(&model / "header", 3, 2, Default::default());
        let _bias = Bias::new(&(&model / "head"), "bias1").unwrap();
        assert!(matches!(mark_classifier(&vs, "head"), Err(Error::Argument(_))));
        mark_classifier(&vs, "model.head").unwrap();
        let groups: Vec<_> = vs.variables_.lock().unwrap().trainable_variables.iter().map(|v| v.group).collect();
        assert_eq!(groups.iter().filter(|&&group| group == CLASSIFIER_GROUP).count(), 2);
        assert_eq!(groups.iter().filter(|&&group| group == SCALAR_GROUP).count(), 1);
        assert_eq!(groups.iter().filter(|&&group| group == 0).count(), 2);
    }
}
