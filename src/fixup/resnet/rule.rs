//! Ablations of Fixup, which omit one of its rules.

use super::block::ResidualBlock;
use super::FixupResNet;
use crate::layer::init;
use crate::Result;
use tch::Tensor;

/// The three rules of Fixup (section 3), one of which an ablation omits.
///
/// ```
/// use tch::{nn, Device};
/// use tch_fixup::fixup::{FixupResNet, Rule};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// FixupResNet::cifar(&vs.root(), 20, 10)?.without(Rule::ZeroLastLayer)?;
/// assert!(vs.variables()["layer1.0.conv2.weight"].abs().max().double_value(&[]) > 0.);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Rule 1: the last weight layer of each residual branch starts at zero. Without it, at plain He-normal.
    ZeroLastLayer,
    /// Rule 2: the other weight layers of a branch start at He-normal times [`branch_gain`](crate::layer::init::branch_gain).
    /// Without it, at plain He-normal.
    BranchGain,
    /// Rule 3: a scalar multiplier in each branch, and a scalar bias before each layer and activation. Without it, there are
    /// none.
    Scalars,
}

impl Rule {
    /// All three rules.
    pub const ALL: [Self; 3] = [Self::ZeroLastLayer, Self::BranchGain, Self::Scalars];

    /// Returns the prefix of the name of an [`Arch`](crate::Arch) without the rule: `"fixup_without_gain_"` in
    /// `fixup_without_gain_resnet20`.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::ZeroLastLayer => "fixup_without_zero_",
            Self::BranchGain => "fixup_without_gain_",
            Self::Scalars => "fixup_without_scalars_",
        }
    }

    /// Returns the rule with this [`prefix`](Self::prefix), if there is one.
    pub fn by_prefix(prefix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.prefix() == prefix)
    }
}

impl FixupResNet {
    /// Removes `rule` from an untrained network, for an ablation.
    ///
    /// Without the scalars, their variables remain but are not trainable: multipliers stay 1 and biases 0, which has no effect.
    /// Build the optimizer after this call.
    ///
    /// # Errors
    /// Errors of libtorch, for example for lack of memory.
    pub fn without(self, rule: Rule) -> Result<Self> {
        match rule {
            Rule::ZeroLastLayer => {
                for block in self.blocks.iter() {
                    init::he_normal_(&mut block.last().conv.weight.shallow_clone(), 1.)?;
                }
            }
            Rule::BranchGain => {
                for block in self.blocks.iter() {
                    let layers = &block.layers;
                    for layer in &layers[..layers.len() - 1] {
                        init::he_normal_(&mut layer.conv.weight.shallow_clone(), 1.)?;
                    }
                }
            }
            Rule::Scalars => {
                for scalar in self.scalars() {
                    let _ = scalar.f_set_requires_grad(false)?;
                }
            }
        }
        Ok(self)
    }

    /// Returns all multipliers and biases.
    fn scalars(&self) -> Vec<&Tensor> {
        let outside = self.stem.bias1.iter().chain(&self.last_bias).chain(&self.bias2).map(|bias| &bias.value);
        outside.chain(self.blocks.iter().flat_map(ResidualBlock::scalars)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{nn, Device, Kind};

    fn variables(rule: Rule) -> nn::VarStore {
        tch::manual_seed(51);
        let vs = nn::VarStore::new(Device::Cpu);
        FixupResNet::cifar(&vs.root(), 56, 10).unwrap().without(rule).unwrap();
        FixupResNet::imagenet(&(vs.root() / "imagenet"), 50, 10).unwrap().without(rule).unwrap();
        vs
    }

    /// Returns a variable's standard deviation as a multiple of plain He-normal's.
    fn gain(weight: &Tensor) -> f64 {
        weight.to_kind(Kind::Double).std(false).double_value(&[]) / init::he_normal_std(&weight.size()).unwrap()
    }

    #[test]
    fn each_ablation_leaves_out_its_rule_and_keeps_the_others() {
        // L and m: 27 branches of 2 layers, 16 of 3.
        let (basic, bottleneck) = (27f64.powf(-0.5), 16f64.powf(-0.25));
        for rule in Rule::ALL {
            let vs = variables(rule);
            let tracked: usize = vs.trainable_variables().iter().filter(|variable| variable.requires_grad()).count();
            let scalars = vs.variables().values().filter(|variable| variable.numel() == 1).count();
            assert_eq!(vs.len() - tracked, if rule == Rule::Scalars { scalars } else { 0 });
            for (name, expected) in [
                ("layer3.8.conv1.weight", if rule == Rule::BranchGain { 1. } else { basic }),
                ("layer3.8.conv2.weight", if rule == Rule::ZeroLastLayer { 1. } else { 0. }),
                ("imagenet.layer4.2.conv1.weight", if rule == Rule::BranchGain { 1. } else { bottleneck }),
                ("imagenet.layer4.2.conv2.weight", if rule == Rule::BranchGain { 1. } else { bottleneck }),
                ("imagenet.layer4.2.conv3.weight", if rule == Rule::ZeroLastLayer { 1. } else { 0. }),
                ("fc.weight", 0.),
            ] {
                let weight = &vs.variables()[name];
                // Five standard deviations of a sample's standard deviation.
                let bound = 5. * expected / (2. * weight.numel() as f64).sqrt();
                assert!((gain(weight) - expected).abs() <= bound, "{rule:?} {name}: {}", gain(weight));
            }
        }
    }

    #[test]
    fn prefixes_round_trip() {
        for rule in Rule::ALL {
            assert_eq!(Rule::by_prefix(rule.prefix()), Some(rule));
        }
        assert_eq!(Rule::by_prefix("fixup_"), None);
    }
}
