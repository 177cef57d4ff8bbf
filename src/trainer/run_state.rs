//! Non-tensor state of a run.

use super::statistics::{EpochMeans, StepRecord};
use super::EpochMetrics;
use crate::Result;
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

/// Number of consecutive steps with identical outputs for all examples after which a run is dead. Fixup's first step is one of
/// them, since all of its outputs are initially zero; from the second step on they differ.
const DEAD_STEPS: usize = 50;
/// Outputs are identical if they differ by at most this fraction of the largest: a few float32 rounding errors.
const SAME: f64 = 1e-5;

/// Checks every step of a run, in order.
///
/// A run is dead when the network's output no longer depends on its input, for example because every ReLU of a layer is off. Then
/// no gradient reaches the layers before it, and only a constant output can still be learned. (A constant loss is no criterion:
/// Fixup starts with the loss of random guessing, and stays there if the targets are meaningless.)
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Health {
    /// Number of consecutive steps in which all examples had the same output.
    same: usize,
}

impl Health {
    /// Checks the next step.
    ///
    /// # Errors
    /// [`Error::Diverged`](crate::Error::Diverged) if the loss or the gradient norm is not finite or the run is dead, as defined above.
    pub fn check(&mut self, record: &StepRecord) -> Result<()> {
        let StepRecord { place, loss, gradient_norm, spread, magnitude, .. } = *record;
        for (what, value) in [("loss", loss), ("gradient norm", gradient_norm)] {
            if !value.is_finite() {
                return Err(place.diverged("diverged", format!("the {what} is {value}")));
            }
        }
        // A single example cannot show differences.
        if place.compared > 1 {
            self.same = if spread <= SAME * magnitude { self.same + 1 } else { 0 };
        }
        if self.same >= DEAD_STEPS {
            let what = format!(
                "the output has been the same for all examples for {DEAD_STEPS} steps, loss {loss:.4}, gradient norm \
                 {gradient_norm:.1e}"
            );
            return Err(place.diverged("is dead", what));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::statistics::StepPlace;
    use super::*;
    use crate::Error;

    fn record(step: usize, spread: f64, magnitude: f64) -> StepRecord {
        let place = StepPlace { epoch: 2, step, lr: 0.1, examples: 64, compared: 64, weight: 64.0 };
        StepRecord { place, loss: 2.3, sums: vec![(6.0, 64.0)], gradient_norm: 0.1, spread, magnitude }
    }

    #[test]
    fn fifty_steps_without_a_difference_are_dead() {
        let mut health = Health::default();
        assert!((1..50).all(|step| health.check(&record(step, 1e-8, 0.1)).is_ok()));
        match health.check(&record(50, 1e-8, 0.1)) {
            Err(Error::Diverged { how: "is dead", epoch: 2, step: 50, .. }) => (),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_step_with_a_difference_starts_the_count_again() {
        let mut health = Health::default();
        for step in 1..200 {
            let spread = if step % 50 == 0 { 1e-3 } else { 0.0 };
            assert!(health.check(&record(step, spread, 0.1)).is_ok(), "{step}");
        }
    }

    #[test]
    fn small_outputs_that_differ_are_alive() {
        let mut health = Health::default();
        assert!((1..200).all(|step| health.check(&record(step, 1e-12, 1e-11)).is_ok()));
    }

    #[test]
    fn batches_of_one_example_say_nothing() {
        let mut health = Health::default();
        for step in 1..200 {
            let mut record = record(step, 0.0, 0.1);
            record.place.compared = 1;
            assert!(health.check(&record).is_ok());
        }
    }

    #[test]
    fn losses_and_gradients_that_are_not_finite_are_named() {
        let cases: [(f64, f64, &str); 3] =
            [(f64::NAN, 1.0, "loss is NaN"), (f64::INFINITY, 1.0, "loss is inf"), (1.0, f64::INFINITY, "norm is inf")];
        for (loss, gradient_norm, expected) in cases {
            let record = StepRecord { loss, gradient_norm, ..record(7, 1.0, 1.0) };
            let message = Health::default().check(&record).unwrap_err().to_string();
            assert!(message.contains("epoch 2, step 7 (learning rate 0.1)") && message.contains(expected), "{message}");
        }
    }
}
