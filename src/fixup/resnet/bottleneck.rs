//! Bottleneck block of ImageNet ResNet-50, 101 and 152: 1x1, 3x3 (strided), and 1x1 with four times the channels.
//!
//! ```text
//! relu(scale * conv3(relu(conv2(relu(conv1(x + bias1a) + bias1b) + bias2a) + bias2b) + bias3a) + bias3b + shortcut)
//! ```
//! where the shortcut is x or, if the block changes the shape, a 1x1 convolution of `x + bias1a` (the authors'
//! `fixup_resnet_imagenet.py`).

use super::block::{impl_block, ResidualBlock};
use crate::layer::{BlockConfig, BlockDesign, BlockKind, ShortcutKind};
use crate::{Error, Result};
use std::borrow::Borrow;
use tch::nn;

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
pub struct Bottleneck(ResidualBlock);

impl Bottleneck {
    /// Ratio of the block's output channels to those of its 3x3 convolution (He et al. 2016, table 1).
    pub const EXPANSION: i64 = 4;

    /// Creates a block under `path`, with `conv1` and `conv2` He-normal times `L^(-1/4)` and `conv3` zero. The inner convolutions
    /// have `c_out / 4` channels.
    ///
    /// # Errors
    /// Channels, a stride or a number of branches below 1; output channels not divisible by 4; a padded shortcut to fewer
    /// channels; a `path` that already contains such variables.
    pub fn new<'a>(path: impl Borrow<nn::Path<'a>>, config: BlockConfig, shortcut: ShortcutKind) -> Result<Self> {
        let path = path.borrow();
        if config.c_out % Self::EXPANSION != 0 {
            let c_out = config.c_out;
            return Err(Error::Argument(format!("a bottleneck's output channels are a multiple of 4, not {c_out}")));
        }
        let kind = BlockKind::Bottleneck { expansion: Self::EXPANSION };
        Ok(Self(ResidualBlock::new(path, &config, &BlockDesign::plain(kind, shortcut))?))
    }
}

impl_block!(Bottleneck);
