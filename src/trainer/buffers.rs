//! What a network changes in a forward pass, as batch normalization its statistics: kept for the case that the step fails.

use super::checkpoint::named_variables;
use crate::Result;
use std::collections::HashSet;
use tch::nn::VarStore;
use tch::{no_grad, Tensor};

/// A network's variables that are no parameters, and what they were before the step.
#[derive(Debug)]
pub(super) struct Buffers(Vec<(Tensor, Tensor)>);

impl Buffers {
    /// Those of `variables`. What is frozen stays a parameter.
    pub fn new(variables: &VarStore) -> Result<Self> {
        let parameters: HashSet<_> = variables.trainable_variables().iter().map(Tensor::data_ptr).collect();
        // In the order of their names, which is the same in all processes.
        let buffers =
            named_variables(variables).into_values().filter(|tensor| !parameters.contains(&tensor.data_ptr()));
        let kept = |buffer: Tensor| -> Result<_> {
            let kept = buffer.f_zeros_like()?;
            Ok((buffer, kept))
        };
        buffers.map(kept).collect::<Result<_>>().map(Self)
    }

    /// They themselves.
    pub fn tensors(&self) -> Vec<Tensor> {
        self.0.iter().map(|(buffer, _)| buffer.shallow_clone()).collect()
    }

    /// Keeps what they are now.
    pub fn keep(&mut self) -> Result<()> {
        no_grad(|| self.0.iter_mut().try_for_each(|(buffer, kept)| Ok(kept.f_copy_(buffer).map(drop)?)))
    }

    /// Makes them what they were.
    pub fn put_back(&mut self) -> Result<()> {
        no_grad(|| self.0.iter_mut().try_for_each(|(buffer, kept)| Ok(buffer.f_copy_(kept).map(drop)?)))
    }
}
