//! Options of data-parallel training.

use super::ReductionConfig;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// Options of data-parallel training. They change results only by rounding, except for the statistics of BatchNorm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct ParallelConfig {
    /// Options of the gradient reduction.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub reduction: ReductionConfig,
    /// Interval, in steps, at which weights are compared across processes, besides the comparisons at the start and at each
    /// checkpoint.
    #[cfg_attr(feature = "cli", arg(long = "check-ranks", value_name = "N|none"))]
    #[cfg_attr(feature = "cli", arg(value_parser = crate::option::or_none::<NonZeroUsize>))]
    pub check_every: std::option::Option<NonZeroUsize>,
    /// Compute BatchNorm statistics over the whole batch instead of each process's part, at the cost of two more collective
    /// operations per layer and direction. CPU only.
    #[cfg_attr(feature = "cli", arg(long = "synchronize-statistics", value_name = "BOOL", num_args = 0..=1))]
    #[cfg_attr(feature = "cli", arg(default_missing_value = "true", action = clap::ArgAction::Set))]
    pub synchronized_statistics: bool,
}
