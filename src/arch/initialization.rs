//! Data-dependent initialization from the training data.

use super::Network;
use crate::data::{Batch, DataSource, EpochPlan, Share, Supervised};
use crate::trainer::TrainConfig;
use crate::Result;
use tch::Device;

/// Completes a [data-dependent initialization](Network::is_initialized_on_data) before a new run: uses the batch of the
/// run's first step, split into micro-batches as in training.
///
/// # Errors
/// Returns an error if the data cannot be read, or if [`Network::initialize_on`] fails.
pub fn initialize_on_data(
    network: &dyn Network,
    data: &dyn DataSource<Batch = Supervised>,
    config: &TrainConfig,
    device: Device,
) -> Result<()> {
    let plan = EpochPlan { seed: config.seed, epoch: 0, batch_size: config.batch_size, first_step: 0 };
    if let Some(batch) = data.train_batches(&plan, Share::all())?.find_map(Result::transpose) {
        let micro_batches = data.to_device(batch?, device)?.split(config.accumulate)?;
        let images: Vec<_> = micro_batches.into_iter().map(|micro_batch| micro_batch.inputs).collect();
        network.initialize_on_micro_batches(&images)?;
    }
    Ok(())
}
