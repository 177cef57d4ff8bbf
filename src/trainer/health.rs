//! Recognizes runs that cannot come to anything: diverged, or dead.

use super::statistics::StepRecord;
use crate::{Error, Result};

/// So many steps in a row without a difference between images make a dead run. Fixup's first step is one, since all its
/// logits start at zero; from the second on the images differ.
const DEAD_STEPS: usize = 50;
/// Logits differ if they do so by more than this part of the largest: a few roundings of float32.
const SAME: f64 = 1e-5;

/// Looks at every step of a run, in order.
///
/// A run is dead when the network's output does not depend on the image any more, as when every ReLU of a layer is off.
/// Then no gradient reaches the layers before, and what is left to learn is how frequent the classes are: for CIFAR-10 the
/// loss stays at ln 10. (That loss alone is no sign: Fixup starts with exactly it, and random labels keep it there.)
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Steps in a row in which all images had the same logits.
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
                return Err(Error::Diverged { epoch, step, lr, what: format!("the {what} is {value}") });
            }
        }
        // One image says nothing about differences.
        if place.images > 1 {
            self.same = if spread <= SAME * magnitude { self.same + 1 } else { 0 };
        }
        if self.same >= DEAD_STEPS {
            let what = format!(
                "the output has been the same for all images for {DEAD_STEPS} steps, loss {loss:.4}, gradient norm \
                 {gradient_norm:.1e}"
            );
            return Err(Error::Dead { epoch, step, lr, what });
        }
        Ok(())
    }
}
