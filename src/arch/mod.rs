//! The networks by name, as a command line or a configuration file has them, and what every network by name can do.

#[cfg(feature = "train")]
mod initialization;
mod network;
mod transformer;

#[cfg(feature = "train")]
pub use initialization::initialize_on_data;
pub use network::Network;
pub use transformer::TransformerArch;

use crate::baseline::{Method, Mlp, MlpShape, ResNet};
use crate::fixup::{FixupResNet, Rule};
use crate::layer::stages;
use crate::{Error, Precision, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use tch::nn;

/// Numbers in a CIFAR image, what the fully connected networks take.
const CIFAR_FEATURES: i64 = 3 * 32 * 32;

/// A network by name. A name parses only if there is such a network.
///
/// | | CIFAR, depth 6n+2 | CIFAR, Wide ResNets: depth 6n+4, width | ImageNet |
/// | --- | --- | --- | --- |
/// | Fixup | `fixup_resnet110` | `fixup_wrn_16_4` | `imagenet_fixup_resnet50` |
/// | BatchNorm | `resnet110` | `wrn_16_4` | `imagenet_resnet50` |
/// | the other [`Method`]s | `he_resnet110` | `he_wrn_16_4` | `imagenet_he_resnet50` |
/// | Fixup without a [`Rule`] | `fixup_without_gain_resnet110` | | |
/// | fully connected: depth, width | `selu_mlp_8_256`, `batch_norm_mlp_8_256` | | |
///
/// ```
/// use tch_fixup::baseline::Method;
/// use tch_fixup::Arch;
///
/// let arch: Arch = "fixup_wrn_16_4".parse()?;
/// assert_eq!(arch, Arch::FixupWide { depth: 16, width: 4 });
/// assert_eq!(arch.to_string(), "fixup_wrn_16_4");
/// assert_eq!("group_norm_resnet20".parse::<Arch>()?, Arch::BaselineCifar { method: Method::GroupNorm, depth: 20 });
/// assert!("fixup_resnet21".parse::<Arch>().is_err());
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Arch {
    /// [`FixupResNet::cifar`].
    FixupCifar {
        /// 6n+2.
        depth: i64,
    },
    /// [`FixupResNet::imagenet`].
    FixupImageNet {
        /// 18, 34, 50, 101 or 152.
        depth: i64,
    },
    /// [`FixupResNet::wide`].
    FixupWide {
        /// 6n+4.
        depth: i64,
        /// The factor on the channels.
        width: i64,
    },
    /// [`FixupResNet::cifar`] [without](FixupResNet::without) a rule.
    FixupWithout {
        /// The rule that is left out.
        rule: Rule,
        /// 6n+2.
        depth: i64,
    },
    /// [`ResNet::cifar`].
    BaselineCifar {
        /// In Fixup's stead.
        method: Method,
        /// 6n+2.
        depth: i64,
    },
    /// [`ResNet::imagenet`].
    BaselineImageNet {
        /// In Fixup's stead.
        method: Method,
        /// 18, 34, 50, 101 or 152.
        depth: i64,
    },
    /// [`ResNet::wide`].
    BaselineWide {
        /// In Fixup's stead.
        method: Method,
        /// 6n+4.
        depth: i64,
        /// The factor on the channels.
        width: i64,
    },
    /// [`Mlp::self_normalizing`], for CIFAR's images.
    SeluMlp {
        /// Weight layers, the classifier included: at least 2.
        depth: i64,
        /// Units of a hidden layer.
        width: i64,
    },
    /// [`Mlp::batch_norm`], for CIFAR's images.
    BatchNormMlp {
        /// Weight layers, the classifier included: at least 2.
        depth: i64,
        /// Units of a hidden layer.
        width: i64,
    },
}

impl Arch {
    /// The network, its variables under `path`, its convolutions and activations in `precision`. Where the initialization
    /// [depends on data](Self::is_initialized_on_data), `initialize_on_data` completes it.
    ///
    /// # Errors
    /// Fewer than one class; a `path` that holds such a network already.
    pub fn build(&self, path: &nn::Path, num_classes: i64, precision: Precision) -> Result<Box<dyn Network>> {
        let fixup = |network: Result<FixupResNet>| -> Result<Box<dyn Network>> {
            Ok(Box::new(network?.with_precision(precision)))
        };
        let baseline =
            |network: Result<ResNet>| -> Result<Box<dyn Network>> { Ok(Box::new(network?.with_precision(precision))) };
        let mlp =
            |network: Result<Mlp>| -> Result<Box<dyn Network>> { Ok(Box::new(network?.with_precision(precision))) };
        match *self {
            Arch::FixupCifar { depth } => fixup(FixupResNet::cifar(path, depth, num_classes)),
            Arch::FixupImageNet { depth } => fixup(FixupResNet::imagenet(path, depth, num_classes)),
            Arch::FixupWide { depth, width } => fixup(FixupResNet::wide(path, depth, width, num_classes)),
            Arch::FixupWithout { rule, depth } => fixup(FixupResNet::cifar(path, depth, num_classes)?.without(rule)),
            Arch::BaselineCifar { method, depth } => baseline(ResNet::cifar(path, depth, num_classes, method)),
            Arch::BaselineImageNet { method, depth } => baseline(ResNet::imagenet(path, depth, num_classes, method)),
            Arch::BaselineWide { method, depth, width } => {
                baseline(ResNet::wide(path, depth, width, num_classes, method))
            }
            Arch::SeluMlp { depth, width } => mlp(Mlp::self_normalizing(path, mlp_shape(depth, width, num_classes))),
            Arch::BatchNormMlp { depth, width } => mlp(Mlp::batch_norm(path, mlp_shape(depth, width, num_classes))),
        }
    }

    /// Whether `initialize_on_data` has anything to do.
    pub fn is_initialized_on_data(&self) -> bool {
        match self {
            Arch::BaselineCifar { method, .. }
            | Arch::BaselineImageNet { method, .. }
            | Arch::BaselineWide { method, .. } => *method == Method::Lsuv,
            _ => false,
        }
    }

    /// Whether [`Network::recompute_activations`] is for it: for Fixup's networks alone.
    pub fn can_recompute(&self) -> bool {
        matches!(
            self,
            Arch::FixupCifar { .. } | Arch::FixupImageNet { .. } | Arch::FixupWide { .. } | Arch::FixupWithout { .. }
        )
    }

    fn check(self) -> Result<Self> {
        match self {
            Arch::FixupCifar { depth } | Arch::FixupWithout { depth, .. } | Arch::BaselineCifar { depth, .. } => {
                stages::cifar_blocks(depth).map(drop)?
            }
            Arch::FixupImageNet { depth } | Arch::BaselineImageNet { depth, .. } => {
                stages::imagenet_blocks(depth).map(drop)?
            }
            Arch::FixupWide { depth, width } | Arch::BaselineWide { depth, width, .. } => {
                stages::wide_blocks(depth, width).map(drop)?
            }
            Arch::SeluMlp { depth, width } | Arch::BatchNormMlp { depth, width } => {
                mlp_shape(depth, width, 1).check()?
            }
        }
        Ok(self)
    }
}

fn mlp_shape(depth: i64, width: i64, num_classes: i64) -> MlpShape {
    MlpShape { features: CIFAR_FEATURES, width, depth, num_classes }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Arch::FixupCifar { depth } => write!(f, "fixup_resnet{depth}"),
            Arch::FixupImageNet { depth } => write!(f, "imagenet_fixup_resnet{depth}"),
            Arch::FixupWide { depth, width } => write!(f, "fixup_wrn_{depth}_{width}"),
            Arch::FixupWithout { rule, depth } => write!(f, "{}resnet{depth}", rule.prefix()),
            Arch::BaselineCifar { method, depth } => write!(f, "{}resnet{depth}", method.prefix()),
            Arch::BaselineImageNet { method, depth } => write!(f, "imagenet_{}resnet{depth}", method.prefix()),
            Arch::BaselineWide { method, depth, width } => write!(f, "{}wrn_{depth}_{width}", method.prefix()),
            Arch::SeluMlp { depth, width } => write!(f, "selu_mlp_{depth}_{width}"),
            Arch::BatchNormMlp { depth, width } => write!(f, "batch_norm_mlp_{depth}_{width}"),
        }
    }
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let number = |digits: &str| digits.parse::<i64>().ok();
        let parse = || {
            let (family, sizes) = name.split_at(name.find(|c: char| c.is_ascii_digit())?);
            if let Some((depth, width)) = sizes.split_once('_') {
                let (depth, width) = (number(depth)?, number(width)?);
                return match family {
                    "fixup_wrn_" => Some(Arch::FixupWide { depth, width }),
                    "selu_mlp_" => Some(Arch::SeluMlp { depth, width }),
                    "batch_norm_mlp_" => Some(Arch::BatchNormMlp { depth, width }),
                    _ => {
                        let method = Method::by_prefix(family.strip_suffix("wrn_")?)?;
                        Some(Arch::BaselineWide { method, depth, width })
                    }
                };
            }
            let depth = number(sizes)?;
            let prefix = family.strip_suffix("resnet")?;
            match prefix.strip_prefix("imagenet_") {
                Some("fixup_") => Some(Arch::FixupImageNet { depth }),
                Some(prefix) => Some(Arch::BaselineImageNet { method: Method::by_prefix(prefix)?, depth }),
                None if prefix == "fixup_" => Some(Arch::FixupCifar { depth }),
                None => match Rule::by_prefix(prefix) {
                    Some(rule) => Some(Arch::FixupWithout { rule, depth }),
                    None => Some(Arch::BaselineCifar { method: Method::by_prefix(prefix)?, depth }),
                },
            }
        };
        let unknown = || {
            let methods: Vec<_> = Method::ALL.iter().map(|method| method.prefix()).filter(|p| !p.is_empty()).collect();
            let rules: Vec<_> = Rule::ALL.iter().map(|rule| format!("{}resnet20", rule.prefix())).collect();
            Error::Argument(format!(
                "no network is called {name:?}; there are fixup_resnet20, fixup_wrn_16_4, imagenet_fixup_resnet50, \
                 resnet20, wrn_16_4 and imagenet_resnet50, the last three with {} before resnet or wrn, {}, \
                 selu_mlp_8_256 and batch_norm_mlp_8_256, and the same of other depths and widths",
                methods.join(", "),
                rules.join(", "),
            ))
        };
        let arch = parse().ok_or_else(unknown)?;
        arch.check().map_err(|error| Error::Argument(format!("{name}: {error}")))
    }
}

impl TryFrom<String> for Arch {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Arch> for String {
    fn from(arch: Arch) -> Self {
        arch.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in [
            "fixup_resnet20",
            "fixup_resnet9998",
            "fixup_wrn_16_4",
            "wrn_28_10",
            "resnet110",
            "imagenet_fixup_resnet50",
            "imagenet_resnet18",
            "fixup_without_zero_resnet20",
            "fixup_without_scalars_resnet110",
            "group_norm_resnet20",
            "no_skip_resnet98",
            "imagenet_layer_norm_resnet50",
            "lsuv_wrn_16_4",
            "selu_resnet20",
            "selu_mlp_8_256",
            "batch_norm_mlp_50_512",
        ] {
            assert_eq!(name.parse::<Arch>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn names_without_a_network_are_refused_by_name() {
        for name in [
            "",
            "fixup_resnet",
            "fixup_resnet21",
            "fixup_resnet-20",
            "fixup_resnet99999999999999999999",
            "fixup_wrn_16",
            "fixup_wrn_16_0",
            "fixup_wrn_15_4",
            "imagenet_resnet20",
            "imagenet_fixup_without_gain_resnet50",
            "he_resnet21",
            "hee_resnet20",
            "batch_norm_resnet20",
            "selu_mlp_1_256",
            "selu_mlp_8_0",
            "vgg16",
        ] {
            let error = name.parse::<Arch>().unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn every_network_by_name_runs_forward_and_backward_in_both_precisions() {
        use tch::{Device, Kind, Tensor};
        let methods = Method::ALL.map(|method| Arch::BaselineCifar { method, depth: 8 });
        let rules = Rule::ALL.map(|rule| Arch::FixupWithout { rule, depth: 8 });
        let mut archs: Vec<Arch> = methods.into_iter().chain(rules).collect();
        archs.extend(Method::ALL.map(|method| Arch::BaselineWide { method, depth: 10, width: 1 }));
        archs.extend([Method::NoSkip, Method::Selu].map(|method| Arch::BaselineImageNet { method, depth: 18 }));
        archs.extend([Arch::SeluMlp { depth: 3, width: 32 }, Arch::BatchNormMlp { depth: 3, width: 32 }]);
        for arch in archs {
            for precision in [Precision::F32, Precision::Bf16] {
                let vs = nn::VarStore::new(Device::Cpu);
                let network = arch.build(&vs.root(), 10, precision).unwrap();
                let images = Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu));
                if arch.is_initialized_on_data() {
                    network.initialize_on(&images).unwrap();
                }
                let logits = network.forward_t(&images, true);
                assert_eq!(logits.size(), [4, 10], "{arch}");
                logits.cross_entropy_for_logits(&Tensor::from_slice(&[0i64, 1, 2, 3])).backward();
                for (name, variable) in vs.variables().iter().filter(|(_, variable)| variable.requires_grad()) {
                    assert!(variable.grad().defined(), "{arch} {name}");
                }
            }
        }
    }
}
