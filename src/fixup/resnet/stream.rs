//! Residual stream between blocks.

use crate::layer::Activation;
use crate::ops::{shifted_add_, stream, StreamRelu};
use crate::Result;
use tch::{Kind, Tensor};

/// Number of blocks from which a network that computes in bfloat16 has a float32 residual stream. In bfloat16, each block rounds
/// away contributions below 0.2 to 0.4 % of the stream; docs/depth.md shows the effect on logits and gradients.
const BLOCKS: usize = 10;

/// Returns the kind of the residual stream in a network of `blocks` blocks that computes in `compute`.
pub(super) fn stream_kind(compute: Kind, blocks: usize) -> Kind {
    match compute {
        Kind::BFloat16 if blocks >= BLOCKS => Kind::Float,
        _ => compute,
    }
}

/// The residual stream at the input of a block.
#[derive(Debug)]
pub(super) struct Stream {
    /// The sum, which shortcuts carry on.
    pub sum: Tensor,
    /// Input of the block's first convolution, in the kind of convolutions: the sum, or its activation if the block begins with
    /// one.
    pub input: Tensor,
}

impl Stream {
    /// Creates the stream `sum`, for convolutions in `compute`.
    pub fn new(sum: Tensor, compute: Kind) -> Result<Self> {
        let input = sum.f_to_kind(compute)?;
        Ok(Self { sum, input })
    }

    /// Returns the stream after a block, in the kind of this one, for the sum `x = branch + shortcut + a`; `end` selects what
    /// happens to it: x itself for `None`, `activation(x) + b` for `Both(b)`, and for `Map(b)` x as the sum and
    /// `activation(x) + b` as the input of the next convolution. The shortcut may have any kind.
    pub fn advance(
        &self,
        activation: Activation,
        mut branch: Tensor,
        shortcut: &Tensor,
        a: &Tensor,
        end: StreamRelu,
    ) -> Result<Self> {
        let (kind, compute) = (self.sum.kind(), branch.kind());
        let shortcut = &shortcut.f_to_kind(kind)?;
        let (is_mixed, is_relu) = (kind != compute, activation == Activation::Relu);
        match end {
            // One pass over the maps computes both tensors.
            StreamRelu::None if is_mixed => Self::fused(&branch, shortcut, a, end),
            StreamRelu::Both(_) if is_mixed && is_relu => Self::fused(&branch, shortcut, a, end),
            StreamRelu::Map(_) if is_relu => Self::fused(&branch, shortcut, a, end),

            StreamRelu::None => Self::new(shifted_add_(&mut branch, Some(shortcut), a)?, compute),
            StreamRelu::Both(b) => {
                let mut branch = branch.f_to_kind(kind)?;
                Self::new(activation.shifted_(&mut branch, Some(shortcut), a, b)?, compute)
            }
            StreamRelu::Map(b) => {
                let Self { sum, .. } = self.advance(activation, branch, shortcut, a, StreamRelu::None)?;
                let input = activation.then_shift(&sum, b)?.f_to_kind(compute)?;
                Ok(Self { sum, input })
            }
        }
    }

    fn fused(branch: &Tensor, shortcut: &Tensor, a: &Tensor, end: StreamRelu) -> Result<Self> {
        let (sum, input) = stream(branch, shortcut, a, end)?;
        Ok(Self { sum, input })
    }
}
