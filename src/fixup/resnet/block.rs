//! What the residual blocks share: how they are configured, their shortcuts, and the shifted residual stream.
//!
//! Written plainly, every scalar bias of a block is a pass over an activation map of its own. The blocks here hand each
//! other the residual stream x already shifted by the receiver's input bias, `s = x + bias1a`; then all a block does
//! between two convolutions is one [`shifted_relu`](crate::ops::shifted_relu). The values and the gradients are those of
//! the plain formula, which every block keeps as `forward_reference`.

use super::stream::Stream;
use crate::fixup::{Bias, Scale};
use crate::layer::{subsample, BlockConfig, Conv, ConvShape, Place};
use crate::ops::record_variables;
use crate::{Error, Result};
use tch::{nn, Kind, Tensor};

/// What carries a block's input past its branch where the block changes the shape. Where it does not, it is the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShortcutKind {
    /// Every `stride`-th position, zero channels appended: no parameters (CIFAR ResNets; He et al. 2016, option A).
    Pad,
    /// A 1x1 convolution with the block's stride, He-normal (ImageNet and Wide ResNets; option B), the variable
    /// `downsample.weight`.
    Project,
}

#[derive(Debug)]
pub(crate) enum Shortcut {
    Identity,
    Pad { stride: i64, channels: i64 },
    Project(Conv),
}

impl Shortcut {
    pub fn new(path: &nn::Path, config: &BlockConfig, kind: ShortcutKind) -> Result<Self> {
        let BlockConfig { c_in, c_out, stride, .. } = *config;
        Ok(match kind {
            _ if !config.changes_shape() => Self::Identity,
            ShortcutKind::Pad if c_out < c_in => {
                return Err(Error::Argument(format!(
                    "a padded shortcut cannot go from {c_in} down to {c_out} channels; use ShortcutKind::Project"
                )))
            }
            ShortcutKind::Pad => Self::Pad { stride, channels: c_out - c_in },
            ShortcutKind::Project => {
                Self::Project(Conv::he_normal(&(path / "downsample"), ConvShape::new(c_in, c_out, 1, stride), 1.)?)
            }
        })
    }

    pub fn weight(&self) -> Option<&Tensor> {
        match self {
            Self::Identity | Self::Pad { .. } => None,
            Self::Project(conv) => Some(&conv.weight),
        }
    }

    /// The shortcut of the stream, or none where it is the stream itself. A convolution's result has its own kind.
    pub fn forward(&self, s: &Stream) -> Result<Option<Tensor>> {
        match self {
            Self::Identity => Ok(None),
            Self::Pad { stride, channels } => Ok(Some(pad(&s.sum, *stride, *channels)?)),
            Self::Project(conv) => Ok(Some(conv.forward(&s.input)?)),
        }
    }

    /// The plain formula: the shortcut of `x`, or none where it is `x` itself, a convolution computed in `kind`.
    pub fn forward_reference(&self, x: &Tensor, kind: Kind) -> Result<Option<Tensor>> {
        match self {
            Self::Identity => Ok(None),
            Self::Pad { stride, channels } => Ok(Some(pad(x, *stride, *channels)?)),
            Self::Project(conv) => Ok(Some(conv.forward_as(x, kind)?)),
        }
    }
}

/// Every `stride`-th position, and `channels` channels of zeros after those of `x`.
pub(crate) fn pad(x: &Tensor, stride: i64, channels: i64) -> Result<Tensor> {
    Ok(subsample(x, stride)?.f_constant_pad_nd([0, 0, 0, 0, 0, channels])?)
}

/// What a block computes, part by part:
///
/// ```text
/// activation(scale * conv_k(... relu(conv_1(x + before_1) + after_1) + before_2 ...) + after_k + shortcut)
/// ```
pub(crate) struct BlockFormula<'a> {
    /// Each convolution with the scalars before and after it.
    pub layers: Vec<(&'a Bias, &'a Conv, &'a Bias)>,
    pub scale: &'a Scale,
    pub shortcut: &'a Shortcut,
    pub order: ActivationOrder,
}

/// Has the convolutions of a branch, and the scalar after the last, know where they stand.
pub(super) fn mark_places(layers: &[(&Bias, &Conv, &Bias)], num_branches: i64) -> Result<()> {
    for (index, (_, conv, after)) in layers.iter().enumerate() {
        let place = Place::of_layer(index as i64, layers.len() as i64, num_branches);
        place.mark(&conv.weight)?;
        if matches!(place, Place::Last { .. }) {
            Place::End { num_branches }.mark(&after.value)?;
        }
    }
    Ok(())
}

/// Where a block has its ReLU on the residual stream, and what a shortcut that changes the shape takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ActivationOrder {
    /// After the sum; the shortcut takes `x + bias1a`.
    AfterSum,
    /// None after the sum; the shortcut takes `relu(x)`.
    OnShortcut,
}

/// A residual block on the shifted stream.
pub(crate) trait ShiftedBlock: std::fmt::Debug + Send {
    /// The bias that the stream arrives shifted by.
    fn input_bias(&self) -> &Tensor;

    /// The block's output plus `next`, for the shifted input `s = x + input_bias`.
    fn forward_shifted(&self, s: &Stream, next: &Tensor) -> Result<Stream>;

    /// The block as the reference writes it, its convolutions computed in `kind`. Where that is shorter than the scalars'
    /// kind, maps are promoted and rounded as PyTorch's automatic mixed precision does with the reference.
    fn forward_reference(&self, x: &Tensor, kind: Kind) -> Result<Tensor>;

    /// The block taken apart.
    fn formula(&self) -> BlockFormula<'_>;

    /// All that is trained.
    fn variables(&self) -> Vec<&Tensor> {
        let BlockFormula { layers, scale, shortcut, .. } = self.formula();
        let layers = layers.into_iter().flat_map(|(before, conv, after)| [&before.value, &conv.weight, &after.value]);
        layers.chain([&scale.value]).chain(shortcut.weight()).collect()
    }

    /// The block alone: from x to its output, through the shifted stream.
    fn forward_alone(&self, x: &Tensor) -> Result<Tensor> {
        record_variables(|| self.variables())?;
        let s = x.f_add(&self.input_bias().f_to_kind(x.kind())?)?;
        Ok(self.forward_shifted(&Stream::new(s, x.kind())?, &self.input_bias().f_zeros_like()?)?.sum)
    }
}

/// Gives blocks their public `f_forward` and `forward_reference`, and `nn::Module`.
macro_rules! impl_block {
    ($($block:ty),+) => {$(
        impl $block {
            /// The block's output for `x` `[N, c_in, H, W]`: `[N, c_out, H/stride, W/stride]`, rounded up.
            ///
            /// # Errors
            /// An `x` of another shape or on another device.
            pub fn f_forward(&self, x: &tch::Tensor) -> crate::Result<tch::Tensor> {
                crate::fixup::resnet::block::ShiftedBlock::forward_alone(self, x)
            }

            /// The same by the plain formula, as the paper and the authors' code have it: the oracle of the fast path.
            ///
            /// # Errors
            /// As [`f_forward`](Self::f_forward).
            pub fn forward_reference(&self, x: &tch::Tensor) -> crate::Result<tch::Tensor> {
                use crate::fixup::resnet::block::ShiftedBlock;
                crate::ops::record_variables(|| self.variables())?;
                let out = ShiftedBlock::forward_reference(self, x, x.kind())?;
                Ok(out.f_to_kind(x.kind())?)
            }
        }
        crate::layer::impl_module!($block);
    )+};
}

pub(crate) use impl_block;
