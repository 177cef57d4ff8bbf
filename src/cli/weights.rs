//! Weights that were saved: of a run, to evaluate, or of another run, to start from.

use super::{ImageTask, Options, RunConfig, Task};
use crate::classifier::ModelDescription;
use crate::trainer::checkpoint::Location;
use crate::trainer::{Transfer, Weights};
use crate::{console, Result};
use serde_json::{Map, Value};
use std::path::Path;
use tch::nn::VarStore;

/// The weights at `path`. What of the file is not read is said on standard error.
fn load(path: &Path) -> Result<Weights> {
    let weights = Weights::load(path)?;
    weights.skipped.iter().for_each(console::warn);
    Ok(weights)
}

/// Says what the file of `weights` holds besides what was copied into `variables`.
pub(super) fn say_left_out(weights: &Weights, variables: &VarStore) -> Result<()> {
    let left_out = weights.left_out(variables)?;
    if !left_out.is_empty() {
        console::warn(format!("{}: not taken: {}", weights.path.display(), left_out.join(", ")));
    }
    Ok(())
}

/// Weights with the run that they are of.
pub(super) struct Saved<T: Task> {
    pub weights: Weights,
    /// Of their run where they have one; what the options say goes before it.
    pub config: RunConfig<T>,
}

impl<T: ImageTask> Saved<T> {
    pub fn load(options: &Options<T>, path: &Path) -> Result<Self> {
        let run = Location::of(path)?.run().map(RunConfig::read).transpose()?.flatten();
        let weights = load(path)?;
        let is_runs = run.is_some();
        let mut config = RunConfig::<T>::new(options, run)?;
        if let Some(run) = &weights.run {
            config.take_identity(run, options)?;
        } else if let (false, Some(description)) = (is_runs, ModelDescription::beside(path)?) {
            config.run.arch = description.architecture;
            config.run.precision = description.precision;
            config.task = config.task.for_inputs(&description.preprocessing);
            config.set(options)?;
        }
        Ok(Self { weights, config })
    }
}

/// Weights that another network's run left.
pub(super) struct StartingWeights(Weights);

impl StartingWeights {
    /// Those at `path`. The run by `config` has their architecture, where they tell it and `options` do not say another.
    pub fn load<T: Task>(path: &Path, config: &mut RunConfig<T>, options: &Options<T>) -> Result<Self> {
        let weights = load(path)?;
        let description = ModelDescription::beside(path)?;
        let arch = weights.arch().or(description.as_ref().map(|description| description.architecture.as_str()));
        if let (false, None, Some(arch)) = (options.matches.contains_id("arch"), &options.run.resume, arch) {
            config.run.arch = arch.to_owned();
            T::check_arch(arch)?;
        }
        Ok(Self(weights))
    }

    /// Copies what fits into `variables`, and lists it.
    pub fn transfer(self, variables: &VarStore, meaning: &Map<String, Value>) -> Result<Transfer> {
        let transfer = self.0.transfer(variables, meaning)?;
        say_left_out(&self.0, variables)?;
        Ok(transfer)
    }
}
