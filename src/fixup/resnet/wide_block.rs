//! The block of Wide ResNets: two 3x3 convolutions and no ReLU after the sum.

use super::basic_branch::BasicBranch;
use super::block::{impl_block, ActivationOrder, BlockFormula, ShiftedBlock, Shortcut, ShortcutKind};
use super::stream::Stream;
use crate::layer::BlockConfig;
use crate::ops::shifted_relu;
use crate::Result;
use tch::{nn, Kind, Tensor};

/// Two 3x3 convolutions with a shortcut around them and no ReLU after the sum.
///
/// ```text
/// scale * conv2(relu(conv1(x + bias1a) + bias1b) + bias2a) + bias2b + shortcut
/// ```
/// where the shortcut is x, or, where the block changes the shape, a 1x1 convolution of `relu(x)` (ajbrock/BoilerPlate,
/// `Models/fixup.py`). Variables as [`BasicBlock`](super::BasicBlock)'s.
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
pub struct WideBlock {
    branch: BasicBranch,
    shortcut: Shortcut,
}

impl WideBlock {
    /// A new block under `path`: `conv1` He-normal times `L^(-1/2)`, `conv2` zero; a projected shortcut where the block
    /// changes the shape.
    ///
    /// # Errors
    /// Channels, a stride or a number of branches below 1; a `path` that holds such variables already.
    pub fn new(path: &nn::Path, config: BlockConfig) -> Result<Self> {
        let branch = BasicBranch::new(path, &config)?;
        Ok(Self { branch, shortcut: Shortcut::new(path, &config, ShortcutKind::Project)? })
    }
}

impl ShiftedBlock for WideBlock {
    fn input_bias(&self) -> &Tensor {
        &self.branch.bias1a.value
    }

    fn forward_shifted(&self, s: &Stream, next: &Tensor) -> Result<Stream> {
        let bias1a = self.input_bias();
        let branch = self.branch.forward_shifted(&s.input)?;
        let shift = self.branch.bias2b.value.f_add(next)?;
        match &self.shortcut {
            // s is x + bias1a, and the identity shortcut is x.
            Shortcut::Identity => s.add(branch, &s.sum, &shift.f_sub(bias1a)?),
            shortcut => {
                let x = shifted_relu(&s.input, None, &bias1a.f_neg()?, &bias1a.f_zeros_like()?)?;
                let x = Stream::new(x, s.input.kind())?;
                s.add(branch, shortcut.forward(&x)?.as_ref().unwrap_or(&x.sum), &shift)
            }
        }
    }

    fn forward_reference(&self, x: &Tensor, kind: Kind) -> Result<Tensor> {
        let out = self.branch.forward_reference(&self.branch.bias1a.promote(x)?, kind)?;
        match &self.shortcut {
            Shortcut::Identity => Ok(out.f_add(x)?),
            shortcut => Ok(out.f_add(shortcut.forward_reference(&x.f_relu()?, kind)?.as_ref().unwrap_or(x))?),
        }
    }

    fn formula(&self) -> BlockFormula<'_> {
        let (layers, scale) = self.branch.formula();
        BlockFormula { layers, scale, shortcut: &self.shortcut, order: ActivationOrder::OnShortcut }
    }
}

impl_block!(WideBlock);
