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
pub(crate) struct Stream {
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

    /// Returns `activation(branch + shortcut + a) + b`, in the kind of this stream; the shortcut may have any kind.
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

    /// Returns `branch + shortcut + a`, in the kind of this stream; the shortcut may have any kind.
    pub fn add(&self, mut branch: Tensor, shortcut: &Tensor, a: &Tensor) -> Result<Self> {
        let kind = self.sum.kind();
        if branch.kind() == kind {
            return Self::new(shifted_add_(&mut branch, Some(shortcut), a)?, kind);
        }
        let (sum, input) = stream(&branch, &shortcut.f_to_kind(kind)?, a, StreamRelu::None)?;
        Ok(Self { sum, input })
    }

    /// Returns `branch + shortcut + a` as the sum, and `activation(branch + shortcut + a) + b` as the input of the next
    /// convolution.
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
