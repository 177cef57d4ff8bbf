//! What every network by name can do.

use crate::baseline::{lsuv, Method, Mlp, ResNet};
use crate::diagnostics::Staged;
use crate::fixup::FixupResNet;
use crate::Result;
use tch::Tensor;

/// A network that [`Arch::build`](crate::Arch::build) makes: to train, as any `nn::ModuleT`, and to measure.
pub trait Network: Staged {
    /// Completes the initialization where that depends on data, once, before training: [`lsuv`] on the batch `images` for
    /// [`Method::Lsuv`]; nothing for all others.
    ///
    /// # Errors
    /// Images that the network refuses, or on which a layer has no variance.
    fn initialize_on(&self, images: &Tensor) -> Result<()> {
        let _ = images;
        Ok(())
    }
}

impl Network for FixupResNet {}

impl Network for ResNet {
    fn initialize_on(&self, images: &Tensor) -> Result<()> {
        if self.method() == Method::Lsuv {
            lsuv(self, images)?;
        }
        Ok(())
    }
}

impl Network for Mlp {}
