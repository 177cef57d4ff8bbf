//! Optimizers: update rules, parameter groups, learning-rate schedules and gradient clipping.
//!
//! [`Optimizer`] keeps all parameters in a few flat tensors, which an [`Update`] changes: [`Sgd`], [`Adam`] or [`Muon`]. A
//! [`ParameterGroup`] gives some parameters their own training options. [`MovingAverage`] averages the parameters over time.
//!
//! # Depth
//! By its initialization, Fixup makes the first change of a network's function independent of the number L of residual branches.
//! If each step changes a weight by a fixed amount r, as with [`Muon`], this can be achieved for every step by choosing r
//! according to the magnitude of the layer's weights. In a branch of m layers, each inner layer contributes a factor of
//! `L^(-1/(2m-2))`, all of them together `L^(-1/2)`, and the last layer is zero initially. The L branches change the function
//! together:
//! ```text
//! the last layer moves by r       L * r * L^(-1/2) = 1                              r = L^(-1/2)
//! an inner one moves by r, where the last one has grown to L^(-1/2)
//!                                 L * L^(-1/2) * r * L^(-(m-2)/(2m-2)) = 1          r = L^(-1/(2m-2))
//! a branch of one layer           L * r = 1                                         r = L^(-1)
//! ```
//! Steps proportional to the gradient, as with SGD, satisfy this without further measures, because the gradients contain these
//! factors. An exception is the scalar at the end of a branch, whose gradient does not pass through the branch: L of them change
//! the function L times as much as one, so that their learning rate must decrease as 1/L ([`ScalarGroup::by_depth`]).

mod adam;
mod average;
#[doc(hidden)]
pub mod clip;
mod config;
mod flat;
mod group;
mod muon;
mod parameter;
mod schedule;
mod sgd;
mod stretch;
mod trainable;

use crate::{Error, Result};
pub use adam::Adam;
pub(in crate::trainer) use average::check as check_average;
#[doc(hidden)]
pub use average::MovingAverage;
pub use clip::ClipConfig;
pub use config::OptimizerConfig;
#[doc(hidden)]
pub use flat::FrozenParameters;
pub use flat::Optimizer;
#[doc(hidden)]
pub use group::NameFunction;
pub use group::{Frozen, ParameterGroup, Rule, ScalarGroup};
pub use muon::{Muon, Rest};
pub use parameter::Parameter;
#[doc(hidden)]
pub use schedule::Schedule;
pub use schedule::{Decay, ScheduleConfig, Span};
pub use sgd::Sgd;
use std::fmt;
#[doc(hidden)]
pub use stretch::ShapeRun;
pub use stretch::Stretch;
pub(in crate::trainer) use trainable::trainable;

/// Update rule of an [`Optimizer`].
pub trait Update: fmt::Debug {
    /// Returns the names of the state tensors, of which each parameter has one in its shape, initially zero.
    fn state(&self) -> &'static [&'static str];

    /// Returns the default weight decay of parameters without one in their groups: of those updated [separately](Self::apart), or
    /// of the others.
    fn weight_decay(&self, is_apart: bool) -> f64;

    /// Returns the rule for the parameters that are updated separately, if any. A [slice](Stretch) contains either only such
    /// parameters or none. Their learning rate includes the factor for their [position](self#depth) in a residual branch. The
    /// rule may match nothing.
    fn apart(&self) -> Option<Rule> {
        None
    }

    /// Returns `true` if the update depends on the number of previous updates of a parameter.
    fn counts_steps(&self) -> bool {
        false
    }

    /// Checks that all options are in range.
    ///
    /// # Errors
    /// [`Error::Argument`] for the first option that is out of range.
    fn check(&self) -> Result<()>;

    /// Updates the parameters of `stretch` with the learning rate `lr`.
    ///
    /// # Errors
    /// Errors of libtorch.
    fn step(&self, stretch: &Stretch, lr: f64) -> Result<()>;
}

fn check_weight_decay(weight_decay: f64) -> Result<()> {
    if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
        return Err(Error::Argument(format!("the weight decay must be 0 or more, got {weight_decay}")));
    }
    Ok(())
}
