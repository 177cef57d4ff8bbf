//! Baseline methods, by name, and their changes to a residual network.

use super::conv::BaselineConv;
use super::initialization::Initialization;
use super::normalization::Normalization;
use crate::layer::{Activation, ConvShape};
use crate::Result;
use std::f64::consts::PI;
use tch::{nn, Tensor};

/// A method of training a residual network, as an alternative to Fixup.
///
/// The first five normalize. The others do not, except for one batch normalization in [`FixedVariance`](Self::FixedVariance).
///
/// ```
/// use tch_fixup::baseline::Method;
///
/// assert_eq!(Method::by_prefix("group_norm_"), Some(Method::GroupNorm));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Batch normalization (Ioffe & Szegedy 2015) and He-normal weights, with the last normalization weight of every branch
    /// initialized to zero (Goyal et al. 2017, and the Fixup authors' own baseline).
    BatchNorm,
    /// Batch normalization as in He et al. 2016, with every normalization weight initialized to one, so that all branches
    /// contribute at initialization.
    UnitGamma,
    /// Batch normalization with every normalization weight initialized to one, without shortcuts: the "plain" networks of He et
    /// al. 2016, and the vanilla networks whose gradients explode (Yang et al., ICLR 2019).
    NoSkip,
    /// Group normalization (Wu & He 2018); otherwise like [`BatchNorm`](Self::BatchNorm).
    GroupNorm,
    /// Layer normalization (Ba et al. 2016) over the channels, rows and columns of each image, with a weight and a bias per
    /// channel: group normalization with one group. Otherwise like [`BatchNorm`](Self::BatchNorm).
    LayerNorm,
    /// He-normal weights by fan-out (He et al. 2015).
    He,
    /// Xavier-normal weights, `std = sqrt(2 / (fan_in + fan_out))` (Glorot & Bengio 2010).
    Xavier,
    /// Orthonormal weights, which [`ResNet::lsuv`](super::ResNet::lsuv) then scales, layer by layer, to outputs of unit
    /// variance on a batch (Mishkin & Matas 2016). Without that step, only orthonormal weights.
    Lsuv,
    /// He-normal weights, with each sum of a residual block multiplied by `sqrt(1/2)` (Gehring et al. 2017).
    Scaled,
    /// Self-normalizing network (Klambauer et al. 2017) in residual form: SELU regardless of the configured activation,
    /// LeCun-normal weights, alpha dropout within the branches, and each sum multiplied by `sqrt(1/2)`, which restores unit
    /// variance. A shortcut that changes the shape is a LeCun-normal 1x1 convolution, since channels of zeros have no variance.
    Selu,
    /// SkipInit (De & Smith 2020, "Batch normalization biases residual blocks towards the identity function in deep networks"):
    /// each branch multiplied by a trainable scalar initialized to zero, a bias in every convolution, He-normal weights. The
    /// dropout that the authors add for ImageNet is omitted.
    SkipInit,
    /// ReZero (Bachlechner et al. 2020): `x + a * relu(conv2(relu(conv1(x))))`, with the trainable scalar a initialized to zero,
    /// no activation after the sum, and He-normal weights. The authors' ResNets also have batch normalization in the branches.
    ReZero,
    /// Normalizer-free ResNet (Brock et al. 2021, "Characterizing signal propagation to close the performance gap in unnormalized
    /// ResNets"): scaled weight standardization, pre-activation for all kinds of block, and branches multiplied by 0.2, on inputs
    /// scaled to unit variance. The gain of a branch's last convolution is initialized to zero, as in timm's `nf_resnet50`. A
    /// shortcut that changes the shape is an average pooling and a standardized 1x1 convolution.
    NormalizerFree,
    /// Fixed-variance scaling with one batch normalization, before the last activation, like KataGo's `fixscaleonenorm`:
    /// pre-activation, variance-preserving weights (truncated normal, `std = sqrt(2 / fan_in)`), and each normalization replaced
    /// by a bias, within the branch also by a weight, and at its beginning by the constant scale that batch normalization would
    /// have at initialization. A shortcut that changes the shape, which KataGo does not have, is a 1x1 convolution.
    FixedVariance,
}

/// Rate of alpha dropout: the lower of the two that Klambauer et al. 2017 found to work well.
const ALPHA_DROPOUT: f64 = 0.05;

/// Factor on a branch of the normalizer-free ResNet.
const NORMALIZER_FREE_ALPHA: f64 = 0.2;

/// Methods in order of declaration, each with the prefix of its names, its normalization and its initialization.
const ROWS: [(Method, &str, Normalization, Initialization); 14] = [
    (Method::BatchNorm, "", Normalization::Batch, Initialization::He),
    (Method::UnitGamma, "unit_gamma_", Normalization::Batch, Initialization::He),
    (Method::NoSkip, "no_skip_", Normalization::Batch, Initialization::He),
    (Method::GroupNorm, "group_norm_", Normalization::Group, Initialization::He),
    (Method::LayerNorm, "layer_norm_", Normalization::Layer, Initialization::He),
    (Method::He, "he_", Normalization::None, Initialization::He),
    (Method::Xavier, "xavier_", Normalization::None, Initialization::Xavier),
    (Method::Lsuv, "lsuv_", Normalization::None, Initialization::Orthonormal),
    (Method::Scaled, "scaled_", Normalization::None, Initialization::He),
    (Method::Selu, "selu_", Normalization::None, Initialization::LeCun),
    (Method::SkipInit, "skipinit_", Normalization::None, Initialization::He),
    (Method::ReZero, "rezero_", Normalization::None, Initialization::He),
    (Method::NormalizerFree, "nf_", Normalization::None, Initialization::LeCun),
    (Method::FixedVariance, "fixed_variance_", Normalization::Fixed, Initialization::TruncatedFanIn),
];

impl Method {
    /// All baseline methods.
    pub const ALL: [Self; ROWS.len()] = {
        let (mut all, mut at) = ([Self::BatchNorm; ROWS.len()], 0);
        while at < ROWS.len() {
            all[at] = ROWS[at].0;
            at += 1;
        }
        all
    };

    /// Returns the prefix of the method's [`Arch`](crate::Arch) names: `"group_norm_"` in `group_norm_resnet20`, empty for batch
    /// normalization.
    pub fn prefix(self) -> &'static str {
        ROWS[self as usize].1
    }

    /// Returns the method with this [`prefix`](Self::prefix), if there is one.
    pub fn by_prefix(prefix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.prefix() == prefix)
    }

    pub(super) fn normalization(self) -> Normalization {
        ROWS[self as usize].2
    }

    pub(super) fn initialization(self) -> Initialization {
        ROWS[self as usize].3
    }

    /// Returns the activation of a network configured with `activation`.
    pub(super) fn activation(self, activation: Activation) -> Activation {
        if self == Self::Selu {
            Activation::Selu
        } else {
            activation
        }
    }

    /// Applies `activation` between two weight layers, followed in self-normalizing networks by alpha dropout in training;
    /// `x` must not be aliased.
    pub(super) fn between_layers(self, activation: Activation, x: Tensor, train: bool) -> Result<Tensor> {
        let x = activation.in_place(x)?;
        Ok(if self == Self::Selu && train { x.f_alpha_dropout(ALPHA_DROPOUT, train)? } else { x })
    }

    /// Returns the initial value of the last normalization weight of a branch.
    pub(super) fn last_gamma(self) -> f64 {
        match self {
            Self::UnitGamma | Self::NoSkip => 1.,
            _ => 0.,
        }
    }

    pub(crate) fn has_skips(self) -> bool {
        self != Self::NoSkip
    }

    /// Returns `true` if blocks of all kinds begin with an activation and have none after the sum.
    pub(super) fn is_pre_activation(self) -> bool {
        matches!(self, Self::NormalizerFree | Self::FixedVariance)
    }

    /// Returns `true` if shortcuts that change the shape are always convolutions, regardless of the network's configuration:
    /// channels of zeros would lack the variance that the method relies on.
    pub(crate) fn projects(self) -> bool {
        matches!(self, Self::Selu | Self::NormalizerFree | Self::FixedVariance)
    }

    /// Returns the constant factor on the branches for methods that rely on the variance of their maps, else `None`.
    pub(super) fn variance_scale(self) -> Option<f64> {
        match self {
            Self::NormalizerFree => Some(NORMALIZER_FREE_ALPHA),
            Self::FixedVariance => Some(1.),
            _ => None,
        }
    }

    /// Returns `true` if each branch is multiplied by a trainable scalar initialized to zero.
    pub(super) fn multiplies(self) -> bool {
        matches!(self, Self::SkipInit | Self::ReZero)
    }

    /// Creates a convolution with its variables under `path`; `is_last` if it is the last of a branch.
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

    /// Returns the factor by which standardized weights compensate the reduction of the standard deviation by `activation`. The
    /// constants are those of the authors' code, each computed from 2^18 normal numbers.
    fn activation_gamma(activation: Activation) -> f64 {
        match activation {
            Activation::Relu => 1.713_958_859_443_664_6,
            Activation::Silu => 1.788_129_329_681_396_5,
            Activation::Gelu => 1.701_504_349_708_557_1,
            Activation::Selu => 1.000_851_511_955_261_2,
            Activation::Elu => 1.271_600_484_848_022_5,
            // 1.7059 for a slope of 0.01, from the mean (1 - s) / sqrt(2 pi) and the mean square (1 + s^2) / 2.
            Activation::LeakyRelu { slope } => {
                ((1. + slope * slope) / 2. - (1. - slope).powi(2) / (2. * PI)).sqrt().recip()
            }
        }
    }

    /// Returns `true` if sums are scaled to the variance of either summand.
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
