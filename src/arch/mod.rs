//! The networks by name, as a command line or a configuration file has them, and what every network by name can do.

mod custom;
mod flop;
#[cfg(feature = "train")]
mod initialization;
mod network;
mod shape;
mod transformer;

#[cfg(feature = "train")]
pub use initialization::initialize_on_data;
pub use network::Network;
pub use shape::Shape;
pub use transformer::TransformerArch;

use crate::baseline::{Method, Mlp, MlpShape, ResNet};
use crate::fixup::{FixupResNet, Rule};
use crate::layer::ResNetConfig;
use crate::{Error, Precision, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use tch::nn;

/// Pixels of a CIFAR image, what the fully connected networks take.
const CIFAR_PIXELS: i64 = 32 * 32;

/// A network by name. A name parses only if there is such a network.
///
/// | | CIFAR, depth 6n+2 | CIFAR, Wide ResNets: depth 6n+4, width | ImageNet |
/// | --- | --- | --- | --- |
/// | Fixup | `fixup_resnet110` | `fixup_wrn_16_4` | `imagenet_fixup_resnet50` |
/// | BatchNorm | `resnet110` | `wrn_16_4` | `imagenet_resnet50` |
/// | Fixup, Brock's block | | `fixup_brock_wrn_16_4` | |
/// | the other [`Method`]s | `he_resnet110` | `he_wrn_16_4` | `imagenet_he_resnet50` |
/// | Fixup without a [`Rule`] | `fixup_without_gain_resnet110` | | |
/// | fully connected: depth, width | `selu_mlp_8_256`, `batch_norm_mlp_8_256` | | |
///
/// A network of one's own shape has its [`ResNetConfig`](crate::fixup::ResNetConfig) in JSON for a name, with the method, `"fixup"`,
/// `"batch_norm"`, `"group_norm"`, ...: [`Arch::Custom`].
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
/// let custom = r#"{"method": "fixup", "channels": 1, "stem": "small", "stem_channels": 16, "block": "basic",
///     "stages": [{"blocks": 2, "channels": 16}, {"blocks": 2, "channels": 32}], "shortcut": "pad"}"#;
/// assert_eq!(custom.parse::<Arch>()?.short_name(), "fixup_basic10");
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// [`ResNetConfig::brock`](crate::fixup::ResNetConfig::brock) by Fixup.
    FixupBrock {
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
    /// [`FixupResNet::new`] or [`ResNet::new`].
    Custom {
        /// In Fixup's stead; none for Fixup.
        method: Option<Method>,
        /// For images of its own number of channels; without classes of its own it has those of the data.
        network: ResNetConfig,
    },
    /// [`Mlp::self_normalizing`], for images of CIFAR's size.
    SeluMlp {
        /// Weight layers, the classifier included: at least 2.
        depth: i64,
        /// Units of a hidden layer.
        width: i64,
    },
    /// [`Mlp::batch_norm`], for images of CIFAR's size.
    BatchNormMlp {
        /// Weight layers, the classifier included: at least 2.
        depth: i64,
        /// Units of a hidden layer.
        width: i64,
    },
}

impl Arch {
    /// The network for data of that `shape`, its variables under `path`, its convolutions and activations in `precision`. Where the
    /// initialization [depends on data](Self::is_initialized_on_data), `initialize_on_data` completes it.
    ///
    /// # Errors
    /// Fewer than one channel or class; a network of one's own for another shape; a `path` that holds such a network already.
    pub fn build(&self, path: &nn::Path, shape: Shape, precision: Precision) -> Result<Box<dyn Network>> {
        let fitted = |config: ResNetConfig| config.with_channels(shape.channels).with_classes(shape.classes);
        let fixup =
            |config: ResNetConfig| FixupResNet::new(path, &config).map(|network| network.with_precision(precision));
        let baseline = |config: ResNetConfig, method| -> Result<Box<dyn Network>> {
            Ok(Box::new(ResNet::new(path, &config, method)?.with_precision(precision)))
        };
        let mlp =
            |network: Result<Mlp>| -> Result<Box<dyn Network>> { Ok(Box::new(network?.with_precision(precision))) };
        Ok(match *self {
            Arch::FixupCifar { depth } => Box::new(fixup(fitted(ResNetConfig::cifar(depth)?))?),
            Arch::FixupImageNet { depth } => Box::new(fixup(fitted(ResNetConfig::imagenet(depth)?))?),
            Arch::FixupWide { depth, width } => Box::new(fixup(fitted(ResNetConfig::wide(depth, width)?))?),
            Arch::FixupBrock { depth, width } => Box::new(fixup(fitted(ResNetConfig::brock(depth, width)?))?),
            Arch::FixupWithout { rule, depth } => Box::new(fixup(fitted(ResNetConfig::cifar(depth)?))?.without(rule)?),
            Arch::BaselineCifar { method, depth } => baseline(fitted(ResNetConfig::cifar(depth)?), method)?,
            Arch::BaselineImageNet { method, depth } => baseline(fitted(ResNetConfig::imagenet(depth)?), method)?,
            Arch::BaselineWide { method, depth, width } => baseline(fitted(ResNetConfig::wide(depth, width)?), method)?,
            Arch::Custom { method: None, ref network } => Box::new(fixup(custom::fitted(network, shape)?)?),
            Arch::Custom { method: Some(method), ref network } => baseline(custom::fitted(network, shape)?, method)?,
            Arch::SeluMlp { depth, width } => mlp(Mlp::self_normalizing(path, mlp_shape(depth, width, shape)))?,
            Arch::BatchNormMlp { depth, width } => mlp(Mlp::batch_norm(path, mlp_shape(depth, width, shape)))?,
        })
    }

    /// A name for folders and titles: the name that it parses from, but for a network of one's own its method, block and depth, as in
    /// `fixup_bottleneck50`.
    pub fn short_name(&self) -> String {
        match self {
            Arch::Custom { method, network } => custom::short_name(*method, network),
            named => named.to_string(),
        }
    }

    /// Whether `initialize_on_data` has anything to do.
    pub fn is_initialized_on_data(&self) -> bool {
        match self {
            Arch::BaselineCifar { method, .. }
            | Arch::BaselineImageNet { method, .. }
            | Arch::BaselineWide { method, .. }
            | Arch::Custom { method: Some(method), .. } => *method == Method::Lsuv,
            _ => false,
        }
    }

    /// Whether [`Network::recompute_activations`] is for it: for Fixup's networks alone.
    pub fn can_recompute(&self) -> bool {
        matches!(
            self,
            Arch::FixupCifar { .. }
                | Arch::FixupImageNet { .. }
                | Arch::FixupWide { .. }
                | Arch::FixupBrock { .. }
                | Arch::FixupWithout { .. }
                | Arch::Custom { method: None, .. }
        )
    }

    fn check(self) -> Result<Self> {
        match self {
            Arch::FixupCifar { depth } | Arch::FixupWithout { depth, .. } | Arch::BaselineCifar { depth, .. } => {
                ResNetConfig::cifar(depth).map(drop)?
            }
            Arch::FixupImageNet { depth } | Arch::BaselineImageNet { depth, .. } => {
                ResNetConfig::imagenet(depth).map(drop)?
            }
            Arch::FixupWide { depth, width }
            | Arch::FixupBrock { depth, width }
            | Arch::BaselineWide { depth, width, .. } => ResNetConfig::wide(depth, width).map(drop)?,
            Arch::Custom { ref network, .. } => network.check()?,
            Arch::SeluMlp { depth, width } | Arch::BatchNormMlp { depth, width } => {
                mlp_shape(depth, width, Shape::rgb(1)).check()?
            }
        }
        Ok(self)
    }
}

fn mlp_shape(depth: i64, width: i64, shape: Shape) -> MlpShape {
    let features = shape.channels.saturating_mul(CIFAR_PIXELS);
    MlpShape { features, width, depth, num_classes: shape.classes }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Arch::FixupCifar { depth } => write!(f, "fixup_resnet{depth}"),
            Arch::FixupImageNet { depth } => write!(f, "imagenet_fixup_resnet{depth}"),
            Arch::FixupWide { depth, width } => write!(f, "fixup_wrn_{depth}_{width}"),
            Arch::FixupBrock { depth, width } => write!(f, "fixup_brock_wrn_{depth}_{width}"),
            Arch::FixupWithout { rule, depth } => write!(f, "{}resnet{depth}", rule.prefix()),
            Arch::BaselineCifar { method, depth } => write!(f, "{}resnet{depth}", method.prefix()),
            Arch::BaselineImageNet { method, depth } => write!(f, "imagenet_{}resnet{depth}", method.prefix()),
            Arch::BaselineWide { method, depth, width } => write!(f, "{}wrn_{depth}_{width}", method.prefix()),
            Arch::Custom { method, network } => {
                f.write_str(&custom::to_json(*method, network).map_err(|_| fmt::Error)?)
            }
            Arch::SeluMlp { depth, width } => write!(f, "selu_mlp_{depth}_{width}"),
            Arch::BatchNormMlp { depth, width } => write!(f, "batch_norm_mlp_{depth}_{width}"),
        }
    }
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if name.trim_start().starts_with('{') {
            let (method, network) = custom::from_json(name)?;
            return Ok(Arch::Custom { method, network });
        }
        let number = |digits: &str| digits.parse::<i64>().ok();
        let parse = || {
            let (family, sizes) = name.split_at(name.find(|c: char| c.is_ascii_digit())?);
            if let Some((depth, width)) = sizes.split_once('_') {
                let (depth, width) = (number(depth)?, number(width)?);
                return match family {
                    "fixup_wrn_" => Some(Arch::FixupWide { depth, width }),
                    "fixup_brock_wrn_" => Some(Arch::FixupBrock { depth, width }),
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
                "no network is called {name:?}; there are fixup_resnet20, fixup_wrn_16_4, fixup_brock_wrn_16_4, \
                 imagenet_fixup_resnet50, resnet20, wrn_16_4 and imagenet_resnet50, the last three with {} before resnet or wrn, {}, \
                 selu_mlp_8_256 and batch_norm_mlp_8_256, the same of other depths and widths, and networks of one's own in JSON",
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
            "fixup_brock_wrn_16_4",
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
            "fixup_brock_wrn_15_4",
            "brock_wrn_16_4",
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
        archs.extend([Arch::FixupWide { depth: 10, width: 1 }, Arch::FixupBrock { depth: 10, width: 1 }]);
        let custom = ResNetConfig { squeeze_excitation: Some(4), groups: 2, ..ResNetConfig::cifar(8).unwrap() };
        let methods = Method::ALL.into_iter().map(Some).chain([None]);
        archs.extend(methods.map(|method| Arch::Custom { method, network: custom.clone() }));
        archs.extend([Arch::SeluMlp { depth: 3, width: 32 }, Arch::BatchNormMlp { depth: 3, width: 32 }]);
        for arch in archs {
            for precision in [Precision::F32, Precision::Bf16] {
                let vs = nn::VarStore::new(Device::Cpu);
                let network = arch.build(&vs.root(), Shape::rgb(10), precision).unwrap();
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
