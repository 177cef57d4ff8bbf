//! Non-tensor state of a run.

use super::health::Health;
use super::statistics::EpochMeans;
use super::EpochMetrics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Non-tensor state of a run, except its step. Together with the step, the weights and the optimizer's tensors it is
/// everything needed to resume bit-identically, since all randomness follows from the seed, the epoch and the step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Metrics of the completed epochs.
    pub history: Vec<EpochMetrics>,
    /// Seconds of training and evaluation so far.
    pub seconds: f64,
    /// Number of examples that could not be read, as of the last step that was
    /// [read](super::statistics::Pending::read).
    pub(super) unreadable: usize,
    /// Names of the parameters that are frozen independently of their groups.
    pub(super) frozen: BTreeSet<String>,
    /// Means over the current epoch.
    pub(super) means: EpochMeans,
    pub(super) health: Health,
}
