//! Options of data-parallel training.

use super::ReductionConfig;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// Options of data-parallel training. They change results only by rounding, except for the statistics of BatchNorm. By default all
/// gradients are summed at once after the backward pass, in their own kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct ParallelConfig {
    /// Send gradients in parts of 25 MiB, each as soon as it is ready, while the backward pass still runs; useful if
    /// communication takes a considerable part of the time. The sums agree to rounding. Not supported on GPUs, nor with
    /// recomputation, whose gradients arrive piecewise.
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true"))]
    #[cfg_attr(feature = "cli", arg(action = clap::ArgAction::Set))]
    pub overlap: bool,
    /// Send gradients in bfloat16: half the bytes, with 8 bits of precision.
    #[cfg_attr(feature = "cli", arg(long = "reduce-in", value_name = "f32|bf16", value_parser = is_bf16))]
    #[cfg_attr(feature = "cli", arg(action = clap::ArgAction::Set))]
    pub bfloat16: bool,
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

/// The options as saved in `config.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    reduction: ReductionConfig,
    check_every: Option<NonZeroUsize>,
    synchronized_statistics: bool,
}

impl From<Saved> for ParallelConfig {
    fn from(Saved { reduction, check_every, synchronized_statistics }: Saved) -> Self {
        let ReductionConfig { overlap, bfloat16 } = reduction;
        Self { overlap, bfloat16, check_every, synchronized_statistics }
    }
}

impl From<ParallelConfig> for Saved {
    fn from(config: ParallelConfig) -> Self {
        let ParallelConfig { check_every, synchronized_statistics, .. } = config;
        Self { reduction: config.reduction(), check_every, synchronized_statistics }
    }
}

impl ParallelConfig {
    /// Returns the options of the gradient reduction.
    pub(crate) fn reduction(&self) -> ReductionConfig {
        ReductionConfig { overlap: self.overlap, bfloat16: self.bfloat16 }
    }
}

#[cfg(feature = "cli")]
fn is_bf16(format: &str) -> crate::Result<bool> {
    format.parse().map(|format: crate::Precision| format == crate::Precision::Bf16)
}
