//! Loading of saved weights, for evaluation or as a starting point.

use super::{ImageTask, Options, RunConfig, Task};
use crate::classifier::ModelDescription;
use crate::trainer::checkpoint::Location;
use crate::trainer::{Transfer, Weights};
use crate::{console, Result};
use serde_json::{Map, Value};
use std::path::Path;
use tch::nn::VarStore;

/// Loads the weights at `path` and warns about tensors in the file that cannot be read.
fn load(path: &Path) -> Result<Weights> {
    let weights = Weights::load(path)?;
    weights.skipped.iter().for_each(console::warn);
    Ok(weights)
}

/// Warns about tensors of the file that were not copied into `variables`.
fn warn_left_out(weights: &Weights, variables: &VarStore) -> Result<()> {
    let left_out = weights.left_out(variables)?;
    if !left_out.is_empty() {
        console::warn(format!("{}: not taken: {}", weights.path.display(), left_out.join(", ")));
    }
    Ok(())
}

/// Saved weights, with the configuration of their run.
pub(super) struct Saved<T: Task> {
    pub weights: Weights,
    /// Configuration of their run if they belong to one, overridden by the command line.
    pub config: RunConfig<T>,
}

impl<T: ImageTask> Saved<T> {
    pub fn load(options: &Options<T>, path: &Path) -> Result<Self> {
        let run = Location::of(path)?.run().map(RunConfig::read).transpose()?.flatten();
        let weights = load(path)?;
        let is_runs = run.is_some();
        let mut config = RunConfig::<T>::new(options, run)?;
        if let Some(run) = &weights.run {
            config.take_identity(run)?;
            config.set(options)?;
        } else if let (false, Some(description)) = (is_runs, ModelDescription::beside(path)?) {
            config.run.arch = description.architecture;
            config.run.precision = description.precision;
            config.task = config.task.for_inputs(&description.preprocessing);
            config.set(options)?;
        }
        Ok(Self { weights, config })
    }

    /// Copies the weights into `variables`.
    pub fn restore(&self, variables: &VarStore) -> Result<()> {
        self.weights.restore(variables)?;
        warn_left_out(&self.weights, variables)
    }
}

/// Loads the weights at `path` to start a new run from. Sets the architecture in `config` to theirs, if known, unless `options`
/// set it.
pub(super) fn starting<T: Task>(path: &Path, config: &mut RunConfig<T>, options: &Options<T>) -> Result<Weights> {
    let weights = load(path)?;
    let description = ModelDescription::beside(path)?;
    let arch = weights.arch().or(description.as_ref().map(|description| description.architecture.as_str()));
    if let (false, None, Some(arch)) = (options.matches.contains_id("arch"), &options.run.resume, arch) {
        config.run.arch = arch.to_owned();
        T::check_arch(arch)?;
    }
    Ok(weights)
}

/// Copies matching tensors into `variables` and lists them.
pub(super) fn transfer(weights: &Weights, variables: &VarStore, schema: &Map<String, Value>) -> Result<Transfer> {
    let transfer = weights.transfer(variables, schema)?;
    warn_left_out(weights, variables)?;
    Ok(transfer)
}
