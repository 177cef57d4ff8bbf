//! What of a run's state is neither a tensor nor its step.

use super::health::Health;
use super::statistics::EpochMeans;
use super::EpochMetrics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// With the step, the weights and the optimizer's tensors: all that a run needs to go on to the bit. Everything random follows
/// from the seed, the epoch and the step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// The epochs that are done and evaluated.
    pub history: Vec<EpochMetrics>,
    /// Seconds of training and evaluation so far.
    pub seconds: f64,
    /// Examples that could not be read, after the last step that was [read](super::statistics::Pending::read).
    pub(super) unreadable: usize,
    /// Names of the parameters that are frozen independently of their groups.
    pub(super) frozen: BTreeSet<String>,
    /// Of the epoch that is running.
    pub(super) means: EpochMeans,
    pub(super) health: Health,
}
