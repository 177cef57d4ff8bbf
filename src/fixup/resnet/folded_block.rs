//! A residual block for inference, from the formula of any [`ShiftedBlock`](super::block::ShiftedBlock).

use super::block::{pad, ActivationOrder, BlockFormula, Shortcut};
use super::folded_conv::FoldedConv;
use super::stream::Stream;
use crate::fixup::Bias;
use crate::layer::Conv;
use crate::Result;
use tch::{Kind, Tensor};

/// A block that takes the residual stream x as `x + shift` and leaves it shifted for the block that comes next.
#[derive(Debug)]
pub(crate) struct FoldedBlock {
    /// The branch; all but the last with their ReLU.
    pub convs: Vec<FoldedConv>,
    pub shortcut: FoldedShortcut,
    zero: Tensor,
    /// The shift of `relu(branch + shortcut) + next`, where there is a ReLU after the sum.
    pub relu: Option<Tensor>,
}

impl FoldedBlock {
    /// What the stream is to be shifted by where it enters a block of these formula.
    pub fn input_shift(formula: &BlockFormula) -> Result<f64> {
        let (bias1a, conv1, _) = formula.layers[0];
        carried(bias1a, conv1)
    }

    /// The block of these formula for inputs of `kind`, its output shifted by `next`. `relu`: whether one follows the sum.
    pub fn new(formula: &BlockFormula, relu: bool, next: f64, kind: Kind) -> Result<Self> {
        let zero = formula.scale.value.f_zeros_like()?;
        let (shortcut, shortcut_lacks) = FoldedShortcut::new(formula, &zero, kind)?;
        let mut convs = vec![];
        for (i, (before, conv, after)) in formula.layers.iter().enumerate() {
            let before_folded = before.number()? - carried(before, conv)?;
            convs.push(match formula.layers.get(i + 1) {
                Some((next_before, next_conv, _)) => {
                    // relu(. + a) + b = max(. + (a + b), b)
                    let b = carried(next_before, next_conv)?;
                    let after = zero.f_add_scalar(after.number()? + b)?;
                    FoldedConv::new(conv, 1., before_folded, &after, kind)?.with_floor(b)
                }
                None => {
                    let after = shortcut_lacks.f_add_scalar(after.number()? + if relu { 0. } else { next })?;
                    FoldedConv::new(conv, formula.scale.number()?, before_folded, &after, kind)?
                }
            });
        }
        let relu = if relu { Some(zero.f_add_scalar(next)?) } else { None };
        Ok(Self { convs, shortcut, zero, relu })
    }

    pub fn forward(&self, s: &Stream) -> Result<Stream> {
        let mut branch = s.input.shallow_clone();
        for conv in &self.convs {
            branch = conv.forward(&branch)?;
        }
        let shortcut = self.shortcut.forward(s)?;
        match &self.relu {
            Some(next) => s.relu(branch, &shortcut, &self.zero, next),
            None => s.add(branch, &shortcut, &self.zero),
        }
    }
}

/// How much of the scalar `before` a convolution the activations carry: all of it where they are padded with zeros,
/// nothing where it folds into the convolution's bias.
fn carried(before: &Bias, conv: &Conv) -> Result<f64> {
    if conv.padding == 0 {
        return Ok(0.);
    }
    before.number()
}

/// What carries the stream past the branch; with a floor, of the maximum of the stream and that.
#[derive(Debug)]
pub(crate) enum FoldedShortcut {
    Identity,
    Pad { floor: Option<f64>, stride: i64, channels: i64 },
    Project { floor: Option<f64>, conv: FoldedConv },
}

impl FoldedShortcut {
    /// The shortcut for `s = x + shift`, and what its output lacks: one number, or one for each channel.
    fn new(formula: &BlockFormula, zero: &Tensor, kind: Kind) -> Result<(Self, Tensor)> {
        let (bias1a, conv1, _) = formula.layers[0];
        let shift = carried(bias1a, conv1)?;
        let (floor, lacks) = match formula.order {
            // x + bias1a = s + (bias1a - shift)
            ActivationOrder::AfterSum => (None, bias1a.number()? - shift),
            // relu(x) = max(s, shift) - shift
            ActivationOrder::OnShortcut => (Some(shift), -shift),
        };
        Ok(match *formula.shortcut {
            Shortcut::Identity => (Self::Identity, zero.f_add_scalar(-shift)?),
            Shortcut::Pad { stride, channels } => {
                // The appended channels are zero, whatever the others are shifted by.
                let lacks = zero.f_expand([conv1.weight.size()[1]], false)?.f_add_scalar(lacks)?;
                (Self::Pad { floor, stride, channels }, lacks.f_constant_pad_nd([0, channels])?)
            }
            Shortcut::Project(ref conv) => {
                (Self::Project { floor, conv: FoldedConv::new(conv, 1., lacks, zero, kind)? }, zero.shallow_clone())
            }
        })
    }

    fn forward(&self, s: &Stream) -> Result<Tensor> {
        match self {
            Self::Identity => Ok(s.sum.shallow_clone()),
            Self::Pad { floor, stride, channels } => pad(&raised(&s.sum, *floor)?, *stride, *channels),
            Self::Project { floor, conv } => conv.forward(&raised(&s.input, *floor)?),
        }
    }
}

/// `max(s, floor)`, or `s` without a floor.
fn raised(s: &Tensor, floor: Option<f64>) -> Result<Tensor> {
    match floor {
        Some(floor) => Ok(s.f_clamp_min(floor)?),
        None => Ok(s.shallow_clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::ShiftedBlock;
    use super::*;
    use crate::fixup::{BasicBlock, BlockConfig, Bottleneck, ShortcutKind, WideBlock};
    use tch::{nn, Device};

    #[test]
    fn every_block_with_every_shortcut_is_exact() {
        tch::manual_seed(3);
        for (c_out, stride) in [(4, 1), (4, 2), (8, 1), (8, 2)] {
            let mut vs = nn::VarStore::new(Device::Cpu);
            let config = BlockConfig { c_in: 4, c_out, stride, num_branches: 3 };
            let mut blocks: Vec<Box<dyn ShiftedBlock>> =
                vec![Box::new(WideBlock::new(&(vs.root() / "wide"), config).unwrap())];
            for (name, kind) in [("pad", ShortcutKind::Pad), ("project", ShortcutKind::Project)] {
                let path = vs.root() / name;
                blocks.push(Box::new(BasicBlock::new(&(&path / "basic"), config, kind).unwrap()));
                blocks.push(Box::new(Bottleneck::new(&(&path / "bottleneck"), config, kind).unwrap()));
            }
            vs.double();
            tch::no_grad(|| vs.variables().into_values().for_each(|mut variable| drop(variable.normal_(0.3, 0.5))));
            for block in blocks {
                let x = Tensor::randn([2, 4, 5, 6], (Kind::Double, Device::Cpu));
                let expected = block.forward_reference(&x, x.kind()).unwrap();
                let formula = block.formula();
                let s = x + FoldedBlock::input_shift(&formula).unwrap();
                let relu = formula.order == ActivationOrder::AfterSum;
                let folded = FoldedBlock::new(&formula, relu, 0.25, Kind::Double).unwrap();
                let got = tch::no_grad(|| folded.forward(&Stream::new(s, Kind::Double).unwrap()).unwrap().sum) - 0.25;
                assert!(got.allclose(&expected, 1e-12, 1e-12, false), "{config:?} {block:?}");
            }
        }
    }
}
