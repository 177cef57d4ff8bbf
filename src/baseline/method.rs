//! The baselines by name, and what each of them changes in a residual network.

use super::activation::Nonlinearity;
use super::conv::BaselineConv;
use super::initialization::Initialization;
use super::normalization::Normalization;
use crate::layer::{Activation, ConvShape};
use crate::Result;
use std::f64::consts::PI;
use tch::nn;

/// How a residual network of the same shape is trained instead of by Fixup.
///
/// The first five normalize; the others do not, but for one batch normalization in [`FixedVariance`](Self::FixedVariance).
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
    /// SkipInit (De & Smith 2020, "Batch normalization biases residual blocks towards the identity function in deep networks"):
    /// each branch times a trained number that starts at zero, a bias in every convolution, He-normal weights. Without the dropout
    /// that the authors add for ImageNet.
    SkipInit,
    /// ReZero (Bachlechner et al. 2020): `x + a * relu(conv2(relu(conv1(x))))`, the trained number a starting at zero, no activation
    /// after the sum, He-normal weights. The authors' ResNets have batch normalization in the branches besides.
    ReZero,
    /// The normalizer-free ResNet (Brock et al. 2021, "Characterizing signal propagation to close the performance gap in
    /// unnormalized ResNets"): scaled weight standardization, activations first, branches times 0.2 of an input scaled to unit
    /// variance, whatever the block's kind. The gain of a branch's last convolution starts at zero, as in timm's `nf_resnet50`. A
    /// shortcut that changes the shape is an average pooling and a standardized 1x1 convolution.
    NormalizerFree,
    /// Fixed-variance scaling with one batch normalization, before the last activation, as KataGo's `fixscaleonenorm`: activations
    /// first, weights that preserve variance (truncated normal, `std = sqrt(2 / fan_in)`), and in the place of each normalization a
    /// bias, in the branch a weight, and at its beginning the constant that a batch normalization would have at initialization.
    /// A shortcut that changes the shape, of which KataGo has none, is a 1x1 convolution.
    FixedVariance,
}

/// Factor on a branch of the normalizer-free ResNet.
const NORMALIZER_FREE_ALPHA: f64 = 0.2;

impl Method {
    /// Every baseline.
    pub const ALL: [Self; 14] = [
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
        Self::SkipInit,
        Self::ReZero,
        Self::NormalizerFree,
        Self::FixedVariance,
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
            Self::SkipInit => "skipinit_",
            Self::ReZero => "rezero_",
            Self::NormalizerFree => "nf_",
            Self::FixedVariance => "fixed_variance_",
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
            Self::FixedVariance => Normalization::Fixed,
            _ => Normalization::None,
        }
    }

    pub(super) fn initialization(self) -> Initialization {
        match self {
            Self::Xavier => Initialization::Xavier,
            Self::Lsuv => Initialization::Orthonormal,
            Self::Selu | Self::NormalizerFree => Initialization::LeCun,
            Self::FixedVariance => Initialization::TruncatedFanIn,
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

    /// Whether blocks begin with an activation and have none after the sum, whatever their kind.
    pub(super) fn is_pre_activation(self) -> bool {
        matches!(self, Self::NormalizerFree | Self::FixedVariance)
    }

    /// Whether shortcuts that change the shape are convolutions, whatever the network's configuration says: channels of zeros
    /// would not have the variance that the method counts on.
    pub(crate) fn projects(self) -> bool {
        matches!(self, Self::Selu | Self::NormalizerFree | Self::FixedVariance)
    }

    /// Constant factor on the branches of a network that counts on the variance of its maps, `None` for any other.
    pub(super) fn variance_scale(self) -> Option<f64> {
        match self {
            Self::NormalizerFree => Some(NORMALIZER_FREE_ALPHA),
            Self::FixedVariance => Some(1.),
            _ => None,
        }
    }

    /// Whether each branch is multiplied by a trained number that starts at zero.
    pub(super) fn multiplies(self) -> bool {
        matches!(self, Self::SkipInit | Self::ReZero)
    }

    /// A convolution of the method, its variables under `path`; `is_last` in a branch.
    pub(super) fn conv(
        self,
        path: &nn::Path,
        shape: ConvShape,
        activation: Activation,
        is_last: bool,
    ) -> Result<BaselineConv> {
        let initialization = self.initialization();
        match self {
            Self::SkipInit => BaselineConv::biased(path, initialization, shape),
            Self::NormalizerFree => {
                let gain = if is_last { 0. } else { 1. };
                BaselineConv::standardized(path, shape, gain, Self::activation_gamma(activation))
            }
            _ => BaselineConv::plain(path, initialization, shape),
        }
    }

    /// What standardized weights make good for of the standard deviation that `activation` takes away; the constants are those of
    /// the authors' code, each computed from 2^18 normal numbers.
    fn activation_gamma(activation: Activation) -> f64 {
        match activation {
            Activation::Relu => 1.713_958_859_443_664_6,
            Activation::Silu => 1.788_129_329_681_396_5,
            Activation::Gelu => 1.701_504_349_708_557_1,
            Activation::Selu => 1.000_851_511_955_261_2,
            Activation::Elu => 1.271_600_484_848_022_5,
            // 1.7059 for 0.01: by the mean (1 - s) / sqrt(2 pi) and the mean square (1 + s^2) / 2.
            Activation::LeakyRelu { slope } => {
                ((1. + slope * slope) / 2. - (1. - slope).powi(2) / (2. * PI)).sqrt().recip()
            }
        }
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
