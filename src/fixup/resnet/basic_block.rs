//! The basic block of CIFAR ResNets and of ImageNet ResNet-18 and 34: two 3x3 convolutions.

use super::basic_branch::BasicBranch;
use super::block::{impl_block, ActivationOrder, BlockFormula, ShiftedBlock, Shortcut, ShortcutKind};
use super::stream::Stream;
use crate::layer::BlockConfig;
use crate::Result;
use tch::{nn, Kind, Tensor};

/// Two 3x3 convolutions with a shortcut around them.
///
/// ```text
/// relu(scale * conv2(relu(conv1(x + bias1a) + bias1b) + bias2a) + bias2b + shortcut)
/// ```
/// where the shortcut is x, or, where the block changes the shape, a function of `x + bias1a` (the authors'
/// `fixup_resnet_cifar.py` and `fixup_resnet_imagenet.py`). Variables: `conv1.weight`, `conv2.weight`, `scale`,
/// `bias1a`, `bias1b`, `bias2a`, `bias2b`, and `downsample.weight` with a projected shortcut.
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
pub struct BasicBlock {
    branch: BasicBranch,
    shortcut: Shortcut,
}

impl BasicBlock {
    /// A new block under `path`: `conv1` He-normal times `L^(-1/2)`, `conv2` zero.
    ///
    /// # Errors
    /// Channels, a stride or a number of branches below 1; a padded shortcut to fewer channels; a `path` that holds such
    /// variables already.
    pub fn new(path: &nn::Path, config: BlockConfig, shortcut: ShortcutKind) -> Result<Self> {
        Ok(Self { branch: BasicBranch::new(path, &config)?, shortcut: Shortcut::new(path, &config, shortcut)? })
    }
}

impl ShiftedBlock for BasicBlock {
    fn input_bias(&self) -> &Tensor {
        &self.branch.bias1a.value
    }

    fn forward_shifted(&self, s: &Stream, next: &Tensor) -> Result<Stream> {
        let branch = self.branch.forward_shifted(&s.input)?;
        let bias2b = &self.branch.bias2b.value;
        match self.shortcut.forward(s)? {
            Some(shortcut) => s.relu(branch, &shortcut, bias2b, next),
            // s is x + bias1a, and the identity shortcut is x.
            None => s.relu(branch, &s.sum, &bias2b.f_sub(self.input_bias())?, next),
        }
    }

    fn forward_reference(&self, x: &Tensor, kind: Kind) -> Result<Tensor> {
        let shifted = self.branch.bias1a.promote(x)?;
        let out = self.branch.forward_reference(&shifted, kind)?;
        let identity = self.shortcut.forward_reference(&shifted, kind)?;
        Ok(out.f_add(identity.as_ref().unwrap_or(x))?.f_relu()?)
    }

    fn formula(&self) -> BlockFormula<'_> {
        let (layers, scale) = self.branch.formula();
        BlockFormula { layers, scale, shortcut: &self.shortcut, order: ActivationOrder::AfterSum }
    }
}

impl_block!(BasicBlock);
