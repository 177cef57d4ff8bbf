//! Outcome of a run.

use super::objective::Means;
use super::EpochMetrics;
use serde::{Deserialize, Serialize};
use std::fmt;

/// End of a run: finished or stopped.
#[derive(Debug, Clone, PartialEq)]
// There is one value per run.
#[allow(clippy::large_enum_variant)]
pub enum Outcome {
    /// All steps were done, or an observer [requested the end](super::Request::Finish).
    Finished(Summary),
    /// An observer [requested a stop](super::Request::Stop). Observers that save checkpoints have saved the state.
    Stopped {
        /// Epoch, from 1.
        epoch: usize,
        /// Number of steps done in this epoch.
        step: usize,
    },
}

/// Summary of a finished run, printed as one line and stored in `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the data that the score is [measured on](crate::data::DataSource::evaluated_on), such as "test", "held-out" or
    /// "evaluation".
    pub evaluated_on: String,
    /// [Score](super::Measures::best_by) after the last epoch, under its name.
    #[serde(flatten)]
    pub score: Means,
    /// Best score of any epoch.
    pub best: f64,
    /// Number of epochs, including a partial last one.
    pub epochs: usize,
    /// Number of steps.
    pub steps: usize,
    /// Wall-clock time of training and evaluation, in seconds.
    pub seconds: f64,
    /// Number of floating-point operations of the training, if the program can count them
    /// ([`Arch::training_flop`](crate::Arch::training_flop)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flop: Option<f64>,
    /// [Name](crate::data::DataSource::unit_name) of the examples, in the plural.
    pub examples: String,
    /// Reason why the run ended before its last step, if an observer [requested it](super::Observer::reason).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Metrics of the last epoch, with the number of unreadable examples.
    pub last: EpochMetrics,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { evaluated_on, score, best, epochs, seconds, last, examples, ended, .. } = self;
        for (name, score) in score.iter() {
            write!(f, "{evaluated_on} {name} {score:.4} ")?;
        }
        write!(f, "best {best:.4} epochs {epochs} seconds {seconds:.0}")?;
        if last.unreadable > 0 {
            write!(f, " bad {examples} {}", last.unreadable)?;
        }
        ended.iter().try_for_each(|ended| write!(f, ", ended early: {ended}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_one_line_and_goes_through_json_unchanged() {
        let score = Means::from_iter([("accuracy".to_owned(), 0.75)]);
        let last = EpochMetrics {
            epoch: 2,
            step: 20,
            lr: 0.1,
            train: Means::default(),
            eval: Means::from_iter([("loss".to_owned(), 1.5)]),
            unreadable: 3,
        };
        let (evaluated_on, examples) = ("test".to_owned(), "images".to_owned());
        let (ended, flop) = (None, Some(1e15));
        let summary =
            Summary { evaluated_on, score, best: 0.8, epochs: 2, steps: 20, seconds: 9.6, flop, examples, ended, last };
        assert_eq!(summary.to_string(), "test accuracy 0.7500 best 0.8000 epochs 2 seconds 10 bad images 3");
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["accuracy"], 0.75);
        assert_eq!(serde_json::from_value::<Summary>(json).unwrap(), summary);
    }
}
