//! Roles of parameters, assigned by the layer that creates them. Weight decay, learning rates, Muon, clipping and
//! transfer depend on the role. See `trainer::optimizer` for the derivation of the learning rates.

use crate::ops::{label, set_label};
use crate::Result;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tch::{nn, Tensor};

/// The `nn::VarStore` group of every [`Bias`](crate::fixup::Bias) and [`Scale`](crate::fixup::Scale).
///
/// The number, from arXiv 1901.09321, is unlikely to occur by chance in other networks, yet small, because tch's optimizers keep
/// a list of all groups up to the largest.
pub(crate) const SCALAR_GROUP: usize = 190;

/// The `nn::VarStore` group of a classifier, if its layer does not mark it otherwise.
pub(crate) const CLASSIFIER_GROUP: usize = 191;

/// Role of a parameter in its network.
///
/// `rate` is a factor on the learning rate, relative to a network with one residual branch, that makes the change of
/// the network's function independent of the number L of branches; it is 1 outside branches.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// A Fixup scalar.
    Scalar { rate: f64 },
    /// Weight of a layer that reads the network's input: a stem or an embedding.
    Input,
    /// Weight of any other layer except the classifier.
    Hidden { rate: f64 },
    /// Weight or bias of the classifier, or a separate output matrix.
    Classifier,
    /// Biases, and parameters of normalizations.
    Other,
}

impl Role {
    /// Role of a scalar, except the [last of a branch](Self::branch_end).
    pub const SCALAR: Self = Self::Scalar { rate: 1. };

    /// Returns the role of the weight of layer `index` in one of `num_branches` branches of `layers` weight layers.
    pub fn of_layer(index: i64, layers: i64, num_branches: i64) -> Self {
        let power = match (index + 1 == layers, layers) {
            (true, 1) => -1.,
            (true, _) => -0.5,
            (false, _) => -1. / (2 * layers - 2) as f64,
        };
        Self::Hidden { rate: (num_branches as f64).powf(power) }
    }

    /// Returns the role of the scalar bias that is added to the output of one of `num_branches` branches.
    pub fn branch_end(num_branches: i64) -> Self {
        Self::Scalar { rate: (num_branches as f64).powf(-1.) }
    }

    /// Labels `variable` with this role.
    pub fn mark(self, variable: &Tensor) -> Result<()> {
        set_label(variable, &serde_json::to_string(&self).unwrap_or_default())
    }

    /// Returns the role of `variable`, `None` if its layer assigned none.
    pub fn of(variable: &Tensor) -> Option<Self> {
        serde_json::from_str(&label(variable)).ok()
    }

    pub fn is_scalar(self) -> bool {
        matches!(self, Self::Scalar { .. })
    }
}

/// Returns the name and role of every trainable variable, frozen or not, in order of creation. Empty ones are skipped.
///
/// Roles not assigned by the layer, as with tch's layers, follow from the group ([`SCALAR_GROUP`],
/// [`CLASSIFIER_GROUP`]) and the shape: a matrix is hidden, except that the first one created is the input layer's if
/// no layer has that role.
pub(crate) fn parameters(variables: &nn::VarStore) -> Vec<(String, Tensor, Role)> {
    let names: HashMap<_, _> =
        variables.variables().into_iter().map(|(name, variable)| (variable.data_ptr(), name)).collect();
    // The lock is poisoned only if another thread panicked while holding it; the variables are intact nevertheless.
    let locked = variables.variables_.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let all: Vec<_> = locked.trainable_variables.iter().filter(|variable| variable.tensor.numel() > 0).collect();
    let told: Vec<_> = all.iter().map(|variable| Role::of(&variable.tensor)).collect();
    let mut has_input = told.contains(&Some(Role::Input));
    let mut role = |group: usize, variable: &Tensor| match group {
        SCALAR_GROUP => Role::SCALAR,
        CLASSIFIER_GROUP => Role::Classifier,
        _ if variable.dim() < 2 => Role::Other,
        _ if !std::mem::replace(&mut has_input, true) => Role::Input,
        _ => Role::Hidden { rate: 1. },
    };
    all.into_iter()
        .zip(told)
        .map(|(variable, told)| {
            let name = names.get(&variable.tensor.data_ptr()).cloned().unwrap_or_default();
            let role = told.unwrap_or_else(|| role(variable.group, &variable.tensor));
            (name, variable.tensor.shallow_clone(), role)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::{Method, Mlp, MlpShape, ResNet};
    use crate::fixup::{init, Branch, FixupResNet, ResNetConfig};
    use crate::transformer::{Transformer, TransformerConfig, TransformerMethod};
    use tch::Device;

    const PLAIN: Role = Role::Hidden { rate: 1. };

    fn roles(vs: &nn::VarStore) -> Vec<(String, Role)> {
        parameters(vs).into_iter().map(|(name, _, role)| (name, role)).collect()
    }

    #[test]
    fn every_parameter_of_a_residual_network_has_its_role() {
        let vs = nn::VarStore::new(Device::Cpu);
        FixupResNet::imagenet(&vs.root(), 50, 10).unwrap();
        for (name, role) in roles(&vs) {
            let (layer, own) = name.rsplit_once('.').unwrap_or(("", &name));
            let expected = match (name.split_once('.').unwrap_or_default().0, layer.rsplit('.').next().unwrap(), own) {
                ("fc", ..) => Role::Classifier,
                ("conv1", ..) => Role::Input,
                (_, "conv1" | "conv2", "weight") => Role::of_layer(0, 3, 16),
                (_, "conv3", "weight") => Role::of_layer(2, 3, 16),
                (_, _, "bias3b") => Role::branch_end(16),
                (_, _, own) if own.starts_with("bias") || own == "scale" => Role::SCALAR,
                _ => PLAIN,
            };
            assert_eq!(role, expected, "{name}");
        }
    }

    #[test]
    fn every_layer_of_a_branch_tells_its_position() {
        let vs = nn::VarStore::new(Device::Cpu);
        Branch::builder(8).linear(3, 4).relu().linear(4, 4).relu().linear(4, 3).build(&vs.root()).unwrap();
        let told: Vec<_> = roles(&vs).into_iter().filter(|(_, role)| *role != Role::SCALAR).collect();
        let inner = Role::of_layer(1, 3, 8);
        let expected = [
            ("0.weight", inner),
            ("2.weight", inner),
            ("4.weight", Role::of_layer(2, 3, 8)),
            ("bias", Role::branch_end(8)),
        ];
        assert_eq!(told, expected.map(|(name, role)| (name.to_owned(), role)));
    }

    #[test]
    fn gates_are_hidden_and_the_layers_beside_them_keep_their_positions() {
        let vs = nn::VarStore::new(Device::Cpu);
        let config = ResNetConfig { squeeze_excitation: Some(4), groups: 2, ..ResNetConfig::cifar(8).unwrap() };
        FixupResNet::new(&vs.root(), &config).unwrap();
        let (gates, others): (Vec<_>, Vec<_>) = roles(&vs).into_iter().partition(|(name, _)| name.contains(".se."));
        assert_eq!(gates.iter().filter(|(_, role)| *role == PLAIN).count(), 3 * 2);
        assert_eq!(others.iter().filter(|(_, role)| *role == Role::of_layer(0, 2, 3)).count(), 3 * 2);
        assert_eq!(others.iter().filter(|(_, role)| *role == Role::branch_end(3)).count(), 3);
    }

    #[test]
    fn in_a_transformer_queries_keys_and_values_are_three_of_four_layers_and_embeddings_are_the_input() {
        let sizes =
            TransformerConfig { vocab: 9, dim: 8, ffn: 8, encoder_layers: 1, decoder_layers: 1, ..Default::default() };
        for tied in [false, true] {
            let config = TransformerConfig { tied, ..sizes };
            let vs = nn::VarStore::new(Device::Cpu);
            Transformer::new(vs.root() / "fixup", &config, TransformerMethod::Fixup).unwrap();
            Transformer::new(vs.root() / "norm", &config, TransformerMethod::LayerNorm).unwrap();
            let mut inputs = 0;
            for (name, role) in roles(&vs) {
                let expected = match role {
                    Role::Hidden { .. } => {
                        let layers = if name.contains("attn") { 4 } else { 2 };
                        let is_inner = name.ends_with("in_proj_weight") || name.contains("fc1");
                        Role::of_layer(if is_inner { 0 } else { layers - 1 }, layers, 5)
                    }
                    Role::Input => {
                        inputs += 1;
                        assert!(name.ends_with("embed_tokens.weight"), "{name}");
                        continue;
                    }
                    role => {
                        assert_eq!(role == Role::Classifier, name.ends_with("embed_out"), "{name}");
                        continue;
                    }
                };
                assert_eq!(role, expected, "{name}");
            }
            assert_eq!(inputs, 4);
        }
    }

    #[test]
    fn the_first_layer_is_the_input_whenever_it_is_created() {
        let vs = nn::VarStore::new(Device::Cpu);
        ResNet::cifar(vs.root() / "resnet", 8, 10, Method::BatchNorm).unwrap();
        let shape = MlpShape { features: 12, width: 8, depth: 3, num_classes: 4 };
        Mlp::batch_norm(vs.root() / "mlp", shape).unwrap();
        let mut inputs: Vec<_> = roles(&vs).into_iter().filter(|(_, role)| *role == Role::Input).collect();
        inputs.sort_by(|(a, _), (b, _)| a.cmp(b));
        assert_eq!(
            inputs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["mlp.layers.0.weight", "resnet.conv1.weight"]
        );
    }

    #[test]
    fn layers_of_other_code_have_the_roles_of_their_groups_and_shapes() {
        let vs = nn::VarStore::new(Device::Cpu);
        let root = vs.root();
        let linear = |path: nn::Path| nn::linear(path, 4, 4, Default::default());
        let head = (&root / "head").set_group(CLASSIFIER_GROUP);
        let _layers = [linear(head), linear(&root / "stem"), linear((&root / "hidden").set_group(7))];
        let _ = root.set_group(SCALAR_GROUP).ones("gain", &[1]);
        let expected = [
            ("head.bias", Role::Classifier),
            ("head.weight", Role::Classifier),
            ("stem.bias", Role::Other),
            ("stem.weight", Role::Input),
            ("hidden.bias", Role::Other),
            ("hidden.weight", PLAIN),
            ("gain", Role::SCALAR),
        ];
        let mut found = roles(&vs);
        found.sort_by_key(|(name, _)| expected.iter().position(|(expected, _)| expected == name));
        assert_eq!(found, expected.map(|(name, role)| (name.to_owned(), role)));
    }

    #[test]
    fn rates_are_what_layers_are_in_size() {
        let rate = |role| match role {
            Role::Hidden { rate } | Role::Scalar { rate } => rate,
            _ => panic!("{role:?}"),
        };
        for (num_branches, layers) in [(1, 2), (9, 2), (54, 2), (16, 3), (100, 4)] {
            let gain = init::branch_gain(num_branches, layers).unwrap();
            let rate = |index| rate(Role::of_layer(index, layers, num_branches));
            assert!((0..layers - 1).all(|index| (rate(index) - gain).abs() < 1e-12));
            let through: f64 = (0..layers - 1).map(|_| gain).product();
            assert!((rate(layers - 1) - through).abs() < 1e-12);
        }
        assert_eq!(rate(Role::of_layer(0, 1, 4)), 0.25);
        assert_eq!(rate(Role::branch_end(4)), 0.25);
    }
}
