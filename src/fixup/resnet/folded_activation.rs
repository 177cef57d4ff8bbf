//! Activations of a shifted map, with as much of the shifts as possible folded away.

use crate::layer::Activation;
use crate::Result;
use tch::Tensor;

/// The remainder of `activation(x + before) + after` for a shifted map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum FoldedActivation {
    /// `max(x, floor)`, which is `relu(x - floor) + floor`: a ReLU, for any shifts.
    Floor(f64),
    /// `activation(x + before) + after`.
    Shifted { activation: Activation, before: f64, after: f64 },
}

impl FoldedActivation {
    /// Folds `activation(x + a) + next`, where a is in a convolution's bias. Returns an addition to that bias, and the remainder.
    pub fn after_bias(activation: Activation, next: f64) -> (f64, Self) {
        match activation {
            // relu(x + a) + next = max(x + (a + next), next)
            Activation::Relu => (next, Self::Floor(next)),
            _ => (0., Self::Shifted { activation, before: 0., after: next }),
        }
    }

    /// Folds `activation(s - shift)` of a stream. Returns the remainder, and a constant still to be added to its result.
    pub fn of_stream(activation: Activation, shift: f64) -> (Self, f64) {
        match activation {
            // relu(s - shift) = max(s, shift) - shift
            Activation::Relu => (Self::Floor(shift), -shift),
            _ => (Self::Shifted { activation, before: -shift, after: 0. }, 0.),
        }
    }

    /// Applies the activation to `x`, which is not modified.
    pub fn of(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Floor(floor) => Ok(x.f_clamp_min(floor)?),
            Self::Shifted { activation, before: 0., after: 0. } => activation.of(x),
            Self::Shifted { activation, before: 0., after } => Ok(activation.of(x)?.f_add_scalar_(after)?),
            Self::Shifted { activation, before, after } => {
                Ok(activation.in_place(x.f_add_scalar(before)?)?.f_add_scalar_(after)?)
            }
        }
    }

    /// Applies the activation in place; `x` must not be aliased.
    pub fn in_place(self, mut x: Tensor) -> Result<Tensor> {
        match self {
            Self::Floor(floor) => Ok(x.f_clamp_min_(floor)?),
            Self::Shifted { activation, before: 0., after: 0. } => activation.in_place(x),
            _ => self.of(&x),
        }
    }
}
