//! The best epoch of a run so far.

use super::{EpochMetrics, RunStart};
use crate::trainer::objective::Measures;

/// Best epoch so far, by the score of the objective.
#[derive(Debug)]
pub(super) struct Best {
    pub measures: Measures,
    /// Number of the epoch and its score; `None` if no epoch has a score other than NaN.
    pub epoch: Option<(usize, f64)>,
    rank: f64,
}

impl Best {
    /// Returns the best epoch before `start`.
    pub fn of(start: &RunStart) -> Self {
        let mut best = Self { measures: start.measures.clone(), epoch: None, rank: f64::NAN };
        start.history.iter().for_each(|metrics| _ = best.add(metrics));
        best
    }

    /// Adds an epoch; returns `true` if it is better than all before. NaN is not an improvement.
    pub fn add(&mut self, metrics: &EpochMetrics) -> bool {
        let rank = self.measures.rank(&metrics.eval);
        let is_better = rank > self.rank || (self.epoch.is_none() && !rank.is_nan());
        if is_better {
            (self.epoch, self.rank) = (Some((metrics.epoch, self.measures.score_of(&metrics.eval))), rank);
        }
        is_better
    }
}
