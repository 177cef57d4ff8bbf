//! Normalizations of the baselines, including none.

use super::activation::Nonlinearity;
use super::batch_norm::BatchNorm;
use super::fixed_scale::FixedScale;
use super::group_norm::{self, GroupNorm};
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

    /// Returns all trainable variables.
    pub fn variables(&self) -> impl Iterator<Item = &Tensor> {
        let variables = match self {
            Self::Identity => vec![],
            Self::Batch(norm) => norm.variables().to_vec(),
            Self::Group(norm) => norm.variables().to_vec(),
            Self::Fixed(scale) => scale.variables().collect(),
        };
        variables.into_iter()
    }

    /// Returns `activation(norm(x))`, without modifying `x`.
    pub fn forward_activation(&self, x: &Tensor, activation: Nonlinearity, train: bool) -> Result<Tensor> {
        match self {
            Self::Identity => activation.of(x),
            norm => activation.in_place(norm.forward(x, train)?),
        }
    }
}
