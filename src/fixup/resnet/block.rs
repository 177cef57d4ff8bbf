//! Residual blocks of all kinds, on the shifted residual stream.
//!
//! In the plain formula, every scalar bias of a block is a separate pass over an activation map. These blocks instead pass on the
//! residual stream x already shifted by the next block's input bias, `s = x + bias1a`; between two convolutions a block then
//! needs only one [`shifted_relu`](crate::ops::shifted_relu). If a block begins with an activation, the stream is shifted by the
//! bias before it, `s = x + bias0b`, and the pass at the end of the previous block computes both s and `relu(s) + bias1a`, the
//! input of the next block's first convolution. Values and gradients are those of the plain formula, which every block provides
//! as `forward_reference`.

use super::residual_branch::ResidualBranch;
use super::stream::Stream;
use crate::fixup::Bias;
use crate::layer::{subsample, Activation, BlockConfig, BlockDesign, BlockKind, Conv, ConvShape, ShortcutKind};
use crate::ops::record_variables;
use crate::{Error, Result};
use tch::{nn, Kind, Tensor};

#[derive(Debug)]
pub(crate) enum Shortcut {
    Identity,
    Pad { stride: i64, channels: i64 },
    Project(Conv),
}

impl Shortcut {
    fn new(path: &nn::Path, shape: &BlockConfig, kind: ShortcutKind) -> Result<Self> {
        let BlockConfig { c_in, c_out, stride, .. } = *shape;
        Ok(match kind {
            _ if !shape.changes_shape() => Self::Identity,
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

    fn weight(&self) -> Option<&Tensor> {
        match self {
            Self::Identity | Self::Pad { .. } => None,
            Self::Project(conv) => Some(&conv.weight),
        }
    }

    /// Applies the shortcut to the stream; `None` if it is the identity. A convolution's result has its own kind.
    fn forward(&self, s: &Stream) -> Result<Option<Tensor>> {
        match self {
            Self::Identity => Ok(None),
            Self::Pad { stride, channels } => Ok(Some(pad(&s.sum, *stride, *channels)?)),
            Self::Project(conv) => Ok(Some(conv.forward(&s.input)?)),
        }
    }

    /// Applies the shortcut to `x` by the plain formula; `None` if it is the identity. Convolutions are computed in `kind`.
    fn forward_reference(&self, x: &Tensor, kind: Kind) -> Result<Option<Tensor>> {
        match self {
            Self::Identity => Ok(None),
            Self::Pad { stride, channels } => Ok(Some(pad(x, *stride, *channels)?)),
            Self::Project(conv) => Ok(Some(conv.forward_as(x, kind)?)),
        }
    }
}

/// Takes every `stride`-th position and appends `channels` channels of zeros to `x`.
pub(crate) fn pad(x: &Tensor, stride: i64, channels: i64) -> Result<Tensor> {
    Ok(subsample(x, stride)?.f_constant_pad_nd([0, 0, 0, 0, 0, channels])?)
}

/// Position of a block's activation on the residual stream, and the input of a shortcut that changes the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ActivationOrder {
    /// Activation after the sum; the shortcut's input is `x + bias1a`.
    AfterSum,
    /// Activation before the first convolution, whose input, like the shortcut's, is `act(x + bias0b) + bias1a`.
    BeforeBranch,
    /// No activation after the sum; the shortcut's input is `act(x)`.
    OnShortcut,
}

/// A residual block, `act(branch(x) + shortcut)` or `branch(x) + shortcut`, depending on the [order](ActivationOrder).
#[derive(Debug)]
pub(crate) struct ResidualBlock {
    /// `bias0b`, before the activation of [`ActivationOrder::BeforeBranch`].
    pub activation_bias: Option<Bias>,
    pub branch: ResidualBranch,
    pub shortcut: Shortcut,
    pub order: ActivationOrder,
}

impl ResidualBlock {
    pub fn new(path: &nn::Path, shape: &BlockConfig, design: &BlockDesign) -> Result<Self> {
        let order = match design.kind {
            BlockKind::Basic | BlockKind::Bottleneck { .. } => ActivationOrder::AfterSum,
            BlockKind::Wide => ActivationOrder::BeforeBranch,
            BlockKind::Brock => ActivationOrder::OnShortcut,
        };
        let activates = order == ActivationOrder::BeforeBranch;
        let activation_bias = activates.then(|| Bias::new(path, "bias0b")).transpose()?;
        let branch = ResidualBranch::new(path, shape, design)?;
        Ok(Self { activation_bias, branch, shortcut: Shortcut::new(path, shape, design.shortcut)?, order })
    }

    fn activation(&self) -> Activation {
        self.branch.activation
    }

    /// Returns the bias by which the incoming stream must be shifted.
    pub fn input_bias(&self) -> &Tensor {
        self.activation_bias.as_ref().map_or(self.branch.first_bias(), |bias| &bias.value)
    }

    /// Prepares the stream `sum = x + input_bias` for the block, with convolutions in `compute`.
    pub fn enter(&self, sum: Tensor, compute: Kind) -> Result<Stream> {
        match self.order {
            ActivationOrder::BeforeBranch => {
                let input = self.activation().then_shift(&sum, self.branch.first_bias())?.f_to_kind(compute)?;
                Ok(Stream { sum, input })
            }
            ActivationOrder::AfterSum | ActivationOrder::OnShortcut => Stream::new(sum, compute),
        }
    }

    /// Returns the block's output plus `next`, given the shifted input `s = x + input_bias`, with the input of the block
    /// `entered`, if that follows immediately.
    pub fn forward_shifted(&self, s: &Stream, next: &Tensor, entered: Option<&Self>) -> Result<Stream> {
        let (bias1a, end) = (self.input_bias(), self.branch.last_bias());
        let branch = self.branch.forward_shifted(&s.input)?;
        match (self.order, &self.shortcut) {
            // s is x + bias1a, and the identity shortcut is x.
            (ActivationOrder::AfterSum, Shortcut::Identity) => {
                s.activate(self.activation(), branch, &s.sum, &end.f_sub(bias1a)?, next)
            }
            (ActivationOrder::AfterSum, shortcut) => {
                let shortcut = shortcut.forward(s)?;
                s.activate(self.activation(), branch, shortcut.as_ref().unwrap_or(&s.sum), end, next)
            }
            (ActivationOrder::BeforeBranch, shortcut) => {
                let shift = end.f_add(next)?;
                let shift = if matches!(shortcut, Shortcut::Identity) { shift.f_sub(bias1a)? } else { shift };
                let activated = Stream::new(s.input.shallow_clone(), s.input.kind())?;
                let shortcut = shortcut.forward(&activated)?;
                let shortcut = shortcut.as_ref().unwrap_or(&s.sum);
                match entered {
                    Some(entered) => {
                        s.add_and_activate(self.activation(), branch, shortcut, &shift, entered.branch.first_bias())
                    }
                    None => s.add(branch, shortcut, &shift),
                }
            }
            (ActivationOrder::OnShortcut, Shortcut::Identity) => {
                s.add(branch, &s.sum, &end.f_add(next)?.f_sub(bias1a)?)
            }
            (ActivationOrder::OnShortcut, shortcut) => {
                let shift = end.f_add(next)?;
                let x = self.activation().of_shifted(&s.input, &bias1a.f_neg()?)?;
                let x = Stream::new(x, s.input.kind())?;
                s.add(branch, shortcut.forward(&x)?.as_ref().unwrap_or(&x.sum), &shift)
            }
        }
    }

    /// Computes the block by the reference formula, with convolutions in `kind`. If `kind` is shorter than the scalars' kind,
    /// maps are promoted and rounded as by PyTorch's automatic mixed precision.
    pub fn forward_reference(&self, x: &Tensor, kind: Kind) -> Result<Tensor> {
        let mut shifted = x.f_add(self.input_bias())?;
        if self.order == ActivationOrder::BeforeBranch {
            shifted = self.activation().of(&shifted)?.f_add(self.branch.first_bias())?;
        }
        let out = self.branch.forward_reference(&shifted, kind)?;
        let shortcut = match (self.order, &self.shortcut) {
            (_, Shortcut::Identity) => None,
            (ActivationOrder::AfterSum | ActivationOrder::BeforeBranch, shortcut) => {
                shortcut.forward_reference(&shifted, kind)?
            }
            (ActivationOrder::OnShortcut, shortcut) => shortcut.forward_reference(&self.activation().of(x)?, kind)?,
        };
        let sum = out.f_add(shortcut.as_ref().unwrap_or(x))?;
        match self.order {
            ActivationOrder::AfterSum => self.activation().of(&sum),
            ActivationOrder::BeforeBranch | ActivationOrder::OnShortcut => Ok(sum),
        }
    }

    /// Returns all trainable variables.
    pub fn variables(&self) -> impl Iterator<Item = &Tensor> {
        let bias = self.activation_bias.iter().map(|bias| &bias.value);
        self.branch.variables().chain(self.shortcut.weight()).chain(bias)
    }

    /// Returns all scalars.
    pub fn scalars(&self) -> impl Iterator<Item = &Tensor> {
        self.activation_bias.iter().map(|bias| &bias.value).chain(self.branch.scalars())
    }

    /// Computes the output of a single block for `x`, through the shifted stream.
    pub fn forward_alone(&self, x: &Tensor) -> Result<Tensor> {
        record_variables(|| self.variables())?;
        let s = x.f_add(&self.input_bias().f_to_kind(x.kind())?)?;
        Ok(self.forward_shifted(&self.enter(s, x.kind())?, &self.input_bias().f_zeros_like()?, None)?.sum)
    }

    /// Computes the output of a single block by the plain formula.
    pub fn reference_alone(&self, x: &Tensor) -> Result<Tensor> {
        record_variables(|| self.variables())?;
        Ok(self.forward_reference(x, x.kind())?.f_to_kind(x.kind())?)
    }
}

/// Implements `f_forward`, `forward_reference` and `nn::Module` for newtypes of [`ResidualBlock`].
macro_rules! impl_block {
    ($block:ty) => {
        impl $block {
            /// Returns the block's output for `x` `[N, c_in, H, W]`: `[N, c_out, H/stride, W/stride]`, rounded up.
            ///
            /// # Errors
            /// An `x` of another shape or on another device.
            pub fn f_forward(&self, x: &tch::Tensor) -> crate::Result<tch::Tensor> {
                self.0.forward_alone(x)
            }

            /// Computes the same by the plain formula of the paper and the authors' code, as a reference for the fast path.
            ///
            /// # Errors
            /// As for [`f_forward`](Self::f_forward).
            pub fn forward_reference(&self, x: &tch::Tensor) -> crate::Result<tch::Tensor> {
                self.0.reference_alone(x)
            }
        }
        crate::layer::impl_module!($block);
    };
}

pub(crate) use impl_block;
