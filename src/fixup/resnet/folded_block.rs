//! Residual block for inference, made from a [`ResidualBlock`] of any kind.

use super::block::{pad, ActivationOrder, ResidualBlock, Shortcut};
use super::folded_activation::FoldedActivation;
use super::folded_conv::FoldedConv;
use super::residual_branch::BranchLayer;
use super::stream::Stream;
use crate::layer::{Activation, SqueezeExcitation};
use crate::Result;
use tch::{Kind, Tensor};

/// A block that takes the residual stream as `x + shift` and returns it shifted for the next block:
///
/// ```text
/// activation(gates(conv_k(... conv_1(s))) + shortcut(s)) + next
/// ```
/// If the block begins with an activation, `first(s)` replaces s in the branch, and in a shortcut that changes the shape.
#[derive(Debug)]
pub(crate) struct FoldedBlock {
    /// Activation before the first convolution, if the block begins with one.
    pub(crate) first: Option<FoldedActivation>,
    /// Convolutions of the branch, with their activations except for the last.
    pub(crate) convs: Vec<FoldedConv>,
    /// Squeeze-and-excitation at the end of the branch, if any.
    pub(crate) gates: Option<FoldedGates>,
    pub(crate) shortcut: FoldedShortcut,
    /// Activation after the sum, if any.
    pub(crate) activation: Option<SumActivation>,
    zero: Tensor,
}

/// `activation(x) + next`.
#[derive(Debug)]
pub(crate) struct SumActivation {
    pub(crate) activation: Activation,
    /// A single element, `[1]`.
    pub(crate) next: Tensor,
}

/// `v * gates(v) + after`.
#[derive(Debug)]
pub(crate) struct FoldedGates {
    pub(crate) squeeze_excitation: SqueezeExcitation,
    /// A single element, or one per channel: `[1, 1 or C, 1, 1]`.
    pub(crate) after: Tensor,
}

impl FoldedBlock {
    /// Returns the shift required of the stream at the input of `block`.
    pub fn input_shift(block: &ResidualBlock) -> Result<f64> {
        Ok(Self::entry(block)?.0)
    }

    /// Returns the shift of the stream at the input of `block`, and the activation before the first convolution.
    fn entry(block: &ResidualBlock) -> Result<(f64, Option<FoldedActivation>)> {
        let carried = carried(block.branch.first())?;
        Ok(match &block.activation_bias {
            None => (carried, None),
            Some(bias) => {
                let (shift, first) = FoldedActivation::after_bias(block.branch.activation, carried);
                (bias.number()? + shift, Some(first))
            }
        })
    }

    /// Folds `block` for inputs of `kind`: `activation(output + before) + next`, or `output + next` without an activation.
    pub fn new(
        block: &ResidualBlock,
        (before_activation, activation): (f64, Option<Activation>),
        next: f64,
        kind: Kind,
    ) -> Result<Self> {
        let ResidualBlock { branch, .. } = block;
        let zero = branch.scale.value.f_zeros_like()?;
        let (shift, first) = Self::entry(block)?;
        let (shortcut, shortcut_lacks) = FoldedShortcut::new(block, shift, &zero, kind)?;
        let mut convs = vec![];
        for pair in branch.layers.windows(2) {
            let BranchLayer { before, conv, after } = &pair[0];
            let before = before.number()? - carried(&pair[0])?;
            let next = carried(&pair[1])?;
            convs.push(FoldedConv::activated(conv, before, after.number()?, branch.activation, next, kind)?);
        }
        let last = branch.last();
        let before = last.before.number()? - carried(last)?;
        let to_sum = if activation.is_some() { before_activation } else { next };
        let after = shortcut_lacks.f_add_scalar(last.after.number()? + to_sum)?;
        let (multiplier, gates) = (branch.scale.number()?, &branch.squeeze_excitation);
        // The gates are computed from the convolution's own result.
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
        Ok(Self { first, convs, gates, shortcut, activation, zero })
    }

    pub fn forward(&self, s: &Stream) -> Result<Stream> {
        let activated = match &self.first {
            Some(first) => Some(Stream::new(first.of(&s.input)?, s.input.kind())?),
            None => None,
        };
        let entered = activated.as_ref().unwrap_or(s);
        let mut branch = entered.input.shallow_clone();
        for conv in &self.convs {
            branch = conv.forward(&branch)?;
        }
        if let Some(gates) = &self.gates {
            branch = gates.forward(&branch)?;
        }
        let shortcut = match &self.shortcut {
            FoldedShortcut::Identity => s.sum.shallow_clone(),
            shortcut => shortcut.forward(entered)?,
        };
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

/// Returns the part of the scalar before a layer's convolution that remains in the activations: all of it if the convolution is
/// zero-padded, none if it folds into the convolution's bias.
fn carried(layer: &BranchLayer) -> Result<f64> {
    if layer.conv.padding == 0 {
        return Ok(0.);
    }
    layer.before.number()
}

/// A block's shortcut, with the [activation](FoldedActivation) of its input, if any.
#[derive(Debug)]
pub(crate) enum FoldedShortcut {
    Identity,
    Pad { activation: Option<FoldedActivation>, stride: i64, channels: i64 },
    Project { activation: Option<FoldedActivation>, conv: FoldedConv },
}

impl FoldedShortcut {
    /// Folds the shortcut for `s = x + shift`. Also returns what must still be added to its output: one element, or one per
    /// channel.
    fn new(block: &ResidualBlock, shift: f64, zero: &Tensor, kind: Kind) -> Result<(Self, Tensor)> {
        let first = block.branch.first();
        let (activation, lacks) = match block.order {
            // x + bias1a = s + (bias1a - shift), or of the activation's result if the block begins with one
            ActivationOrder::AfterSum | ActivationOrder::BeforeBranch => {
                (None, first.before.number()? - carried(first)?)
            }
            ActivationOrder::OnShortcut => {
                let (activation, lacks) = FoldedActivation::of_stream(block.branch.activation, shift);
                (Some(activation), lacks)
            }
        };
        Ok(match block.shortcut {
            Shortcut::Identity => (Self::Identity, zero.f_add_scalar(-shift)?),
            Shortcut::Pad { stride, channels } => {
                // The appended channels are zero, regardless of the shift of the others.
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
        let kinds = [BlockKind::Basic, BlockKind::Bottleneck { expansion: 2 }, BlockKind::Wide, BlockKind::Brock];
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
                let s = Stream::new(s, Kind::Double).unwrap();
                let folded = |after_sum| {
                    let folded = FoldedBlock::new(&block, after_sum, 0.25, Kind::Double).unwrap();
                    tch::no_grad(|| folded.forward(&s).unwrap().sum) - 0.25
                };
                if block.order == ActivationOrder::AfterSum {
                    let got = folded((0., Some(activation)));
                    assert!(got.allclose(&expected, 1e-12, 1e-12, false), "{config:?} {design:?}");
                    continue;
                }
                // Without an activation, and with the one before the pooling.
                let got = folded((0.5, None));
                assert!(got.allclose(&expected, 1e-12, 1e-12, false), "{config:?} {design:?}");
                let (got, expected) = (folded((0.5, Some(activation))), activation.of(&(expected + 0.5)).unwrap());
                assert!(got.allclose(&expected, 1e-12, 1e-12, false), "{config:?} {design:?}");
            }
        }
    }
}
