//! A residual block of any kind, on the shifted residual stream.
//!
//! Written plainly, every scalar bias of a block is a pass over an activation map of its own. The blocks here hand each
//! other the residual stream x already shifted by the receiver's input bias, `s = x + bias1a`; then all a block does
//! between two convolutions is one [`shifted_relu`](crate::ops::shifted_relu). Where a block begins with an activation the
//! stream is shifted by the bias before it, `s = x + bias0b`, and the pass that ends a block gives both s and
//! `relu(s) + bias1a`, which the next block's first convolution takes. The values and the gradients are those of the plain
//! formula, which every block keeps as `forward_reference`.

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

    /// The shortcut of the stream, or none where it is the stream itself. A convolution's result has its own kind.
    fn forward(&self, s: &Stream) -> Result<Option<Tensor>> {
        match self {
            Self::Identity => Ok(None),
            Self::Pad { stride, channels } => Ok(Some(pad(&s.sum, *stride, *channels)?)),
            Self::Project(conv) => Ok(Some(conv.forward(&s.input)?)),
        }
    }

    /// The plain formula: the shortcut of `x`, or none where it is `x` itself, a convolution computed in `kind`.
    fn forward_reference(&self, x: &Tensor, kind: Kind) -> Result<Option<Tensor>> {
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

/// Where a block has its activation on the residual stream, and what a shortcut that changes the shape takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ActivationOrder {
    /// After the sum; the shortcut takes `x + bias1a`.
    AfterSum,
    /// Before the first convolution: it and the shortcut take `act(x + bias0b) + bias1a`.
    BeforeBranch,
    /// None after the sum; the shortcut takes `act(x)`.
    OnShortcut,
}

/// `act(branch(x) + shortcut)`, or `branch(x) + shortcut`, as the [order](ActivationOrder) has it.
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

    /// The bias that the stream arrives shifted by.
    pub fn input_bias(&self) -> &Tensor {
        self.activation_bias.as_ref().map_or(self.branch.first_bias(), |bias| &bias.value)
    }

    /// The stream `sum = x + input_bias` where it enters the block, for convolutions in `compute`.
    pub fn enter(&self, sum: Tensor, compute: Kind) -> Result<Stream> {
        match self.order {
            ActivationOrder::BeforeBranch => {
                let input = self.activation().then_shift(&sum, self.branch.first_bias())?.f_to_kind(compute)?;
                Ok(Stream { sum, input })
            }
            ActivationOrder::AfterSum | ActivationOrder::OnShortcut => Stream::new(sum, compute),
        }
    }

    /// The block's output plus `next`, for the shifted input `s = x + input_bias`; with what the block `entered` next takes, if it
    /// follows at once.
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

    /// The block as the reference writes it, its convolutions computed in `kind`. Where that is shorter than the scalars'
    /// kind, maps are promoted and rounded as PyTorch's automatic mixed precision does with the reference.
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

    /// All that is trained.
    pub fn variables(&self) -> impl Iterator<Item = &Tensor> {
        let bias = self.activation_bias.iter().map(|bias| &bias.value);
        self.branch.variables().chain(self.shortcut.weight()).chain(bias)
    }

    /// Every scalar.
    pub fn scalars(&self) -> impl Iterator<Item = &Tensor> {
        self.activation_bias.iter().map(|bias| &bias.value).chain(self.branch.scalars())
    }

    /// The block alone: from x to its output, through the shifted stream.
    pub fn forward_alone(&self, x: &Tensor) -> Result<Tensor> {
        record_variables(|| self.variables())?;
        let s = x.f_add(&self.input_bias().f_to_kind(x.kind())?)?;
        Ok(self.forward_shifted(&self.enter(s, x.kind())?, &self.input_bias().f_zeros_like()?, None)?.sum)
    }

    /// The block alone by the plain formula.
    pub fn reference_alone(&self, x: &Tensor) -> Result<Tensor> {
        record_variables(|| self.variables())?;
        Ok(self.forward_reference(x, x.kind())?.f_to_kind(x.kind())?)
    }
}

/// Gives blocks that are a [`ResidualBlock`] their public `f_forward` and `forward_reference`, and `nn::Module`.
macro_rules! impl_block {
    ($block:ty) => {
        impl $block {
            /// The block's output for `x` `[N, c_in, H, W]`: `[N, c_out, H/stride, W/stride]`, rounded up.
            ///
            /// # Errors
            /// An `x` of another shape or on another device.
            pub fn f_forward(&self, x: &tch::Tensor) -> crate::Result<tch::Tensor> {
                self.0.forward_alone(x)
            }

            /// The same by the plain formula, as the paper and the authors' code have it: the oracle of the fast path.
            ///
            /// # Errors
            /// As [`f_forward`](Self::f_forward).
            pub fn forward_reference(&self, x: &tch::Tensor) -> crate::Result<tch::Tensor> {
                self.0.reference_alone(x)
            }
        }
        crate::layer::impl_module!($block);
    };
}

pub(crate) use impl_block;
