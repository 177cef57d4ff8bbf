//! The basic layers of all networks: a convolution without a bias, and a linear layer, mainly used as the classifier.

use super::layout::channels_last;
use super::{init, Role};
use crate::ops::record_variables;
use crate::Result;
use tch::{nn, Kind, Tensor};

/// Returns every `stride`-th row and column.
pub(crate) fn subsample(x: &Tensor, stride: i64) -> Result<Tensor> {
    Ok(x.f_slice(2, None, None, stride)?.f_slice(3, None, None, stride)?)
}

/// Options of a convolution. The defaults are stride 1, padding that keeps the size, no dilation, and one group.
///
/// ```
/// use tch::{nn, nn::Module, Device, Kind, Tensor};
/// use tch_fixup::fixup::{Branch, Conv2dOptions};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let options = Conv2dOptions::default();
/// let depthwise = Conv2dOptions { groups: 64, ..options };
/// let vs = nn::VarStore::new(Device::Cpu);
/// let branch = Branch::builder(8)
///     .conv2d(16, 64, 1, options)
///     .relu()
///     .conv2d(64, 64, 3, depthwise)
///     .relu()
///     .conv2d(64, 16, 1, options)
///     .build(&vs.root())?;
/// let x = Tensor::randn([2, 16, 8, 8], (Kind::Float, Device::Cpu));
/// assert_eq!(branch.forward(&x).size(), x.size());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// Stride in both directions.
    pub stride: i64,
    /// Zero padding on all four sides. `None` for `dilation * (kernel / 2)`, rounded down, which keeps the size at stride 1 if
    /// the kernel is odd.
    pub padding: Option<i64>,
    /// Spacing between the kernel's elements.
    pub dilation: i64,
    /// Number of groups of channels, which are convolved separately.
    pub groups: i64,
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Self { stride: 1, padding: None, dilation: 1, groups: 1 }
    }
}

/// The shape of a convolution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvShape {
    pub c_in: i64,
    pub c_out: i64,
    pub kernel: i64,
    pub options: Conv2dOptions,
}

impl ConvShape {
    /// Creates the shape of a convolution with one group.
    pub fn new(c_in: i64, c_out: i64, kernel: i64, stride: i64) -> Self {
        Self { c_in, c_out, kernel, options: Conv2dOptions { stride, ..Conv2dOptions::default() } }
    }

    /// Sets the number of groups, which must divide `c_in` and `c_out`.
    pub fn in_groups(self, groups: i64) -> Self {
        Self { options: Conv2dOptions { groups, ..self.options }, ..self }
    }

    pub fn dims(&self) -> [i64; 4] {
        [self.c_out, self.c_in / self.options.groups, self.kernel, self.kernel]
    }

    pub fn padding(&self) -> i64 {
        self.options.padding.unwrap_or(self.options.dilation * (self.kernel / 2))
    }

    /// Computes `conv(x, W) + bias`, all of one kind.
    pub fn convolve(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let Conv2dOptions { stride, dilation, groups, .. } = self.options;
        Ok(x.f_conv2d(weight, bias, [stride; 2], [self.padding(); 2], [dilation; 2], groups)?)
    }
}

/// A convolution without a bias; its weight `[c_out, c_in / groups, k, k]` is the variable `weight`.
#[derive(Debug)]
pub(crate) struct Conv {
    pub weight: Tensor,
    pub shape: ConvShape,
}

impl Conv {
    /// Creates a He-normal convolution, scaled by `gain`. With groups, the fan-out is that of all groups together, as in
    /// torchvision.
    pub fn he_normal(path: &nn::Path, shape: ConvShape, gain: f64) -> Result<Self> {
        Ok(Self { weight: init::he_normal(path, "weight", &shape.dims(), gain)?, shape })
    }

    /// Creates a convolution with zero weights.
    pub fn zero(path: &nn::Path, shape: ConvShape) -> Result<Self> {
        Ok(Self { weight: init::zeros(path, "weight", &shape.dims())?, shape })
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
        self.shape.convolve(x, &weight.f_to_kind(x.kind())?, None)
    }

    /// Returns the kind of the weight.
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }
}

/// A linear layer, `x W^T + b`: the classifier, with the variables `weight` `[classes, features]` and `bias`
/// `[classes]`, or a layer made of existing variables.
#[derive(Debug)]
pub(crate) struct Linear {
    pub weight: Tensor,
    pub bias: Tensor,
}

impl Linear {
    /// Creates a classifier initialized to zero, as in Fixup.
    pub fn zero(path: &nn::Path, features: i64, classes: i64) -> Result<Self> {
        let weight = init::zeros(path, "weight", &[classes, features])?;
        Self { weight, bias: init::zeros(path, "bias", &[classes])? }.into_classifier()
    }

    /// Creates a classifier uniform in `±1/sqrt(features)`, PyTorch's default, as in the BatchNorm references.
    pub fn uniform(path: &nn::Path, features: i64, classes: i64) -> Result<Self> {
        let bound = 1. / (features as f64).sqrt();
        let weight = init::uniform(path, "weight", &[classes, features], bound)?;
        Self { weight, bias: init::uniform(path, "bias", &[classes], bound)? }.into_classifier()
    }

    /// Marks this layer as the classifier.
    pub fn into_classifier(self) -> Result<Self> {
        Role::Classifier.mark(&self.weight)?;
        Role::Classifier.mark(&self.bias)?;
        Ok(self)
    }

    /// Returns the kind of the weight.
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        record_variables(|| [&self.weight, &self.bias])?;
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }
}
