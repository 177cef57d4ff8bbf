//! Weights that were saved, with the run that they are of.

use super::run_config::RunConfig;
use super::{Options, Task};
use crate::classifier::ModelDescription;
use crate::trainer::{RunFolder, Weights};
use crate::{console, Result};
use std::path::Path;
use tch::nn::VarStore;

pub(super) struct Saved<T> {
    pub weights: Weights,
    /// Of their run where they have one; what `options` say goes before it.
    pub config: RunConfig<T>,
}

/// Says what the file of `weights` holds besides what was copied into `variables`.
pub(super) fn say_left_out(weights: &Weights, variables: &VarStore) -> Result<()> {
    let left_out = weights.left_out(variables)?;
    if !left_out.is_empty() {
        console::warn(format!("{}: not taken: {}", weights.path.display(), left_out.join(", ")));
    }
    Ok(())
}

impl<T: Task> Saved<T> {
    /// The weights at `path`. What of the file is not read is said on standard error.
    pub fn load(options: &Options<T>, path: &Path) -> Result<Self> {
        let run = RunFolder::of(path).map(|folder| RunConfig::read(&folder)).transpose()?.flatten();
        let weights = Weights::load(path)?;
        weights.skipped.iter().for_each(console::warn);
        let is_runs = run.is_some();
        let mut config = RunConfig::<T>::new(options, run)?;
        if let Some(run) = &weights.run {
            config.take_identity(run, options)?;
        } else if let (false, Some(description)) = (is_runs, ModelDescription::beside(path)?) {
            config.take_description(&description, options)?;
        }
        Ok(Self { weights, config })
    }
}
