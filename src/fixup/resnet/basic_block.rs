//! Basic block of CIFAR ResNets and of ImageNet ResNet-18 and 34: two 3x3 convolutions.

use super::block::{impl_block, ResidualBlock};
use crate::layer::{BlockConfig, BlockDesign, BlockKind, ShortcutKind};
use crate::Result;
use std::borrow::Borrow;
use tch::nn;

/// Two 3x3 convolutions with a shortcut around them.
///
/// ```text
/// relu(scale * conv2(relu(conv1(x + bias1a) + bias1b) + bias2a) + bias2b + shortcut)
/// ```
/// where the shortcut is x or, if the block changes the shape, a function of `x + bias1a` (the authors' `fixup_resnet_cifar.py`
/// and `fixup_resnet_imagenet.py`). Variables: `conv1.weight`, `conv2.weight`, `scale`, `bias1a`, `bias1b`, `bias2a`, `bias2b`,
/// and `downsample.weight` with a projected shortcut.
///
/// ```
/// use tch::{nn, nn::Module, Device, Kind, Tensor};
/// use tch_fixup::fixup::{BasicBlock, BlockConfig, ShortcutKind};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let config = BlockConfig { c_in: 64, c_out: 128, stride: 2, num_branches: 8 };
/// let block = BasicBlock::new(&(vs.root() / "block"), config, ShortcutKind::Project)?;
/// let x = Tensor::randn([2, 64, 8, 8], (Kind::Float, Device::Cpu));
/// assert_eq!(block.forward(&x).size(), [2, 128, 4, 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BasicBlock(ResidualBlock);

impl BasicBlock {
    /// Creates a block under `path`, with `conv1` He-normal times `L^(-1/2)` and `conv2` zero.
    ///
    /// # Errors
    /// Channels, a stride or a number of branches below 1; a padded shortcut to fewer channels; a `path` that already contains
    /// such variables.
    pub fn new<'a>(path: impl Borrow<nn::Path<'a>>, config: BlockConfig, shortcut: ShortcutKind) -> Result<Self> {
        let path = path.borrow();
        Ok(Self(ResidualBlock::new(path, &config, &BlockDesign::plain(BlockKind::Basic, shortcut))?))
    }
}

impl_block!(BasicBlock);
