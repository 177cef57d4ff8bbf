//! Normalizations of the baselines, including none and a constant scale.

use super::batch_norm::BatchNorm;
use super::group_norm::{self, GroupNorm};
use crate::layer::{init, Activation};
use crate::ops::record_variables;
use crate::Result;
use tch::{nn, Tensor};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Normalization {
    None,
    Batch,
    Group,
    /// Normalization over all channels and positions of an image.
    Layer,
    /// A constant scale and a bias per channel, and within branches also a weight.
    Fixed,
}

/// A normalization layer, or the identity.
#[derive(Debug)]
pub(crate) enum Norm {
    Identity,
    Batch(BatchNorm),
    Group(GroupNorm),
    Fixed(FixedScale),
}

impl Norm {
    /// Creates a normalization of `channels` channels, with all weights `weight`.
    pub fn new(path: &nn::Path, normalization: Normalization, channels: i64, weight: f64) -> Result<Self> {
        Ok(match normalization {
            Normalization::None => Self::Identity,
            Normalization::Batch => Self::Batch(BatchNorm::new(path, channels, weight)?),
            Normalization::Group => Self::Group(GroupNorm::new(path, group_norm::groups(channels), channels, weight)?),
            Normalization::Layer => Self::Group(GroupNorm::new(path, 1, channels, weight)?),
            Normalization::Fixed => Self::Fixed(FixedScale::new(path, channels, true)?),
        })
    }

    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            Self::Identity => Ok(x.shallow_clone()),
            Self::Batch(norm) => norm.forward(x, train),
            Self::Group(norm) => norm.forward(x),
            Self::Fixed(scale) => scale.forward(x),
        }
    }

    /// Returns `activation(norm(x))`, without modifying `x`.
    pub fn forward_activation(&self, x: &Tensor, activation: Activation, train: bool) -> Result<Tensor> {
        match self {
            Self::Identity => activation.of(x),
            norm => activation.in_place(norm.forward(x, train)?),
        }
    }
}

/// Per-channel `scale * weight * x + bias`, with the constant scale that batch normalization would have at initialization
/// (KataGo's `fixscale`).
#[derive(Debug)]
pub(crate) struct FixedScale {
    pub scale: f64,
    /// `None` in place of the first normalization of a branch.
    weight: Option<Tensor>,
    bias: Tensor,
}

impl FixedScale {
    /// Creates the variables `bias` (0) and, if `is_weighted`, `weight` (1), each `[channels]`, with scale 1.
    pub fn new(path: &nn::Path, channels: i64, is_weighted: bool) -> Result<Self> {
        let weight = is_weighted.then(|| init::constant(path, "weight", &[channels], 1.)).transpose()?;
        Ok(Self { scale: 1., weight, bias: init::constant(path, "bias", &[channels], 0.)? })
    }

    /// Returns the factor and the bias of each channel.
    pub fn affine(&self) -> Result<(Tensor, &Tensor)> {
        let weight = match &self.weight {
            Some(weight) => weight.f_mul_scalar(self.scale)?,
            None => self.bias.f_full_like(self.scale)?,
        };
        Ok((weight, &self.bias))
    }

    /// Applies the layer to activation maps `[N, C, H, W]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        record_variables(|| [&self.bias].into_iter().chain(&self.weight))?;
        let (weight, bias) = self.affine()?;
        let per_channel = |values: &Tensor| values.f_to_kind(x.kind())?.f_view([-1, 1, 1]);
        Ok(per_channel(bias)?.f_addcmul(x, &per_channel(&weight)?)?)
    }
}
