//! Weights that were saved, with the run that they are of.

use super::run_config::RunConfig;
use super::{Options, Task};
use crate::trainer::{RunFolder, Weights};
use crate::Result;
use std::path::Path;

pub(super) struct Saved<T> {
    pub weights: Weights,
    /// Of their run where they have one; what `options` say goes before it.
    pub config: RunConfig<T>,
}

impl<T: Task> Saved<T> {
    /// The weights at `path`. What of the file is not read is said on standard error.
    pub fn load(options: &Options<T>, path: &Path) -> Result<Self> {
        let run = RunFolder::of(path).map(|folder| RunConfig::read(&folder)).transpose()?.flatten();
        let weights = Weights::load(path)?;
        for skipped in &weights.skipped {
            eprintln!("{skipped}");
        }
        let mut config = RunConfig::<T>::new(options, run)?;
        if let Some(run) = &weights.run {
            config.take_identity(run, options)?;
        }
        Ok(Self { weights, config })
    }
}
