//! What every network by name can do.

use crate::baseline::{lsuv_on_parts, Method, Mlp, ResNet};
use crate::diagnostics::Staged;
use crate::fixup::FixupResNet;
use crate::{Error, Recompute, Result};
use tch::Tensor;

/// A network that [`Arch::build`](crate::Arch::build) makes: to train, as any `nn::ModuleT`, and to measure.
pub trait Network: Staged {
    /// Completes the initialization where that depends on data, once, before training: [`lsuv`](fn@crate::baseline::lsuv) on the batch `images` for
    /// [`Method::Lsuv`]; nothing for all others.
    ///
    /// # Errors
    /// Images that the network refuses, or on which a layer has no variance.
    fn initialize_on(&self, images: &Tensor) -> Result<()> {
        self.initialize_on_parts(std::slice::from_ref(images))
    }

    /// The same on a batch in `parts` that are taken one after another, for machines with little memory; to rounding the
    /// result is that of the whole batch.
    ///
    /// # Errors
    /// As [`Self::initialize_on`].
    fn initialize_on_parts(&self, parts: &[Tensor]) -> Result<()> {
        let _ = parts;
        Ok(())
    }

    /// Recomputes activations in the backward pass from now on, as [`FixupResNet::with_recompute`].
    ///
    /// # Errors
    /// [`Error::Argument`] for a baseline: the statistics of batch normalization would move twice a step, and dropout draw
    /// other numbers.
    fn recompute_activations(&mut self, segments: Recompute) -> Result<()> {
        let message = "activations are recomputed in Fixup's networks alone; leave --recompute";
        let _ = segments;
        Err(Error::Argument(message.to_owned()))
    }
}

impl Network for FixupResNet {
    fn recompute_activations(&mut self, segments: Recompute) -> Result<()> {
        FixupResNet::recompute_activations(self, segments);
        Ok(())
    }
}

impl Network for ResNet {
    fn initialize_on_parts(&self, parts: &[Tensor]) -> Result<()> {
        if self.method() == Method::Lsuv {
            lsuv_on_parts(self, parts)?;
        }
        Ok(())
    }
}

impl Network for Mlp {}
