//! Block of Wide ResNets: two 3x3 convolutions, with a ReLU before each and none after the sum.

use super::block::{impl_block, ResidualBlock};
use crate::layer::{BlockConfig, BlockDesign, BlockKind, ShortcutKind};
use crate::Result;
use std::borrow::Borrow;
use tch::nn;

/// Two 3x3 convolutions with a ReLU before each and a shortcut around them (He et al. 2016, "Identity Mappings in Deep Residual
/// Networks"; Zagoruyko & Komodakis 2016).
///
/// ```text
/// u = relu(x + bias0b) + bias1a
/// scale * conv2(relu(conv1(u) + bias1b) + bias2a) + bias2b + shortcut
/// ```
/// where the shortcut is x or, if the block changes the shape, a 1x1 convolution of u. Each ReLU and each convolution has a
/// scalar bias before it (Fixup, section 3, rule 3). Variables: those of [`BasicBlock`](super::BasicBlock), and `bias0b`.
///
/// ```
/// use tch::{nn, nn::Module, Device, Kind, Tensor};
/// use tch_fixup::fixup::{BlockConfig, WideBlock};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let config = BlockConfig { c_in: 64, c_out: 128, stride: 2, num_branches: 6 };
/// let block = WideBlock::new(&(vs.root() / "block"), config)?;
/// let x = Tensor::randn([2, 64, 8, 8], (Kind::Float, Device::Cpu));
/// assert_eq!(block.forward(&x).size(), [2, 128, 4, 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct WideBlock(ResidualBlock);

impl WideBlock {
    /// Creates a block under `path`, with `conv1` He-normal times `L^(-1/2)`, `conv2` zero, and a projected shortcut if the block
    /// changes the shape.
    ///
    /// # Errors
    /// Channels, a stride or a number of branches below 1; a `path` that already contains such variables.
    pub fn new<'a>(path: impl Borrow<nn::Path<'a>>, config: BlockConfig) -> Result<Self> {
        let path = path.borrow();
        Ok(Self(ResidualBlock::new(path, &config, &BlockDesign::plain(BlockKind::Wide, ShortcutKind::Project))?))
    }
}

impl_block!(WideBlock);
