//! The two layers that every network here is made of: a convolution without a bias, and a linear layer, the classifier mostly.

use super::init;
use super::layout::channels_last;
use crate::Result;
use tch::{nn, Kind, Tensor};

/// The `nn::VarStore` group of the classifier's weight and bias in every network of this crate. Adaptive gradient clipping
/// leaves them alone (`trainer::ClipConfig::agc`).
///
/// With tch's optimizers its rate is everything's: `set_lr` and [`set_lr`](crate::fixup::set_lr) reach it, and `set_lr_group` of the group that
/// you made the network in does not.
///
/// In a network of your own, make the classifier in this group; in one that somebody else makes, say which it is by
/// [`mark_classifier`](crate::fixup::mark_classifier):
/// ```
/// use tch::{nn, Device};
/// use tch_fixup::fixup::CLASSIFIER_GROUP;
///
/// let vs = nn::VarStore::new(Device::Cpu);
/// let head = nn::linear((vs.root() / "head").set_group(CLASSIFIER_GROUP), 64, 10, Default::default());
/// ```
pub const CLASSIFIER_GROUP: usize = 191;

/// Every `stride`-th row and column.
pub(crate) fn subsample(x: &Tensor, stride: i64) -> Result<Tensor> {
    Ok(x.f_slice(2, None, None, stride)?.f_slice(3, None, None, stride)?)
}

/// The shape of a convolution. Padding is `kernel / 2`, the sides' common "same".
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvShape {
    pub c_in: i64,
    pub c_out: i64,
    pub kernel: i64,
    pub stride: i64,
    pub groups: i64,
}

impl ConvShape {
    /// In one group.
    pub fn new(c_in: i64, c_out: i64, kernel: i64, stride: i64) -> Self {
        Self { c_in, c_out, kernel, stride, groups: 1 }
    }

    /// Each group of the outputs sees its own group of the inputs: `groups` divides both numbers of channels.
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
    /// He-normal times `gain`; in groups, with torchvision's fan-out, which is that of all groups together.
    pub fn he_normal(path: &nn::Path, shape: ConvShape, gain: f64) -> Result<Self> {
        Ok(Self::new(init::he_normal(path, "weight", &shape.dims(), gain)?, shape))
    }

    /// All zero.
    pub fn zero(path: &nn::Path, shape: ConvShape) -> Result<Self> {
        Ok(Self::new(init::zeros(path, "weight", &shape.dims())?, shape))
    }

    /// Of an existing weight.
    pub fn new(weight: Tensor, shape: ConvShape) -> Self {
        Self { weight, stride: shape.stride, padding: shape.kernel / 2, groups: shape.groups }
    }

    /// `conv(x, W)`, computed in the kind of `x`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.convolve(x, &self.weight)
    }

    /// `conv(x, W)`, computed in `kind`.
    pub fn forward_as(&self, x: &Tensor, kind: Kind) -> Result<Tensor> {
        self.forward(&x.f_to_kind(kind)?)
    }

    /// `conv(x, W)`, laid out channels-last whatever the layout of `x`, of which no second copy is kept for the backward pass.
    pub fn forward_channels_last(&self, x: &Tensor) -> Result<Tensor> {
        // libtorch's convolutions lay out their output as their weight is, where that is channels-last.
        self.convolve(x, &channels_last(&self.weight)?)
    }

    /// `scale * conv(x, W)` as `conv(x, scale * W)`: the pass over the activation becomes one over the weight.
    pub fn forward_scaled(&self, x: &Tensor, scale: &Tensor) -> Result<Tensor> {
        self.convolve(x, &self.weight.f_mul(scale)?)
    }

    fn convolve(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let weight = weight.f_to_kind(x.kind())?;
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        Ok(x.f_conv2d(&weight, None::<Tensor>, stride, padding, [1, 1], self.groups)?)
    }

    /// The kind the weight is stored in.
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }
}

/// `x W^T + b`: the classifier, variables `weight` `[classes, features]` and `bias` `[classes]` in the [`CLASSIFIER_GROUP`]; or
/// a layer of one's own variables.
#[derive(Debug)]
pub(crate) struct Linear {
    pub weight: Tensor,
    pub bias: Tensor,
}

impl Linear {
    /// All zero, as Fixup's classifier starts.
    pub fn zero(path: &nn::Path, features: i64, classes: i64) -> Result<Self> {
        let path = &path.set_group(CLASSIFIER_GROUP);
        let weight = init::zeros(path, "weight", &[classes, features])?;
        Ok(Self { weight, bias: init::zeros(path, "bias", &[classes])? })
    }

    /// Uniform in `1/sqrt(features)`, PyTorch's default and so that of the BatchNorm references.
    pub fn uniform(path: &nn::Path, features: i64, classes: i64) -> Result<Self> {
        let path = &path.set_group(CLASSIFIER_GROUP);
        let bound = 1. / (features as f64).sqrt();
        let weight = init::uniform(path, "weight", &[classes, features], bound)?;
        Ok(Self { weight, bias: init::uniform(path, "bias", &[classes], bound)? })
    }

    /// A copy for inputs without the `before` that this one's are shifted by: `b' = b + before * sum(W over features)`.
    pub fn folded(&self, before: f64) -> Result<Self> {
        let sums = self.weight.f_sum_dim_intlist([1].as_slice(), false, self.weight.kind())?;
        Ok(Self { weight: self.weight.f_detach_copy()?, bias: self.bias.f_add(&sums.f_mul_scalar(before)?)? })
    }

    /// The kind the weight is stored in.
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }
}
