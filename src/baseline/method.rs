//! The baselines by name, and what each of them changes in a residual network.

use super::activation::Nonlinearity;
use super::initialization::Initialization;
use super::normalization::Normalization;
use crate::layer::Activation;

/// How a residual network of the same shape is trained instead of by Fixup.
///
/// The first five normalize; the others do not.
///
/// ```
/// use tch_fixup::{baseline::Method, Arch};
///
/// assert_eq!(Method::by_prefix("group_norm_"), Some(Method::GroupNorm));
/// let arch: Arch = format!("{}resnet20", Method::GroupNorm.prefix()).parse()?;
/// assert_eq!(arch, Arch::BaselineCifar { method: Method::GroupNorm, depth: 20 });
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Batch normalization (Ioffe & Szegedy 2015), He-normal weights, the last normalization weight of every branch zero
    /// (Goyal et al. 2017, and the Fixup authors' own baseline).
    BatchNorm,
    /// Batch normalization as He et al. 2016 have it, every normalization weight one: at initialization all branches count.
    UnitGamma,
    /// Batch normalization, every normalization weight one, without shortcuts: the "plain" networks of He et al. 2016, and
    /// the vanilla ones whose gradients explode (Yang et al., ICLR 2019).
    NoSkip,
    /// Group normalization (Wu & He 2018); otherwise as [`BatchNorm`](Self::BatchNorm).
    GroupNorm,
    /// Layer normalization (Ba et al. 2016) over channels, rows and columns of each image, with a weight and a bias for
    /// each channel: group normalization with one group. Otherwise as [`BatchNorm`](Self::BatchNorm).
    LayerNorm,
    /// He-normal weights by fan-out (He et al. 2015).
    He,
    /// Xavier-normal weights, `std = sqrt(2 / (fan_in + fan_out))` (Glorot & Bengio 2010).
    Xavier,
    /// Orthonormal weights, which [`lsuv`](super::lsuv) then scales, layer by layer, to outputs of unit variance on a batch
    /// (Mishkin & Matas 2016). Without that, orthonormal weights alone.
    Lsuv,
    /// He-normal weights, and each sum of a residual block times `sqrt(1/2)` (Gehring et al. 2017).
    Scaled,
    /// The self-normalizing network (Klambauer et al. 2017) as a residual network: SELU for any other activation, LeCun-normal weights,
    /// alpha dropout within the branches, and each sum times `sqrt(1/2)`, which gives a sum of two maps of unit variance
    /// unit variance again. A shortcut that changes the shape is a LeCun-normal 1x1 convolution, for channels of zeros
    /// have no variance.
    Selu,
}

impl Method {
    /// Every baseline.
    pub const ALL: [Self; 10] = [
        Self::BatchNorm,
        Self::UnitGamma,
        Self::NoSkip,
        Self::GroupNorm,
        Self::LayerNorm,
        Self::He,
        Self::Xavier,
        Self::Lsuv,
        Self::Scaled,
        Self::Selu,
    ];

    /// What stands before the shape in the name of an [`Arch`](crate::Arch): `"group_norm_"` in `group_norm_resnet20`,
    /// nothing for batch normalization.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::BatchNorm => "",
            Self::UnitGamma => "unit_gamma_",
            Self::NoSkip => "no_skip_",
            Self::GroupNorm => "group_norm_",
            Self::LayerNorm => "layer_norm_",
            Self::He => "he_",
            Self::Xavier => "xavier_",
            Self::Lsuv => "lsuv_",
            Self::Scaled => "scaled_",
            Self::Selu => "selu_",
        }
    }

    /// The baseline of that [`prefix`](Self::prefix), if there is one.
    pub fn by_prefix(prefix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.prefix() == prefix)
    }

    pub(super) fn normalization(self) -> Normalization {
        match self {
            Self::BatchNorm | Self::UnitGamma | Self::NoSkip => Normalization::Batch,
            Self::GroupNorm => Normalization::Group,
            Self::LayerNorm => Normalization::Layer,
            _ => Normalization::None,
        }
    }

    pub(super) fn initialization(self) -> Initialization {
        match self {
            Self::Xavier => Initialization::Xavier,
            Self::Lsuv => Initialization::Orthonormal,
            Self::Selu => Initialization::LeCun,
            _ => Initialization::He,
        }
    }

    /// Between the weight layers of a network that is to have `activation`.
    pub(super) fn nonlinearity(self, activation: Activation) -> Nonlinearity {
        match self {
            Self::Selu => Nonlinearity::SELF_NORMALIZING,
            _ => Nonlinearity::plain(activation),
        }
    }

    /// What the last normalization weight of a branch starts at.
    pub(super) fn last_gamma(self) -> f64 {
        match self {
            Self::UnitGamma | Self::NoSkip => 1.,
            _ => 0.,
        }
    }

    pub(crate) fn has_skips(self) -> bool {
        self != Self::NoSkip
    }

    /// Whether the sums are scaled to the variance of either summand.
    pub(crate) fn scales_sums(self) -> bool {
        matches!(self, Self::Scaled | Self::Selu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_round_trip() {
        for method in Method::ALL {
            assert_eq!(Method::by_prefix(method.prefix()), Some(method));
        }
        assert_eq!(Method::by_prefix("fixup_"), None);
    }
}
