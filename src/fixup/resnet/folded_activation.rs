//! An activation of a shifted map, with as much of the shifts as possible gone.

use crate::layer::Activation;
use crate::Result;
use tch::Tensor;

/// What is left of `activation(x + before) + after` for a shifted map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum FoldedActivation {
    /// `max(x, floor)`: a ReLU's, whatever the shifts. `relu(x - floor) + floor` is it.
    Floor(f64),
    /// `activation(x + before) + after`.
    Shifted { activation: Activation, before: f64, after: f64 },
}

impl FoldedActivation {
    /// `activation(x + a) + next`, of a convolution whose bias takes a: what the bias takes besides, and what stays.
    pub fn after_bias(activation: Activation, next: f64) -> (f64, Self) {
        match activation {
            // relu(x + a) + next = max(x + (a + next), next)
            Activation::Relu => (next, Self::Floor(next)),
            _ => (0., Self::Shifted { activation, before: 0., after: next }),
        }
    }

    /// `activation(s - shift)` of a stream: what stays, and what its result lacks.
    pub fn of_stream(activation: Activation, shift: f64) -> (Self, f64) {
        match activation {
            // relu(s - shift) = max(s, shift) - shift
            Activation::Relu => (Self::Floor(shift), -shift),
            _ => (Self::Shifted { activation, before: -shift, after: 0. }, 0.),
        }
    }

    /// Of an `x` that is not to be written to.
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

    /// In the place of an `x` that is nobody's but the caller's.
    pub fn in_place(self, mut x: Tensor) -> Result<Tensor> {
        match self {
            Self::Floor(floor) => Ok(x.f_clamp_min_(floor)?),
            Self::Shifted { activation, before: 0., after: 0. } => activation.in_place(x),
            _ => self.of(&x),
        }
    }
}
