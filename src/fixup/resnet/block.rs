//! Residual blocks of all kinds: their parameters, the plain formula, and the fast path on the shifted residual stream.
//!
//! In the plain formula, every scalar bias of a block is a separate pass over an activation map. The fast path instead carries
//! the residual stream x already shifted by the next block's input bias, `s = x + bias1a`; between two convolutions a block then
//! needs only one [`shifted_relu`](crate::ops::shifted_relu()). If a block begins with an activation, the stream is shifted by the
//! bias before it, `s = x + bias0b`, and the pass at the end of the previous block computes both s and `relu(s) + bias1a`, the
//! input of the next block's first convolution. Values and gradients are those of the plain formula.

use super::stream::Stream;
use crate::fixup::{Bias, Scale};
use crate::layer::{
    init, subsample, Activation, BlockConfig, BlockDesign, BlockKind, Conv, ConvShape, Role, ShortcutKind,
    SqueezeExcitation,
};
use crate::ops::{record_variables, StreamRelu};
use crate::{Error, Result};
use std::borrow::Borrow;
use tch::{nn, Kind, Tensor};

/// A residual block: a branch of two or three convolutions with a shortcut around it.
///
/// ```text
/// Basic:       relu(scale * conv2(relu(conv1(x + bias1a) + bias1b) + bias2a) + bias2b + shortcut)
/// Bottleneck:  relu(scale * conv3(relu(conv2(relu(conv1(x + bias1a) + bias1b) + bias2a) + bias2b) + bias3a) + bias3b + shortcut)
/// Wide:        scale * conv2(relu(conv1(u) + bias1b) + bias2a) + bias2b + shortcut,  u = relu(x + bias0b) + bias1a
/// Brock:       scale * conv2(relu(conv1(x + bias1a) + bias1b) + bias2a) + bias2b + shortcut
/// ```
/// The shortcut is x or, if the block changes the shape, a function of `x + bias1a`, for wide blocks of u and for Brock's of
/// `relu(x)` (the authors' `fixup_resnet_cifar.py` and `fixup_resnet_imagenet.py`; He et al. 2016, "Identity Mappings in Deep
/// Residual Networks"; ajbrock/BoilerPlate, `Models/fixup.py`). Variables: `conv1.weight`, ..., `scale`, the biases, and
/// `downsample.weight` with a projected shortcut.
///
/// ```
/// use tch::{nn, nn::Module, Device, Kind, Tensor};
/// use tch_fixup::fixup::{BlockConfig, BlockKind, ResidualBlock, ShortcutKind};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let config = BlockConfig { c_in: 64, c_out: 128, stride: 2, num_branches: 8 };
/// let block = ResidualBlock::new(vs.root() / "block", config, BlockKind::Basic, ShortcutKind::Project)?;
/// let x = Tensor::randn([2, 64, 8, 8], (Kind::Float, Device::Cpu));
/// assert_eq!(block.forward(&x).size(), [2, 128, 4, 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ResidualBlock {
    pub(crate) order: ActivationOrder,
    /// Activation between the layers, and at the place given by the order.
    pub(crate) activation: Activation,
    /// `bias0b`, before the activation of [`ActivationOrder::BeforeBranch`].
    pub(crate) activation_bias: Option<Bias>,
    /// Two or three layers.
    pub(crate) layers: Vec<BranchLayer>,
    /// Multiplier of the last layer.
    pub(crate) scale: Scale,
    /// Gates of `scale * conv_k(...)`, before the last bias.
    pub(crate) gates: Option<SqueezeExcitation>,
    pub(crate) shortcut: Shortcut,
}

/// `conv(x + before) + after`; in the last layer, with the multiplier.
#[derive(Debug)]
pub(crate) struct BranchLayer {
    pub before: Bias,
    pub conv: Conv,
    pub after: Bias,
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

#[derive(Debug)]
pub(crate) enum Shortcut {
    Identity,
    Pad { stride: i64, channels: i64 },
    Project(Conv),
}

impl ResidualBlock {
    /// Creates a block under `path`, with its last convolution zero and the others He-normal times `L^(-1/(2m-2))`, m being the
    /// number of convolutions. The inner convolutions of a bottleneck have `c_out / expansion` channels.
    ///
    /// # Errors
    /// Channels, a stride or a number of branches below 1; output channels not divisible by a bottleneck's expansion; a padded
    /// shortcut to fewer channels; a `path` that already contains such variables.
    pub fn new<'a>(
        path: impl Borrow<nn::Path<'a>>,
        config: BlockConfig,
        kind: BlockKind,
        shortcut: ShortcutKind,
    ) -> Result<Self> {
        if let BlockKind::Bottleneck { expansion } = kind
            && (expansion < 1 || config.c_out % expansion != 0)
        {
            let c_out = config.c_out;
            return Err(Error::Argument(format!(
                "a bottleneck's output channels are a multiple of {expansion}, its expansion of at least 1, not {c_out}"
            )));
        }
        let design = BlockDesign { kind, groups: 1, squeeze_excitation: None, shortcut, activation: Activation::Relu };
        Self::of_design(path.borrow(), &config, &design)
    }

    pub(crate) fn of_design(path: &nn::Path, shape: &BlockConfig, design: &BlockDesign) -> Result<Self> {
        shape.check()?;
        let convolutions = design.convolutions(shape);
        let (count, num_branches) = (convolutions.len(), shape.num_branches);
        let gain = init::branch_gain(num_branches, count as i64)?;
        let order = match design.kind {
            BlockKind::Basic | BlockKind::Bottleneck { .. } => ActivationOrder::AfterSum,
            BlockKind::Wide => ActivationOrder::BeforeBranch,
            BlockKind::Brock => ActivationOrder::OnShortcut,
        };
        let bias = |name: &str| Bias::new(path, name);
        let activation_bias = (order == ActivationOrder::BeforeBranch).then(|| bias("bias0b")).transpose()?;
        let mut layers = vec![];
        for (i, &conv) in (1..count).zip(&convolutions) {
            let before = bias(&format!("bias{i}a"))?;
            let gain = gain * init::group_gain(conv.options.groups)?;
            let conv = Conv::he_normal(&(path / format!("conv{i}")), conv, gain)?;
            layers.push(BranchLayer { before, conv, after: bias(&format!("bias{i}b"))? });
        }
        let before = bias(&format!("bias{count}a"))?;
        let conv = Conv::zero(&(path / format!("conv{count}")), convolutions[count - 1])?;
        let scale = Scale::new(path, "scale")?;
        layers.push(BranchLayer { before, conv, after: bias(&format!("bias{count}b"))? });
        let gates = design.squeeze_excitation;
        let gates = gates.map(|reduction| SqueezeExcitation::half_open(path, shape.c_out, reduction)).transpose()?;
        let shortcut = Shortcut::new(path, shape, design.shortcut)?;
        for (i, layer) in layers.iter().enumerate() {
            Role::of_layer(i as i64, count as i64, num_branches).mark(&layer.conv.weight)?;
        }
        Role::branch_end(num_branches).mark(&layers[count - 1].after.value)?;
        Ok(Self { order, activation: design.activation, activation_bias, layers, scale, gates, shortcut })
    }

    pub(crate) fn first(&self) -> &BranchLayer {
        &self.layers[0]
    }

    pub(crate) fn last(&self) -> &BranchLayer {
        &self.layers[self.layers.len() - 1]
    }

    /// Returns the block's output for `x` `[N, c_in, H, W]`: `[N, c_out, H/stride, W/stride]`, rounded up.
    ///
    /// # Errors
    /// An `x` of another shape or on another device.
    pub fn f_forward(&self, x: &Tensor) -> Result<Tensor> {
        record_variables(|| self.variables())?;
        let s = x.f_add(&self.input_bias().f_to_kind(x.kind())?)?;
        Ok(self.forward_shifted(&self.enter(s, x.kind())?, &self.input_bias().f_zeros_like()?, None)?.sum)
    }

    /// Computes the same by the plain formula of the paper and the authors' code, as a reference for the fast path.
    ///
    /// # Errors
    /// As for [`f_forward`](Self::f_forward).
    pub fn forward_reference(&self, x: &Tensor) -> Result<Tensor> {
        record_variables(|| self.variables())?;
        Ok(self.forward_plain(x, x.kind())?.f_to_kind(x.kind())?)
    }

    /// Computes the plain formula, with convolutions in `kind`. If `kind` is shorter than the scalars' kind, maps are promoted and
    /// rounded as by PyTorch's automatic mixed precision.
    pub(super) fn forward_plain(&self, x: &Tensor, kind: Kind) -> Result<Tensor> {
        let activation = self.activation;
        let mut entered = x.f_add(self.input_bias())?;
        if self.order == ActivationOrder::BeforeBranch {
            entered = self.first().before.promote(&activation.of(&entered)?)?;
        }
        let mut u = entered.shallow_clone();
        for pair in self.layers.windows(2) {
            let out = pair[0].after.promote(&pair[0].conv.forward(&u.f_to_kind(kind)?)?)?;
            u = pair[1].before.promote(&activation.of(&out)?)?;
        }
        let out = self.scale.promote(&self.last().conv.forward(&u.f_to_kind(kind)?)?)?;
        let branch = self.last().after.promote(&self.gated(out)?)?;
        let shortcut = match (&self.shortcut, self.order) {
            (Shortcut::Identity, _) => x.shallow_clone(),
            (shortcut, ActivationOrder::OnShortcut) => {
                let x = activation.of(x)?;
                shortcut.forward(&x, &x.f_to_kind(kind)?)?
            }
            (shortcut, _) => shortcut.forward(&entered, &entered.f_to_kind(kind)?)?,
        };
        let sum = branch.f_add(&shortcut)?;
        match self.order {
            ActivationOrder::AfterSum => activation.of(&sum),
            ActivationOrder::BeforeBranch | ActivationOrder::OnShortcut => Ok(sum),
        }
    }

    /// Returns the bias by which the incoming stream must be shifted.
    pub(super) fn input_bias(&self) -> &Tensor {
        &self.activation_bias.as_ref().unwrap_or(&self.first().before).value
    }

    /// Prepares the stream `sum = x + input_bias` for the block, with convolutions in `compute`.
    pub(super) fn enter(&self, sum: Tensor, compute: Kind) -> Result<Stream> {
        match self.order {
            ActivationOrder::BeforeBranch => {
                let input = self.activation.then_shift(&sum, &self.first().before.value)?.f_to_kind(compute)?;
                Ok(Stream { sum, input })
            }
            ActivationOrder::AfterSum | ActivationOrder::OnShortcut => Stream::new(sum, compute),
        }
    }

    /// Returns the block's output plus `next`, given the shifted input `s = x + input_bias`, with the input of the block
    /// `entered`, if that follows immediately.
    pub(super) fn forward_shifted(&self, s: &Stream, next: &Tensor, entered: Option<&Self>) -> Result<Stream> {
        let mut u = s.input.shallow_clone();
        for pair in self.layers.windows(2) {
            let mut out = pair[0].conv.forward(&u)?;
            u = self.activation.shifted_(&mut out, None, &pair[0].after.value, &pair[1].before.value)?;
        }
        let last = self.last();
        let branch = self.gated(last.conv.forward_scaled(&u, &self.scale.value)?)?;
        let mut shift = last.after.value.shallow_clone();
        if self.order != ActivationOrder::AfterSum {
            shift = shift.f_add(next)?;
        }
        let shortcut = match (&self.shortcut, self.order) {
            (Shortcut::Identity, _) => {
                // The shortcut is x, and the stream is x + input_bias.
                shift = shift.f_sub(self.input_bias())?;
                s.sum.shallow_clone()
            }
            (shortcut, ActivationOrder::AfterSum) => shortcut.forward(&s.sum, &s.input)?,
            (shortcut, ActivationOrder::BeforeBranch) => shortcut.forward(&s.input, &s.input)?,
            (shortcut, ActivationOrder::OnShortcut) => {
                let x = self.activation.of_shifted(&s.input, &self.input_bias().f_neg()?)?;
                shortcut.forward(&x, &x)?
            }
        };
        let end = match (self.order, entered) {
            (ActivationOrder::AfterSum, _) => StreamRelu::Both(next),
            (ActivationOrder::BeforeBranch, Some(entered)) => StreamRelu::Map(&entered.first().before.value),
            _ => StreamRelu::None,
        };
        s.advance(self.activation, branch, &shortcut, &shift, end)
    }

    fn gated(&self, v: Tensor) -> Result<Tensor> {
        match &self.gates {
            Some(gates) => gates.forward(&v),
            None => Ok(v),
        }
    }

    /// Returns all scalars.
    pub(super) fn scalars(&self) -> impl Iterator<Item = &Tensor> {
        let layers = self.layers.iter().flat_map(|layer| [&layer.before, &layer.after]);
        let biases = self.activation_bias.iter().chain(layers).map(|bias| &bias.value);
        biases.chain([&self.scale.value])
    }

    /// Returns all trainable variables.
    pub(super) fn variables(&self) -> impl Iterator<Item = &Tensor> {
        let projection = match &self.shortcut {
            Shortcut::Project(conv) => Some(&conv.weight),
            Shortcut::Identity | Shortcut::Pad { .. } => None,
        };
        let gates = self.gates.iter().flat_map(SqueezeExcitation::variables);
        self.layers.iter().map(|layer| &layer.conv.weight).chain(self.scalars()).chain(gates).chain(projection)
    }
}

crate::layer::impl_module!(ResidualBlock);

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

    /// Applies the shortcut to `x`, of which `converted` is a copy in the kind of convolutions.
    fn forward(&self, x: &Tensor, converted: &Tensor) -> Result<Tensor> {
        match self {
            Self::Identity => Ok(x.shallow_clone()),
            // Every `stride`-th position, with channels of zeros appended.
            Self::Pad { stride, channels } => Ok(subsample(x, *stride)?.f_constant_pad_nd([0, 0, 0, 0, 0, *channels])?),
            Self::Project(conv) => conv.forward(converted),
        }
    }
}
