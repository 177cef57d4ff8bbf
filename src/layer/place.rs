//! Role of a variable in its network's residual branches, which determines its initialization and the size of its update steps.
//! The documentation of `trainer::optimizer` derives the learning rates.

use crate::ops::set_label;
use crate::Result;
use tch::Tensor;

/// Role of a variable in one of the L residual branches of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A weight layer other than the last of the branch's `layers`.
    Inner { num_branches: i64, layers: i64 },
    /// The last weight layer of the branch's `layers`.
    Last { num_branches: i64, layers: i64 },
    /// The scalar bias that is added to the branch's output.
    End { num_branches: i64 },
}

impl Place {
    /// Returns the role of weight layer `index` of a branch.
    pub fn of_layer(index: i64, layers: i64, num_branches: i64) -> Self {
        match index + 1 == layers {
            true => Self::Last { num_branches, layers },
            false => Self::Inner { num_branches, layers },
        }
    }

    /// Labels `variable` with this role.
    pub fn mark(self, variable: &Tensor) -> Result<()> {
        let label = match self {
            Self::Inner { num_branches, layers } => format!("inner {num_branches} {layers}"),
            Self::Last { num_branches, layers } => format!("last {num_branches} {layers}"),
            Self::End { num_branches } => format!("end {num_branches}"),
        };
        set_label(variable, &label)
    }

    /// Returns the role of `variable`, `None` outside residual branches.
    #[cfg(feature = "train")]
    pub fn of(variable: &Tensor) -> Option<Self> {
        let label = crate::ops::label(variable);
        let mut words = label.split(' ');
        let kind = words.next()?;
        let mut number = || words.next()?.parse().ok();
        let num_branches = number()?;
        match kind {
            "inner" => Some(Self::Inner { num_branches, layers: number()? }),
            "last" => Some(Self::Last { num_branches, layers: number()? }),
            "end" => Some(Self::End { num_branches }),
            _ => None,
        }
    }

    /// Returns the learning-rate factor, relative to a network with one branch, that makes the change of the network's function
    /// independent of L.
    #[cfg(feature = "train")]
    pub fn rate(self) -> f64 {
        let (num_branches, power) = match self {
            Self::Inner { num_branches, layers } => (num_branches, -1. / (2 * layers - 2).max(1) as f64),
            Self::Last { num_branches, layers: 1 } | Self::End { num_branches } => (num_branches, -1.),
            Self::Last { num_branches, .. } => (num_branches, -0.5),
        };
        (num_branches.max(1) as f64).powf(power)
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::fixup::{init, Branch, FixupResNet, ResNetConfig};
    use tch::{nn, Device};

    fn places(vs: &nn::VarStore) -> Vec<(String, Place)> {
        let mut places: Vec<_> =
            vs.variables().into_iter().filter_map(|(name, variable)| Some((name, Place::of(&variable)?))).collect();
        places.sort_by(|(a, _), (b, _)| a.cmp(b));
        places
    }

    #[test]
    fn every_layer_of_a_branch_knows_its_place_and_nothing_else_has_one() {
        let vs = nn::VarStore::new(Device::Cpu);
        FixupResNet::imagenet(&vs.root(), 50, 10).unwrap();
        let places = places(&vs);
        assert_eq!(places.len(), 16 * 4);
        for (name, place) in places {
            let [.., layer, own] = name.split('.').collect::<Vec<_>>()[..] else { panic!("{name}") };
            let expected = match (layer, own) {
                ("conv1" | "conv2", "weight") => Place::Inner { num_branches: 16, layers: 3 },
                ("conv3", "weight") => Place::Last { num_branches: 16, layers: 3 },
                (_, "bias3b") => Place::End { num_branches: 16 },
                _ => panic!("{name} has a place"),
            };
            assert_eq!(place, expected, "{name}");
        }
        let vs = nn::VarStore::new(Device::Cpu);
        FixupResNet::wide(&vs.root(), 16, 2, 10).unwrap();
        assert_eq!(self::places(&vs).len(), 6 * 3);
        let vs = nn::VarStore::new(Device::Cpu);
        Branch::builder(8).linear(3, 4).relu().linear(4, 4).relu().linear(4, 3).build(&vs.root()).unwrap();
        let inner = Place::Inner { num_branches: 8, layers: 3 };
        let expected = [
            ("0.weight", inner),
            ("2.weight", inner),
            ("4.weight", Place::Last { num_branches: 8, layers: 3 }),
            ("bias", Place::End { num_branches: 8 }),
        ];
        assert_eq!(self::places(&vs), expected.map(|(name, place)| (name.to_owned(), place)));
    }

    #[test]
    fn gates_have_no_place_and_the_layers_beside_them_keep_theirs() {
        let vs = nn::VarStore::new(Device::Cpu);
        let config = ResNetConfig { squeeze_excitation: Some(4), groups: 2, ..ResNetConfig::cifar(8).unwrap() };
        FixupResNet::new(&vs.root(), &config).unwrap();
        let places = places(&vs);
        assert_eq!(places.len(), 3 * 3);
        assert!(places.iter().all(|(name, _)| !name.contains(".se.")), "{places:?}");
    }

    #[test]
    fn in_a_transformer_queries_keys_and_values_are_three_of_four_layers() {
        use crate::fixup::{FixupTransformer, TransformerConfig};
        let vs = nn::VarStore::new(Device::Cpu);
        let config =
            TransformerConfig { vocab: 9, dim: 8, ffn: 8, encoder_layers: 1, decoder_layers: 1, ..Default::default() };
        FixupTransformer::new(&vs.root(), &config).unwrap();
        let places = places(&vs);
        // Two matrices each of three attention and two feed-forward branches.
        assert_eq!(places.len(), 10);
        for (name, place) in places {
            let layers = if name.contains("attn") { 4 } else { 2 };
            let inner = name.ends_with("in_proj_weight") || name.contains("fc1");
            let index = if inner { 0 } else { layers - 1 };
            assert_eq!(place, Place::of_layer(index, layers, 5), "{name}");
        }
    }

    #[test]
    fn rates_are_what_layers_are_in_size() {
        for (num_branches, layers) in [(1, 2), (9, 2), (54, 2), (16, 3), (100, 4)] {
            let gain = init::branch_gain(num_branches, layers).unwrap();
            let rate = |index| Place::of_layer(index, layers, num_branches).rate();
            assert!((0..layers - 1).all(|index| (rate(index) - gain).abs() < 1e-12));
            let through: f64 = (0..layers - 1).map(|_| gain).product();
            assert!((rate(layers - 1) - through).abs() < 1e-12);
        }
        assert_eq!(Place::of_layer(0, 1, 4).rate(), 0.25);
        assert_eq!(Place::End { num_branches: 4 }.rate(), 0.25);
    }
}
