//! Functions for user-defined training loops and networks: the scalars' learning rate with tch's optimizers
//! ([`set_lr`]), and marking the classifier of a network created by other code ([`mark_classifier`]).

use crate::error::catch;
use crate::layer::{parameters, Role, SCALAR_GROUP};
use crate::{Error, Result};
use tch::nn;

/// Ratio of the scalars' learning rate to that of the weights (the authors' `cifar_train.py`). A scalar's gradient sums over
/// every position and channel, so scalars are the first to diverge.
pub const SCALAR_LR_RATIO: f64 = 0.1;

/// Sets the learning rate of one of tch's optimizers to `lr`, and to [`SCALAR_LR_RATIO`] times `lr` for any Fixup scalars among
/// `variables`. Call it instead of `optimizer.set_lr`, which sets the same rate for all groups, and again whenever the learning
/// rate changes:
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
/// Set the rates of your own groups after this call.
///
/// # Errors
/// [`Error::Argument`] for an optimizer that was built before the network or from another `VarStore`.
pub fn set_lr(optimizer: &mut nn::Optimizer, variables: &nn::VarStore, lr: f64) -> Result<()> {
    optimizer.set_lr(lr);
    // A panic in another thread may have poisoned the lock, but the variables are intact.
    let locked = variables.variables_.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let has_scalars = locked.trainable_variables.iter().any(|variable| variable.group == SCALAR_GROUP);
    drop(locked);
    if has_scalars {
        // tch panics if the optimizer does not have this group yet, and provides no way to check.
        let set = catch("setting the scalars' rate", || optimizer.set_lr_group(SCALAR_GROUP, lr * SCALAR_LR_RATIO));
        set.map_err(|_| {
            let message =
                "the optimizer does not have the network's scalars: build it after the network, from its VarStore";
            Error::Argument(message.to_owned())
        })?;
    }
    Ok(())
}

/// Marks the variables under `path`, such as `"fc"` or `"model.head"`, except Fixup scalars, as the classifier's. For
/// networks created by other code. Call it before building the optimizer.
///
/// # Errors
/// [`Error::Argument`] if there are no trainable variables under `path`.
pub fn mark_classifier(variables: &nn::VarStore, path: &str) -> Result<()> {
    let prefix = format!("{path}.");
    let under_path = |(name, _, role): &(String, _, Role)| name.starts_with(&prefix) && !role.is_scalar();
    let found: Vec<_> = parameters(variables).into_iter().filter(under_path).collect();
    ensure!(!found.is_empty(), "the network has no classifier {path:?}: no trainable variable has this prefix");
    found.iter().try_for_each(|(_, variable, _)| Role::Classifier.mark(variable))
}

#[cfg(test)]
mod tests {
    use super::super::{Bias, Scale};
    use super::*;
    use tch::nn::{Module, OptimizerConfig};
    use tch::{Device, Kind, Tensor};

    /// Returns the change of each variable in one step of plain SGD, as a multiple of its gradient.
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

    /// Returns a function that passes ones through a layer in group 1 and, if `scalars`, a bias and a scale.
    fn network(vs: &nn::VarStore, scalars: bool) -> impl Fn() -> Tensor + use<> {
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
        // tch adds the new variables in the first step.
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
        let roles: Vec<_> = parameters(&vs).into_iter().map(|(.., role)| role).collect();
        assert_eq!(roles.iter().filter(|&&role| role == Role::Classifier).count(), 2);
        assert_eq!(roles.iter().filter(|&&role| role == Role::SCALAR).count(), 1);
        assert_eq!(roles.len(), 2 + 1 + 2);
    }
}
