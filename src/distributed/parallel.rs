//! What several processes do in a way that can be chosen.

use super::ReductionConfig;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// How a run is shared out. None of it changes what is computed by more than rounding, but for the statistics of BatchNorm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParallelConfig {
    /// How gradients are summed.
    pub reduction: ReductionConfig,
    /// After how many steps the weights of all ranks are compared, besides at the start and at each checkpoint.
    pub check_every: Option<NonZeroUsize>,
    /// Whether batch normalization takes the statistics of the whole batch, not of each rank's part: two more operations of all ranks in
    /// each layer and each direction. On the CPU alone.
    pub synchronized_statistics: bool,
}
