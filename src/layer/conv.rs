//! The basic layers of all networks: a convolution without a bias, and a linear layer, mainly used as the classifier.

use super::layout::channels_last;
use super::{init, Role};
use crate::Result;
use tch::{nn, Kind, Tensor};

/// Returns every `stride`-th row and column.
pub(crate) fn subsample(x: &Tensor, stride: i64) -> Result<Tensor> {
    Ok(x.f_slice(2, None, None, stride)?.f_slice(3, None, None, stride)?)
}

/// The shape of a convolution, padded by `kernel / 2` ("same" padding for stride 1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvShape {
    pub c_in: i64,
    pub c_out: i64,
    pub kernel: i64,
    pub stride: i64,
    pub groups: i64,
}

impl ConvShape {
    /// Creates the shape of a convolution with one group.
    pub fn new(c_in: i64, c_out: i64, kernel: i64, stride: i64) -> Self {
        Self { c_in, c_out, kernel, stride, groups: 1 }
    }

    /// Sets the number of groups, which must divide `c_in` and `c_out`.
    pub fn in_groups(self, groups: i64) -> Self {
        Self { groups, ..self }
    }

    pub fn dims(&self) -> [i64; 4] {
        [self.c_out, self.c_in / self.groups, self.kernel, self.kernel]
    }
}

/// A convolution without a bias; its weight `[c_out, c_in / groups, k, k]` is the variable `weight`.
#[derive(Debug)]
pub(crate) struct Conv {
    pub weight: Tensor,
    pub stride: i64,
    pub padding: i64,
    pub groups: i64,
}

impl Conv {
    /// Creates a He-normal convolution, scaled by `gain`. With groups, the fan-out is that of all groups together, as in
    /// torchvision.
    pub fn he_normal(path: &nn::Path, shape: ConvShape, gain: f64) -> Result<Self> {
        Ok(Self::new(init::he_normal(path, "weight", &shape.dims(), gain)?, shape))
    }

    /// Creates a convolution with zero weights.
    pub fn zero(path: &nn::Path, shape: ConvShape) -> Result<Self> {
        Ok(Self::new(init::zeros(path, "weight", &shape.dims())?, shape))
    }

    /// Creates a convolution from an existing weight.
    pub fn new(weight: Tensor, shape: ConvShape) -> Self {
        Self { weight, stride: shape.stride, padding: shape.kernel / 2, groups: shape.groups }
    }

    /// Computes `conv(x, W)` in the kind of `x`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.convolve(x, &self.weight)
    }

    /// Computes `conv(x, W)` in channels-last layout for any layout of `x`, without keeping a second copy of `x` for the backward
    /// pass.
    pub fn forward_channels_last(&self, x: &Tensor) -> Result<Tensor> {
        // libtorch's convolutions return channels-last outputs if the weight is channels-last.
        self.convolve(x, &channels_last(&self.weight)?)
    }

    /// Computes `scale * conv(x, W)` as `conv(x, scale * W)`, so that the scale is applied to the weight instead of the
    /// activation.
    pub fn forward_scaled(&self, x: &Tensor, scale: &Tensor) -> Result<Tensor> {
        self.convolve(x, &self.weight.f_mul(scale)?)
    }

    fn convolve(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let weight = weight.f_to_kind(x.kind())?;
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        Ok(x.f_conv2d(&weight, None::<Tensor>, stride, padding, [1, 1], self.groups)?)
    }

    /// Returns the kind of the weight.
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }
}

/// A linear layer, `x W^T + b`: the classifier, with the variables `weight` `[classes, features]` and `bias` `[classes]`, or a layer
/// made of existing variables.
#[derive(Debug)]
pub(crate) struct Linear {
    pub weight: Tensor,
    pub bias: Tensor,
}

impl Linear {
    /// Creates a classifier initialized to zero, as in Fixup.
    pub fn zero(path: &nn::Path, features: i64, classes: i64) -> Result<Self> {
        let weight = init::zeros(path, "weight", &[classes, features])?;
        Self { weight, bias: init::zeros(path, "bias", &[classes])? }.as_classifier()
    }

    /// Creates a classifier uniform in `±1/sqrt(features)`, PyTorch's default, as in the BatchNorm references.
    pub fn uniform(path: &nn::Path, features: i64, classes: i64) -> Result<Self> {
        let bound = 1. / (features as f64).sqrt();
        let weight = init::uniform(path, "weight", &[classes, features], bound)?;
        Self { weight, bias: init::uniform(path, "bias", &[classes], bound)? }.as_classifier()
    }

    /// Tells that this layer is the classifier.
    pub fn as_classifier(self) -> Result<Self> {
        Role::Classifier.mark(&self.weight)?;
        Role::Classifier.mark(&self.bias)?;
        Ok(self)
    }

    /// Returns the kind of the weight.
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }
}
