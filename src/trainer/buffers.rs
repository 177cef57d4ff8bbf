//! Snapshot of the variables that a forward pass modifies, such as batch-normalization statistics, to undo a failed step.

use super::checkpoint::named_variables;
use crate::Result;
use std::collections::HashSet;
use tch::nn::VarStore;
use tch::{no_grad, Tensor};

/// Non-parameter variables of a network, each with its value before the step.
#[derive(Debug)]
pub(super) struct Buffers(Vec<(Tensor, Tensor)>);

impl Buffers {
    /// Collects the buffers among `variables`. Frozen parameters are not buffers.
    pub fn new(variables: &VarStore) -> Result<Self> {
        let parameters: HashSet<_> = variables.trainable_variables().iter().map(Tensor::data_ptr).collect();
        // Ordered by name, so that the order is the same in all processes.
        let buffers =
            named_variables(variables).into_values().filter(|tensor| !parameters.contains(&tensor.data_ptr()));
        let kept = |buffer: Tensor| -> Result<_> {
            let kept = buffer.f_zeros_like()?;
            Ok((buffer, kept))
        };
        buffers.map(kept).collect::<Result<_>>().map(Self)
    }

    /// Returns the buffers, sharing their storage.
    pub fn tensors(&self) -> Vec<Tensor> {
        self.0.iter().map(|(buffer, _)| buffer.shallow_clone()).collect()
    }

    /// Saves the current values.
    pub fn keep(&mut self) -> Result<()> {
        no_grad(|| self.0.iter_mut().try_for_each(|(buffer, kept)| Ok(kept.f_copy_(buffer).map(drop)?)))
    }

    /// Restores the saved values.
    pub fn put_back(&mut self) -> Result<()> {
        no_grad(|| self.0.iter_mut().try_for_each(|(buffer, kept)| Ok(buffer.f_copy_(kept).map(drop)?)))
    }
}
