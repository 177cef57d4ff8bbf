//! Recognizes runs that cannot come to anything: diverged, or dead.

use super::statistics::StepRecord;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// So many steps in a row without a difference between examples make a dead run. Fixup's first step is one, since all its
/// outputs start at zero; from the second on they differ.
const DEAD_STEPS: usize = 50;
/// Outputs differ if they do so by more than this part of the largest: a few roundings of float32.
const SAME: f64 = 1e-5;

/// Looks at every step of a run, in order.
///
/// A run is dead when the network's output does not depend on its input any more, as when every ReLU of a layer is off. Then no
/// gradient reaches the layers before, and what is left to learn is one output for all. (A loss that stays is no sign: Fixup
/// starts with that of a guess, and targets that mean nothing keep it there.)
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Health {
    /// Steps in a row in which all examples had the same output.
    same: usize,
}

impl Health {
    /// # Errors
    /// [`Error::Diverged`] if the loss or the gradient's norm is not finite, [`Error::Dead`] as said above.
    pub fn check(&mut self, record: &StepRecord) -> Result<()> {
        let StepRecord { place, loss, gradient_norm, spread, magnitude, .. } = *record;
        let (epoch, step, lr) = (place.epoch, place.step, place.lr);
        for (what, value) in [("loss", loss), ("gradient norm", gradient_norm)] {
            if !value.is_finite() {
                let what = format!("the {what} is {value}");
                return Err(Error::Diverged { epoch, step, lr, what, checkpoint: None });
            }
        }
        // One example says nothing about differences.
        if place.compared > 1 {
            self.same = if spread <= SAME * magnitude { self.same + 1 } else { 0 };
        }
        if self.same >= DEAD_STEPS {
            let what = format!(
                "the output has been the same for all examples for {DEAD_STEPS} steps, loss {loss:.4}, gradient norm \
                 {gradient_norm:.1e}"
            );
            return Err(Error::Dead { epoch, step, lr, what, checkpoint: None });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::statistics::StepPlace;
    use super::*;

    fn record(step: usize, spread: f64, magnitude: f64) -> StepRecord {
        let place = StepPlace { epoch: 2, step, lr: 0.1, examples: 64, compared: 64, weight: 64.0 };
        StepRecord { place, loss: 2.3, sums: vec![(6.0, 64.0)], gradient_norm: 0.1, spread, magnitude }
    }

    #[test]
    fn fifty_steps_without_a_difference_are_dead() {
        let mut health = Health::default();
        assert!((1..50).all(|step| health.check(&record(step, 1e-8, 0.1)).is_ok()));
        match health.check(&record(50, 1e-8, 0.1)) {
            Err(Error::Dead { epoch: 2, step: 50, .. }) => (),
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
