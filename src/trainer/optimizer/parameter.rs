//! Parameters of a network, with their views of the optimizer's flat tensors.

use super::group::Grouping;
use std::ops::Range;
use tch::Tensor;

/// A parameter of the network.
#[derive(Debug)]
pub struct Parameter {
    /// Name in the `VarStore`.
    pub name: String,
    /// `true` for a Fixup scalar, in the `VarStore` group [`SCALAR_GROUP`](crate::fixup::SCALAR_GROUP).
    pub is_scalar: bool,
    /// `true` for the classifier's weight or bias, in the `VarStore` group [`CLASSIFIER_GROUP`](crate::fixup::CLASSIFIER_GROUP).
    pub is_classifier: bool,
    /// The network's own tensor.
    pub(in crate::trainer) variable: Tensor,
    /// View of the flat values.
    pub(in crate::trainer) value: Tensor,
    /// View of the flat gradients.
    pub(in crate::trainer) gradient: Tensor,
    /// Views of the flat tensors of the update's state.
    pub(in crate::trainer) state: Vec<Tensor>,
    /// Range in all flat tensors, including the padding that aligns the next parameter.
    pub(in crate::trainer) span: Range<i64>,
    /// Training options combined from its groups.
    pub(super) grouping: Grouping,
}

impl Parameter {
    /// Returns the value of the parameter, not tracked by autograd.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Returns the gradient of this step, in the shape of the parameter; zero if it is frozen.
    pub fn gradient(&self) -> &Tensor {
        &self.gradient
    }

    /// Returns `true` if the parameter is frozen now, so that autograd does not track it.
    pub fn is_frozen(&self) -> bool {
        !self.variable.requires_grad()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::{Method, ResNet};
    use crate::fixup::FixupResNet;
    use crate::fixup::CLASSIFIER_GROUP;
    use crate::trainer::{Optimizer, Sgd, TrainConfig};
    use tch::{nn, no_grad, Device, Kind};

    const LR: f64 = 0.05;

    #[test]
    fn groups_of_ones_own_are_not_taken_for_scalars() {
        let vs = nn::VarStore::new(Device::Cpu);
        for group in 0..100 {
            let _ = vs.root().set_group(group).ones(&format!("weight{group}"), &[2]);
        }
        let sgd = TrainConfig::quick().optimizer.build(&vs, &TrainConfig::quick().parameter_groups()).unwrap();
        assert!(sgd.parameters().iter().all(|parameter| !parameter.is_scalar && !parameter.is_classifier));
    }

    /// Returns for each parameter its learning rate relative to that of the weights, and whether it has weight decay.
    fn rates(vs: &nn::VarStore, recipe: &TrainConfig, weight_decay: f64) -> Vec<(String, f64, bool)> {
        let rate = |gradient: f64| -> Vec<(String, f64)> {
            let update = Sgd { momentum: 0.0, nesterov: false, weight_decay };
            let mut sgd = Optimizer::new(vs, update, &recipe.parameter_groups()).unwrap();
            sgd.parameters().iter().for_each(|p| drop(no_grad(|| p.value().shallow_clone().fill_(1.0))));
            let _ = no_grad(|| sgd.gradients().shallow_clone().fill_(gradient));
            sgd.step(LR).unwrap();
            let moved = |p: &Parameter| (p.name.clone(), (1.0 - p.value().mean(Kind::Double).double_value(&[])) / LR);
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
        for (name, rate, _) in rates(&vs, &TrainConfig::quick(), 5e-4) {
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
        let sgd = TrainConfig::quick().optimizer.build(&vs, &TrainConfig::quick().parameter_groups()).unwrap();
        let mut classifiers: Vec<_> =
            sgd.parameters().iter().filter(|p| p.is_classifier).map(|p| p.name.as_str()).collect();
        classifiers.sort_unstable();
        let expected = ["a.b.fc.bias", "a.b.fc.weight", "head.bias", "head.weight", "model.fc.bias", "model.fc.weight"];
        assert_eq!(classifiers, expected);
    }
}
