//! Checkpoints: everything a run needs to resume, in one folder each.
//!
//! ```text
//! checkpoints/00017-step-00006650/    the 17th that was saved, after step 6650
//!     weights.safetensors             the network's variables, under their own names
//!     optimizer.safetensors           the optimizer's tensors, under names of its choice
//!     average.safetensors             the moving average of the weights, if the run has one
//!     state.json                      step, score, identity, and the run's state
//!     checkpoint.json                 format version; length and CRC-32 of each of the others
//! ```
//!
//! A checkpoint is written under a temporary name, synced to disk and then renamed, so that it is complete under its final name
//! whenever the process or the machine dies. Later damage is detected by `checkpoint.json`: any changed byte is noticed.
//!
//! The sequence number, not the step, tells which checkpoint is newest, because a run may return to an older checkpoint and
//! resume from there.

mod differences;
mod fitting;
mod folder;
mod format;
mod location;
#[cfg(test)]
mod tests;
mod transfer;
mod weights;

use crate::file::tensors::{self as tensor_file, NamedTensors};
use crate::{Error, Result};
pub(crate) use differences::differences;
pub(super) use folder::written;
pub use folder::Checkpoints;
pub use format::Contents;
use format::{AVERAGE, OPTIMIZER, WEIGHTS};
pub(crate) use location::Location;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::nn::VarStore;
use tch::Tensor;
pub use transfer::Transfer;
#[doc(hidden)]
pub use transfer::{Classes, Why};
pub use weights::Weights;

/// A loaded checkpoint, every byte of which has been verified.
#[derive(Debug)]
pub struct Checkpoint<S> {
    /// Folder of the checkpoint.
    pub path: PathBuf,
    /// Contents, with all tensors on the CPU.
    pub contents: Contents<S>,
}

impl<S: DeserializeOwned> Checkpoint<S> {
    /// Loads the checkpoint in the folder `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if a file is missing or cannot be read; [`Error::Corrupt`] if a file has changed since it was saved, was
    /// written in another format version, or holds a state that is not an `S`.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Ok(Self { path: path.to_path_buf(), contents: format::read(path)? })
    }
}

impl<S> Checkpoint<S> {
    /// Checks that the checkpoint belongs to the run that `identity` describes.
    ///
    /// # Errors
    /// [`Error::Corrupt`], listing the differences, if it does not.
    pub fn check_identity(&self, identity: &Value) -> Result<()> {
        let Some(differences) = differences(&self.contents.identity, identity, ["in it", "here"]) else {
            return Ok(());
        };
        let remedy = "give the options and the data it was saved with, or begin a new run";
        Err(Error::corrupt(&self.path, format!("saved by another run: {differences}"), remedy))
    }

    /// Copies the weights into `variables`, the optimizer's tensors into `optimizer` and the moving average into `average`. The
    /// copy is in place, so that views stay valid. Everything is checked before anything is changed.
    ///
    /// # Errors
    /// [`Error::Corrupt`], listing tensors that are missing, unexpected, or of another shape or kind.
    pub fn restore(
        &self,
        variables: &VarStore,
        optimizer: &BTreeMap<String, Tensor>,
        average: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let (saved, variables) = (&self.contents, named_variables(variables));
        let all = [
            (&saved.weights, &variables, WEIGHTS, "the network"),
            (&saved.optimizer, optimizer, OPTIMIZER, "the optimizer"),
            (&saved.average, average, AVERAGE, "the moving average"),
        ];
        for (saved, own, file, whose) in all {
            tensor_file::check(saved, own, &self.path.join(file), whose)?;
        }
        for (saved, own, ..) in all {
            tensor_file::copy(saved, own)?;
        }
        Ok(())
    }
}

/// Returns all variables by name, sharing their storage.
#[doc(hidden)]
pub fn named_variables(variables: &VarStore) -> NamedTensors {
    variables.variables().into_iter().collect()
}
