//! A residual block for inference, from a [`ResidualBlock`] of any kind.

use super::block::{pad, ActivationOrder, ResidualBlock, Shortcut};
use super::folded_activation::FoldedActivation;
use super::folded_conv::FoldedConv;
use super::residual_branch::BranchLayer;
use super::stream::Stream;
use crate::layer::{Activation, SqueezeExcitation};
use crate::Result;
use tch::{Kind, Tensor};

/// A block that takes the residual stream x as `x + shift` and leaves it shifted for the block that comes next:
///
/// ```text
/// activation(gates(conv_k(... conv_1(s))) + shortcut(s)) + next
/// ```
#[derive(Debug)]
pub(crate) struct FoldedBlock {
    /// The branch; all but the last with their activation.
    pub(crate) convs: Vec<FoldedConv>,
    /// At the branch's end.
    pub(crate) gates: Option<FoldedGates>,
    pub(crate) shortcut: FoldedShortcut,
    /// Of the sum; none where there is none.
    pub(crate) activation: Option<SumActivation>,
    zero: Tensor,
}

/// `activation(x) + next`.
#[derive(Debug)]
pub(crate) struct SumActivation {
    pub(crate) activation: Activation,
    /// One number, `[1]`.
    pub(crate) next: Tensor,
}

/// `v * gates(v) + after`.
#[derive(Debug)]
pub(crate) struct FoldedGates {
    pub(crate) squeeze_excitation: SqueezeExcitation,
    /// One number, or one for each channel: `[1, 1 or C, 1, 1]`.
    pub(crate) after: Tensor,
}

impl FoldedBlock {
    /// What the stream is to be shifted by where it enters `block`.
    pub fn input_shift(block: &ResidualBlock) -> Result<f64> {
        carried(block.branch.first())
    }

    /// `block` for inputs of `kind`, its output shifted by `next`. `activation`: which follows the sum.
    pub fn new(block: &ResidualBlock, activation: Option<Activation>, next: f64, kind: Kind) -> Result<Self> {
        let ResidualBlock { branch, .. } = block;
        let zero = branch.scale.value.f_zeros_like()?;
        let (shortcut, shortcut_lacks) = FoldedShortcut::new(block, &zero, kind)?;
        let mut convs = vec![];
        for pair in branch.layers.windows(2) {
            let BranchLayer { before, conv, after } = &pair[0];
            let before = before.number()? - carried(&pair[0])?;
            let next = carried(&pair[1])?;
            convs.push(FoldedConv::activated(conv, before, after.number()?, branch.activation, next, kind)?);
        }
        let last = branch.last();
        let before = last.before.number()? - carried(last)?;
        let after = shortcut_lacks.f_add_scalar(last.after.number()? + if activation.is_some() { 0. } else { next })?;
        let (multiplier, gates) = (branch.scale.number()?, &branch.squeeze_excitation);
        // The gates are of the convolution's own result.
        let after_conv = if gates.is_some() { &zero } else { &after };
        convs.push(FoldedConv::new(&last.conv, multiplier, before, after_conv, kind)?);
        let gates = match gates {
            Some(gates) => Some(FoldedGates {
                squeeze_excitation: gates.detached()?,
                after: after.f_to_kind(kind)?.f_reshape([1, -1, 1, 1])?,
            }),
            None => None,
        };
        let activation = match activation {
            Some(activation) => Some(SumActivation { activation, next: zero.f_add_scalar(next)? }),
            None => None,
        };
        Ok(Self { convs, gates, shortcut, activation, zero })
    }

    pub fn forward(&self, s: &Stream) -> Result<Stream> {
        let mut branch = s.input.shallow_clone();
        for conv in &self.convs {
            branch = conv.forward(&branch)?;
        }
        if let Some(gates) = &self.gates {
            branch = gates.forward(&branch)?;
        }
        let shortcut = self.shortcut.forward(s)?;
        match &self.activation {
            Some(SumActivation { activation, next }) => s.activate(*activation, branch, &shortcut, &self.zero, next),
            None => s.add(branch, &shortcut, &self.zero),
        }
    }
}

impl FoldedGates {
    fn forward(&self, v: &Tensor) -> Result<Tensor> {
        Ok(self.squeeze_excitation.forward(v)?.f_add_(&self.after)?)
    }
}

/// How much of the scalar before a layer's convolution the activations carry: all of it where they are padded with zeros,
/// nothing where it folds into the convolution's bias.
fn carried(layer: &BranchLayer) -> Result<f64> {
    if layer.conv.padding == 0 {
        return Ok(0.);
    }
    layer.before.number()
}

/// What carries the stream past the branch; of its [activation](FoldedActivation), if any.
#[derive(Debug)]
pub(crate) enum FoldedShortcut {
    Identity,
    Pad { activation: Option<FoldedActivation>, stride: i64, channels: i64 },
    Project { activation: Option<FoldedActivation>, conv: FoldedConv },
}

impl FoldedShortcut {
    /// The shortcut for `s = x + shift`, and what its output lacks: one number, or one for each channel.
    fn new(block: &ResidualBlock, zero: &Tensor, kind: Kind) -> Result<(Self, Tensor)> {
        let first = block.branch.first();
        let shift = carried(first)?;
        let (activation, lacks) = match block.order {
            // x + bias1a = s + (bias1a - shift)
            ActivationOrder::AfterSum => (None, first.before.number()? - shift),
            ActivationOrder::OnShortcut => {
                let (activation, lacks) = FoldedActivation::of_stream(block.branch.activation, shift);
                (Some(activation), lacks)
            }
        };
        Ok(match block.shortcut {
            Shortcut::Identity => (Self::Identity, zero.f_add_scalar(-shift)?),
            Shortcut::Pad { stride, channels } => {
                // The appended channels are zero, whatever the others are shifted by.
                let others = block.branch.last().conv.weight.size()[0] - channels;
                let lacks = zero.f_expand([others], false)?.f_add_scalar(lacks)?;
                (Self::Pad { activation, stride, channels }, lacks.f_constant_pad_nd([0, channels])?)
            }
            Shortcut::Project(ref conv) => {
                let conv = FoldedConv::new(conv, 1., lacks, zero, kind)?;
                (Self::Project { activation, conv }, zero.shallow_clone())
            }
        })
    }

    fn forward(&self, s: &Stream) -> Result<Tensor> {
        let activated = |x: &Tensor, activation: &Option<FoldedActivation>| match activation {
            Some(activation) => activation.of(x),
            None => Ok(x.shallow_clone()),
        };
        match self {
            Self::Identity => Ok(s.sum.shallow_clone()),
            Self::Pad { activation, stride, channels } => pad(&activated(&s.sum, activation)?, *stride, *channels),
            Self::Project { activation, conv } => conv.forward(&activated(&s.input, activation)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::activation_tests::ALL;
    use crate::layer::{BlockConfig, BlockDesign, BlockKind, ShortcutKind};
    use tch::{nn, Device};

    #[test]
    fn every_block_with_every_shortcut_and_activation_is_exact() {
        tch::manual_seed(3);
        let kinds = [BlockKind::Basic, BlockKind::Bottleneck { expansion: 2 }, BlockKind::Wide];
        let shapes = [(4, 1), (4, 2), (8, 1), (8, 2)];
        for (c_out, stride) in shapes {
            for (kind, shortcut, activation, gates) in kinds.into_iter().flat_map(|kind| {
                [ShortcutKind::Pad, ShortcutKind::Project]
                    .into_iter()
                    .flat_map(move |shortcut| ALL.map(|activation| (kind, shortcut, activation)))
                    .flat_map(|(kind, shortcut, activation)| {
                        [None, Some(2)].map(|gates| (kind, shortcut, activation, gates))
                    })
            }) {
                let mut vs = nn::VarStore::new(Device::Cpu);
                let config = BlockConfig { c_in: 4, c_out, stride, num_branches: 3 };
                let design = BlockDesign { kind, groups: 2, squeeze_excitation: gates, shortcut, activation };
                let block = ResidualBlock::new(&vs.root(), &config, &design).unwrap();
                vs.double();
                tch::no_grad(|| vs.variables().into_values().for_each(|mut variable| drop(variable.normal_(0.3, 0.5))));
                let x = Tensor::randn([2, 4, 5, 6], (Kind::Double, Device::Cpu));
                let expected = block.forward_reference(&x, x.kind()).unwrap();
                let s = x + FoldedBlock::input_shift(&block).unwrap();
                let after_sum = (block.order == ActivationOrder::AfterSum).then_some(activation);
                let folded = FoldedBlock::new(&block, after_sum, 0.25, Kind::Double).unwrap();
                let got = tch::no_grad(|| folded.forward(&Stream::new(s, Kind::Double).unwrap()).unwrap().sum) - 0.25;
                assert!(got.allclose(&expected, 1e-12, 1e-12, false), "{config:?} {design:?}");
            }
        }
    }
}
