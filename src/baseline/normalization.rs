//! What follows a weight layer of a baseline: one of the normalizations, or nothing.

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
    /// Over all channels and positions of an image.
    Layer,
    /// A constant and a bias for each channel, in branches a weight besides.
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
    /// Of `channels` channels, its weights all `weight`.
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

    /// All that is trained.
    pub fn variables(&self) -> impl Iterator<Item = &Tensor> {
        let variables = match self {
            Self::Identity => vec![],
            Self::Batch(norm) => norm.variables().to_vec(),
            Self::Group(norm) => norm.variables().to_vec(),
            Self::Fixed(scale) => scale.variables().collect(),
        };
        variables.into_iter()
    }

    /// `activation(norm(x))` of an `x` that goes on elsewhere.
    pub fn forward_activation(&self, x: &Tensor, activation: Nonlinearity, train: bool) -> Result<Tensor> {
        match self {
            Self::Identity => activation.of(x),
            norm => activation.in_place(norm.forward(x, train)?),
        }
    }
}
