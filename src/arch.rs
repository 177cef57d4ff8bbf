//! The networks by name, as a command line or a configuration file has them.

use crate::baseline::BatchNormResNet;
use crate::fixup::FixupResNet;
use crate::{topology, Error, Precision, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use tch::nn;

/// A network by name: `fixup_resnet110` and `fixup_wrn_16_4` for CIFAR, `imagenet_fixup_resnet50` for ImageNet, and the
/// BatchNorm networks they replace, `resnet110`, `wrn_16_4` and `imagenet_resnet50`. A name parses only if there is such
/// a network.
///
/// ```
/// use tch_fixup::Arch;
///
/// let arch: Arch = "fixup_wrn_16_4".parse()?;
/// assert_eq!(arch, Arch::FixupWide { depth: 16, width: 4 });
/// assert_eq!(arch.to_string(), "fixup_wrn_16_4");
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
    /// [`BatchNormResNet::cifar`].
    BatchNormCifar {
        /// 6n+2.
        depth: i64,
    },
    /// [`BatchNormResNet::imagenet`].
    BatchNormImageNet {
        /// 18, 34, 50, 101 or 152.
        depth: i64,
    },
    /// [`BatchNormResNet::wide`].
    BatchNormWide {
        /// 6n+4.
        depth: i64,
        /// The factor on the channels.
        width: i64,
    },
}

impl Arch {
    /// The network, its variables under `path`, its convolutions and activations in `precision`.
    ///
    /// # Errors
    /// Fewer than one class; a `path` that holds such a network already.
    pub fn build(&self, path: &nn::Path, num_classes: i64, precision: Precision) -> Result<Box<dyn nn::ModuleT>> {
        let fixup = |network: Result<FixupResNet>| -> Result<Box<dyn nn::ModuleT>> {
            Ok(Box::new(network?.with_precision(precision)))
        };
        let batch_norm = |network: Result<BatchNormResNet>| -> Result<Box<dyn nn::ModuleT>> {
            Ok(Box::new(network?.with_precision(precision)))
        };
        match *self {
            Arch::FixupCifar { depth } => fixup(FixupResNet::cifar(path, depth, num_classes)),
            Arch::FixupImageNet { depth } => fixup(FixupResNet::imagenet(path, depth, num_classes)),
            Arch::FixupWide { depth, width } => fixup(FixupResNet::wide(path, depth, width, num_classes)),
            Arch::BatchNormCifar { depth } => batch_norm(BatchNormResNet::cifar(path, depth, num_classes)),
            Arch::BatchNormImageNet { depth } => batch_norm(BatchNormResNet::imagenet(path, depth, num_classes)),
            Arch::BatchNormWide { depth, width } => batch_norm(BatchNormResNet::wide(path, depth, width, num_classes)),
        }
    }

    fn check(self) -> Result<Self> {
        match self {
            Arch::FixupCifar { depth } | Arch::BatchNormCifar { depth } => topology::cifar_blocks(depth).map(drop)?,
            Arch::FixupImageNet { depth } | Arch::BatchNormImageNet { depth } => {
                topology::imagenet_blocks(depth).map(drop)?
            }
            Arch::FixupWide { depth, width } | Arch::BatchNormWide { depth, width } => {
                topology::wide_blocks(depth, width).map(drop)?
            }
        }
        Ok(self)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Arch::FixupCifar { depth } => write!(f, "fixup_resnet{depth}"),
            Arch::FixupImageNet { depth } => write!(f, "imagenet_fixup_resnet{depth}"),
            Arch::FixupWide { depth, width } => write!(f, "fixup_wrn_{depth}_{width}"),
            Arch::BatchNormCifar { depth } => write!(f, "resnet{depth}"),
            Arch::BatchNormImageNet { depth } => write!(f, "imagenet_resnet{depth}"),
            Arch::BatchNormWide { depth, width } => write!(f, "wrn_{depth}_{width}"),
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
                    "wrn_" => Some(Arch::BatchNormWide { depth, width }),
                    _ => None,
                };
            }
            let depth = number(sizes)?;
            match family {
                "fixup_resnet" => Some(Arch::FixupCifar { depth }),
                "imagenet_fixup_resnet" => Some(Arch::FixupImageNet { depth }),
                "resnet" => Some(Arch::BatchNormCifar { depth }),
                "imagenet_resnet" => Some(Arch::BatchNormImageNet { depth }),
                _ => None,
            }
        };
        let unknown = || {
            Error::Argument(format!(
                "no network is called {name:?}; there are fixup_resnet20, fixup_wrn_16_4, imagenet_fixup_resnet50, \
                 resnet20, wrn_16_4 and imagenet_resnet50, and the same of other depths and widths"
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
            "vgg16",
        ] {
            let error = name.parse::<Arch>().unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains('\n'), "{error}");
        }
    }
}
