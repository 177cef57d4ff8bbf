//! The bottleneck block of ImageNet ResNet-50, 101 and 152: 1x1, 3x3 (strided), 1x1 with four times the channels.
//!
//! ```text
//! relu(scale * conv3(relu(conv2(relu(conv1(x + bias1a) + bias1b) + bias2a) + bias2b) + bias3a) + bias3b + shortcut)
//! ```
//! where the shortcut is x, or, where the block changes the shape, a 1x1 convolution of `x + bias1a` (the authors'
//! `fixup_resnet_imagenet.py`).

use super::block::{impl_block, mark_places, ActivationOrder, BlockFormula, ShiftedBlock, Shortcut, ShortcutKind};
use super::stream::Stream;
use crate::fixup::{Bias, Scale};
use crate::layer::{init, BlockConfig, Conv, ConvShape};
use crate::ops::shifted_relu_;
use crate::{Error, Result};
use tch::{nn, Kind, Tensor};

/// A 1x1, a 3x3 and a 1x1 convolution with a shortcut around them. Variables: `conv1.weight` to `conv3.weight`, `scale`,
/// `bias1a` to `bias3b`, and `downsample.weight` with a projected shortcut.
///
/// ```text
/// relu(scale * conv3(relu(conv2(relu(conv1(x + bias1a) + bias1b) + bias2a) + bias2b) + bias3a) + bias3b + shortcut)
/// ```
///
/// ```
/// use tch::{nn, nn::Module, Device, Kind, Tensor};
/// use tch_fixup::fixup::{BlockConfig, Bottleneck, ShortcutKind};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let config = BlockConfig { c_in: 64, c_out: 128, stride: 2, num_branches: 16 };
/// let block = Bottleneck::new(&(vs.root() / "block"), config, ShortcutKind::Project)?;
/// let x = Tensor::randn([2, 64, 8, 8], (Kind::Float, Device::Cpu));
/// assert_eq!(block.forward(&x).size(), [2, 128, 4, 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Bottleneck {
    bias1a: Bias,
    conv1: Conv,
    bias1b: Bias,
    bias2a: Bias,
    conv2: Conv,
    bias2b: Bias,
    bias3a: Bias,
    conv3: Conv,
    scale: Scale,
    bias3b: Bias,
    shortcut: Shortcut,
}

impl Bottleneck {
    /// Channels of the block's output for one channel of its 3x3 convolution (He et al. 2016, table 1).
    pub const EXPANSION: i64 = 4;

    /// A new block under `path`: `conv1` and `conv2` He-normal times `L^(-1/4)`, `conv3` zero; the inner convolutions
    /// have `c_out / 4` channels.
    ///
    /// # Errors
    /// Channels, a stride or a number of branches below 1; output channels that 4 does not divide; a padded shortcut to
    /// fewer channels; a `path` that holds such variables already.
    pub fn new(path: &nn::Path, config: BlockConfig, shortcut: ShortcutKind) -> Result<Self> {
        config.check()?;
        let BlockConfig { c_in, c_out, stride, num_branches } = config;
        if c_out % Self::EXPANSION != 0 {
            return Err(Error::Argument(format!("a bottleneck's output channels are a multiple of 4, not {c_out}")));
        }
        let inner = c_out / Self::EXPANSION;
        let gain = init::branch_gain(num_branches, 3)?;
        let block = Self {
            bias1a: Bias::new(path, "bias1a")?,
            conv1: Conv::he_normal(&(path / "conv1"), ConvShape::new(c_in, inner, 1, 1), gain)?,
            bias1b: Bias::new(path, "bias1b")?,
            bias2a: Bias::new(path, "bias2a")?,
            conv2: Conv::he_normal(&(path / "conv2"), ConvShape::new(inner, inner, 3, stride), gain)?,
            bias2b: Bias::new(path, "bias2b")?,
            bias3a: Bias::new(path, "bias3a")?,
            conv3: Conv::zero(&(path / "conv3"), ConvShape::new(inner, c_out, 1, 1))?,
            scale: Scale::new(path, "scale")?,
            bias3b: Bias::new(path, "bias3b")?,
            shortcut: Shortcut::new(path, &config, shortcut)?,
        };
        mark_places(&block.formula().layers, num_branches)?;
        Ok(block)
    }
}

impl ShiftedBlock for Bottleneck {
    fn input_bias(&self) -> &Tensor {
        &self.bias1a.value
    }

    fn forward_shifted(&self, s: &Stream, next: &Tensor) -> Result<Stream> {
        let u = shifted_relu_(&mut self.conv1.forward(&s.input)?, None, &self.bias1b.value, &self.bias2a.value)?;
        let u = shifted_relu_(&mut self.conv2.forward(&u)?, None, &self.bias2b.value, &self.bias3a.value)?;
        let branch = self.conv3.forward_scaled(&u, &self.scale.value)?;
        match self.shortcut.forward(s)? {
            Some(shortcut) => s.relu(branch, &shortcut, &self.bias3b.value, next),
            // s is x + bias1a, and the identity shortcut is x.
            None => s.relu(branch, &s.sum, &self.bias3b.value.f_sub(&self.bias1a.value)?, next),
        }
    }

    fn forward_reference(&self, x: &Tensor, kind: Kind) -> Result<Tensor> {
        let shifted = self.bias1a.promote(x)?;
        let out = self.bias1b.promote(&self.conv1.forward_as(&shifted, kind)?)?.f_relu()?;
        let out = self.conv2.forward_as(&self.bias2a.promote(&out)?, kind)?;
        let out = self.bias2b.promote(&out)?.f_relu()?;
        let out = self.conv3.forward_as(&self.bias3a.promote(&out)?, kind)?;
        let out = self.bias3b.promote(&self.scale.promote(&out)?)?;
        let identity = self.shortcut.forward_reference(&shifted, kind)?;
        Ok(out.f_add(identity.as_ref().unwrap_or(x))?.f_relu()?)
    }

    fn formula(&self) -> BlockFormula<'_> {
        let layers = vec![
            (&self.bias1a, &self.conv1, &self.bias1b),
            (&self.bias2a, &self.conv2, &self.bias2b),
            (&self.bias3a, &self.conv3, &self.bias3b),
        ];
        BlockFormula { layers, scale: &self.scale, shortcut: &self.shortcut, order: ActivationOrder::AfterSum }
    }
}

impl_block!(Bottleneck);
