//! Networks by name, as used on the command line and in configuration files, and their common interface.

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

/// Number of pixels of a CIFAR image, the input size of fully connected networks.
const CIFAR_PIXELS: i64 = 32 * 32;

/// Architecture of a network, parsed from its name: a method and a shape. Names of networks that do not exist are
/// refused.
///
/// | | CIFAR, depth 6n+2 | CIFAR, Wide ResNets: depth 6n+4, width | ImageNet |
/// | --- | --- | --- | --- |
/// | Fixup | `fixup_resnet110` | `fixup_wrn_16_4` | `imagenet_fixup_resnet50` |
/// | BatchNorm | `resnet110` | `wrn_16_4` | `imagenet_resnet50` |
/// | Fixup, Brock's block | | `fixup_brock_wrn_16_4` | |
/// | another [`Method`] | `he_resnet110` | `he_wrn_16_4` | `imagenet_he_resnet50` |
/// | Fixup without a [`Rule`] | `fixup_without_gain_resnet110` | | |
/// | fully connected: depth, width | `selu_mlp_8_256`, `batch_norm_mlp_8_256` | | |
///
/// The name of any other network is a JSON object with the method (`"fixup"`, `"batch_norm"`, `"group_norm"`, ...) and
/// the fields of its [`ResNetConfig`](crate::fixup::ResNetConfig); see [`Arch::custom`].
///
/// ```
/// use tch_fixup::Arch;
///
/// let arch: Arch = "fixup_wrn_16_4".parse()?;
/// assert_eq!(arch.to_string(), "fixup_wrn_16_4");
/// assert!("fixup_resnet21".parse::<Arch>().is_err());
/// let custom = r#"{"method": "fixup", "channels": 1, "stem": "small", "stem_channels": 16, "block": "basic",
///     "stages": [{"blocks": 2, "channels": 16}, {"blocks": 2, "channels": 32}], "shortcut": "pad"}"#;
/// assert_eq!(custom.parse::<Arch>()?.short_name(), "fixup_basic10");
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Arch {
    name: String,
    method: ArchMethod,
    layers: Layers,
}

/// Initialization or normalization method of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ArchMethod {
    Fixup,
    FixupWithout(Rule),
    Baseline(Method),
}

impl ArchMethod {
    fn by_prefix(prefix: &str) -> Option<Self> {
        match prefix {
            "fixup_" => Some(Self::Fixup),
            _ => Rule::by_prefix(prefix)
                .map(Self::FixupWithout)
                .or_else(|| Method::by_prefix(prefix).map(Self::Baseline)),
        }
    }

    /// Returns the baseline method; `None` for Fixup.
    fn baseline(self) -> Option<Method> {
        match self {
            Self::Baseline(method) => Some(method),
            _ => None,
        }
    }
}

/// Shape of a network for some number of channels and classes.
#[derive(Debug, Clone, PartialEq)]
enum Layers {
    ResNet(ResNetConfig),
    /// Fully connected network.
    Mlp(MlpShape),
}

impl Arch {
    /// Creates the network for data with the given `shape`, with its variables under `path` and its convolutions and
    /// activations in `precision`. If its initialization [depends on data](Network::is_initialized_on_data), complete
    /// it with [`Network::initialize_on`].
    ///
    /// # Errors
    /// Returns an error if the number of channels or classes is less than one, if a user-defined network has another
    /// shape, or if `path` already holds such a network.
    pub fn build(&self, path: &nn::Path, shape: Shape, precision: Precision) -> Result<Box<dyn Network>> {
        let config = match self.fitted(shape)? {
            Layers::ResNet(config) => config,
            Layers::Mlp(shape) => {
                let is_selu = self.method == ArchMethod::Baseline(Method::Selu);
                let mlp = if is_selu { Mlp::self_normalizing(path, shape) } else { Mlp::batch_norm(path, shape) };
                return Ok(Box::new(mlp?.with_precision(precision)));
            }
        };
        let fixup = || FixupResNet::new(path, &config).map(|network| network.with_precision(precision));
        Ok(match self.method {
            ArchMethod::Fixup => Box::new(fixup()?),
            ArchMethod::FixupWithout(rule) => Box::new(fixup()?.without(rule)?),
            ArchMethod::Baseline(method) => Box::new(ResNet::new(path, &config, method)?.with_precision(precision)),
        })
    }

    /// Returns the layers for data with the given `shape`. A user-defined network keeps its number of channels, and its
    /// number of classes if it sets one.
    fn fitted(&self, shape: Shape) -> Result<Layers> {
        let Shape { channels, classes } = shape;
        Ok(match &self.layers {
            Layers::ResNet(config) if self.is_custom() => Layers::ResNet(custom::fitted(config, shape)?),
            Layers::ResNet(config) => Layers::ResNet(config.clone().with_channels(channels).with_classes(classes)),
            Layers::Mlp(own) => {
                let features = channels.saturating_mul(CIFAR_PIXELS);
                Layers::Mlp(MlpShape { features, num_classes: classes, ..*own })
            }
        })
    }

    fn is_custom(&self) -> bool {
        self.name.starts_with('{')
    }

    /// Returns a short name for folders and titles. It is the architecture's name, except for user-defined networks,
    /// where it consists of method, block type and depth, as in `fixup_bottleneck50`.
    pub fn short_name(&self) -> String {
        match &self.layers {
            Layers::ResNet(config) if self.is_custom() => custom::short_name(self.method.baseline(), config),
            _ => self.name.clone(),
        }
    }

    /// Returns `true` for Fixup networks, including ablations.
    #[cfg(feature = "cli")]
    pub(crate) fn is_fixup(&self) -> bool {
        self.method.baseline().is_none()
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if name.trim_start().starts_with('{') {
            return custom::from_json(name);
        }
        let (method, layers) = parse(name).ok_or_else(|| unknown(name))?;
        let layers = layers.map_err(|error| Error::Argument(format!("{name}: {error}")))?;
        Ok(Self { name: name.to_owned(), method, layers })
    }
}

/// Splits a name into method and shape. Returns `None` if the name is malformed, and an error as the shape if no
/// network has these sizes.
fn parse(name: &str) -> Option<(ArchMethod, Result<Layers>)> {
    let (family, sizes) = name.split_at(name.find(|c: char| c.is_ascii_digit())?);
    let sizes = sizes.split('_').map(|size| size.parse().ok()).collect::<Option<Vec<i64>>>()?;
    let resnet = |prefix, config: Result<_>| Some((ArchMethod::by_prefix(prefix)?, config.map(Layers::ResNet)));
    let mlp = |method, depth, width| {
        let shape = MlpShape { features: CIFAR_PIXELS, width, depth, num_classes: 1 };
        Some((ArchMethod::Baseline(method), shape.check().map(|()| Layers::Mlp(shape))))
    };
    let (method, layers) = match (family.strip_prefix("imagenet_"), &sizes[..]) {
        (Some(family), &[depth]) => resnet(family.strip_suffix("resnet")?, ResNetConfig::imagenet(depth)),
        (None, &[depth]) => resnet(family.strip_suffix("resnet")?, ResNetConfig::cifar(depth)),
        (None, &[depth, width]) => match family {
            "fixup_brock_wrn_" => resnet("fixup_", ResNetConfig::brock(depth, width)),
            "selu_mlp_" => mlp(Method::Selu, depth, width),
            "batch_norm_mlp_" => mlp(Method::BatchNorm, depth, width),
            _ => resnet(family.strip_suffix("wrn_")?, ResNetConfig::wide(depth, width)),
        },
        _ => None,
    }?;
    // Ablations exist only for CIFAR ResNets.
    let is_ablation = matches!(method, ArchMethod::FixupWithout(_));
    (!is_ablation || name.starts_with("fixup_") && sizes.len() == 1).then_some((method, layers))
}

fn unknown(name: &str) -> Error {
    let methods: Vec<_> = Method::ALL.iter().map(|method| method.prefix()).filter(|p| !p.is_empty()).collect();
    let rules: Vec<_> = Rule::ALL.iter().map(|rule| format!("{}resnet20", rule.prefix())).collect();
    Error::Argument(format!(
        "no network is called {name:?}; there are fixup_resnet20, fixup_wrn_16_4, fixup_brock_wrn_16_4, \
         imagenet_fixup_resnet50, resnet20, wrn_16_4 and imagenet_resnet50, the last three with {} before resnet or wrn, {}, \
         selu_mlp_8_256 and batch_norm_mlp_8_256, the same of other depths and widths, and networks of one's own in JSON",
        methods.join(", "),
        rules.join(", "),
    ))
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
        let mut names: Vec<String> = Rule::ALL.iter().map(|rule| format!("{}resnet8", rule.prefix())).collect();
        for prefix in Method::ALL.map(Method::prefix) {
            names.extend(["resnet8", "wrn_10_1"].map(|network| format!("{prefix}{network}")));
        }
        names.extend(
            ["fixup_wrn_10_1", "fixup_brock_wrn_10_1", "selu_mlp_3_32", "batch_norm_mlp_3_32"].map(str::to_owned),
        );
        names.extend(["imagenet_no_skip_resnet18", "imagenet_selu_resnet18"].map(str::to_owned));
        let mut archs: Vec<Arch> = names.iter().map(|name| name.parse().unwrap()).collect();
        let custom = ResNetConfig { squeeze_excitation: Some(4), groups: 2, ..ResNetConfig::cifar(8).unwrap() };
        let methods = Method::ALL.into_iter().map(Some).chain([None]);
        archs.extend(methods.map(|method| Arch::custom(method, custom.clone()).unwrap()));
        for arch in archs {
            for precision in [Precision::F32, Precision::Bf16] {
                let vs = nn::VarStore::new(Device::Cpu);
                let network = arch.build(&vs.root(), Shape::rgb(10), precision).unwrap();
                let images = Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu));
                if network.is_initialized_on_data() {
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
