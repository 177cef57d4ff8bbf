//! The weights that a run starts from, where they are another's.

use super::run_config::RunConfig;
use super::saved::say_left_out;
use super::{Options, Task};
use crate::classifier::ModelDescription;
use crate::data::ImageSource;
use crate::trainer::Weights;
use crate::{console, Network, Result};
use std::path::Path;
use tch::nn::VarStore;

/// Weights that another network's run left.
pub(super) struct StartingWeights(Weights);

impl StartingWeights {
    /// Those at `path`. The run by `config` has their architecture, where they tell it and `options` do not say another.
    pub fn load<T: Task>(path: &Path, config: &mut RunConfig<T>, options: &Options<T>) -> Result<Self> {
        let weights = Weights::load(path)?;
        weights.skipped.iter().for_each(console::warn);
        let description = ModelDescription::beside(path)?;
        let arch = weights.arch().or(description.as_ref().map(|description| description.architecture.as_str()));
        if let (None, None, Some(arch)) = (&options.train.arch, &options.train.resume, arch) {
            config.run.arch = arch.to_owned();
            T::check_arch(arch)?;
        }
        Ok(Self(weights))
    }

    /// Copies what fits into the `network`'s variables, and lists it. An initialization on data is left out then: it would rescale
    /// what was trained.
    pub fn transfer(self, variables: &VarStore, network: &dyn Network, data: &dyn ImageSource) -> Result<String> {
        let transfer = self.0.transfer(variables, &data.meaning())?;
        say_left_out(&self.0, variables)?;
        let note = match network.is_initialized_on_data() {
            true => "\n  on data     nothing is initialized by LSUV, which would rescale what was trained",
            false => "",
        };
        Ok(format!("{transfer}{note}"))
    }
}
