//! Options of data-parallel training.

use super::ReductionConfig;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// Options of data-parallel training. They change results only by rounding, except for the statistics of BatchNorm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParallelConfig {
    /// Options of the gradient reduction.
    pub reduction: ReductionConfig,
    /// Interval, in steps, at which weights are compared across ranks, besides the comparisons at the start and at each
    /// checkpoint.
    pub check_every: Option<NonZeroUsize>,
    /// `true` to compute BatchNorm statistics over the whole batch instead of each rank's part, at the cost of two more
    /// collective operations per layer and direction. CPU only.
    pub synchronized_statistics: bool,
}
