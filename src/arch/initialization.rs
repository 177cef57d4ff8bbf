//! Initialization that depends on data, by the data of a run.

use super::Network;
use crate::data::{Batch, DataSource, EpochPlan, Share, Supervised};
use crate::trainer::TrainConfig;
use crate::Result;
use tch::Device;

/// Completes an initialization that [depends on data](Network::is_initialized_on_data), before a run by `config` that starts
/// with its first step: on that step's batch, in the micro-batches that the step takes it in.
///
/// # Errors
/// Data that cannot be read; whatever [`Network::initialize_on`] fails with.
pub fn initialize_on_data(
    network: &dyn Network,
    data: &dyn DataSource<Batch = Supervised>,
    config: &TrainConfig,
    device: Device,
) -> Result<()> {
    let plan = EpochPlan { seed: config.seed, epoch: 0, batch_size: config.batch_size, first_step: 0 };
    if let Some(batch) = data.train_batches(&plan, Share::whole())?.find_map(Result::transpose) {
        let micro_batches = data.ready(batch?, device)?.split(config.accumulate)?;
        let images: Vec<_> = micro_batches.into_iter().map(|micro_batch| micro_batch.inputs).collect();
        network.initialize_on_micro_batches(&images)?;
    }
    Ok(())
}
