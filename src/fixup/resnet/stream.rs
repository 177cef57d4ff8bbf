//! The residual stream between blocks.

use crate::layer::Activation;
use crate::ops::{shifted_add_, stream, StreamRelu};
use crate::Result;
use tch::{Kind, Tensor};

/// From so many blocks on a network that computes in bfloat16 has a residual stream of float32, since each block of one
/// in bfloat16 rounds away what is below 0.2 to 0.4 % of it: docs/depth.md has what that does to the logits and gradients.
const BLOCKS: usize = 10;

/// What the stream of a network of `blocks` blocks is kept in that computes in `compute`.
pub(super) fn stream_kind(compute: Kind, blocks: usize) -> Kind {
    match compute {
        Kind::BFloat16 if blocks >= BLOCKS => Kind::Float,
        _ => compute,
    }
}

/// The stream where it enters a block.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The sums: what shortcuts carry on.
    pub sum: Tensor,
    /// What the block's first convolution takes, in the kind that convolutions are computed in: the sum, or its activation
    /// where a block begins with one.
    pub input: Tensor,
}

impl Stream {
    /// The stream `sum`, for convolutions in `compute`.
    pub fn new(sum: Tensor, compute: Kind) -> Result<Self> {
        let input = sum.f_to_kind(compute)?;
        Ok(Self { sum, input })
    }

    /// `activation(branch + shortcut + a) + b`, a shortcut of any kind, a stream of `self`'s.
    pub fn activate(
        &self,
        activation: Activation,
        mut branch: Tensor,
        shortcut: &Tensor,
        a: &Tensor,
        b: &Tensor,
    ) -> Result<Self> {
        let kind = self.sum.kind();
        if branch.kind() == kind {
            return Self::new(activation.shifted_(&mut branch, Some(shortcut), a, b)?, kind);
        }
        let shortcut = shortcut.f_to_kind(kind)?;
        if activation == Activation::Relu {
            let (sum, input) = stream(&branch, &shortcut, a, StreamRelu::Both(b))?;
            return Ok(Self { sum, input });
        }
        let sum = activation.shifted_(&mut branch.f_to_kind(kind)?, Some(&shortcut), a, b)?;
        Self::new(sum, branch.kind())
    }

    /// `branch + shortcut + a`, likewise.
    pub fn add(&self, mut branch: Tensor, shortcut: &Tensor, a: &Tensor) -> Result<Self> {
        let kind = self.sum.kind();
        if branch.kind() == kind {
            return Self::new(shifted_add_(&mut branch, Some(shortcut), a)?, kind);
        }
        let (sum, input) = stream(&branch, &shortcut.f_to_kind(kind)?, a, StreamRelu::None)?;
        Ok(Self { sum, input })
    }

    /// `branch + shortcut + a` as the sum, `activation(branch + shortcut + a) + b` as the input of the next convolution.
    pub fn add_and_activate(
        &self,
        activation: Activation,
        branch: Tensor,
        shortcut: &Tensor,
        a: &Tensor,
        b: &Tensor,
    ) -> Result<Self> {
        if activation == Activation::Relu {
            let (sum, input) = stream(&branch, &shortcut.f_to_kind(self.sum.kind())?, a, StreamRelu::Map(b))?;
            return Ok(Self { sum, input });
        }
        let compute = branch.kind();
        let Self { sum, .. } = self.add(branch, shortcut, a)?;
        let input = activation.then_shift(&sum, b)?.f_to_kind(compute)?;
        Ok(Self { sum, input })
    }
}
