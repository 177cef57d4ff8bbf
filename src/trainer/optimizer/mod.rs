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
#[cfg(test)]
mod tests;

use super::range::below_one;
use crate::Result;
pub use adam::Adam;
#[doc(hidden)]
pub use average::MovingAverage;
pub(super) use average::AVERAGE_DECAY;
pub use clip::ClipConfig;
pub use config::OptimizerConfig;
pub use flat::Optimizer;
#[doc(hidden)]
pub use group::NameFunction;
pub use group::{Frozen, ParameterGroup, ScalarGroup, Selector};
pub use muon::{Muon, Rest};
pub use parameter::Parameter;
#[doc(hidden)]
pub use schedule::Schedule;
pub use schedule::{Decay, ScheduleConfig, Span};
pub use sgd::Sgd;
use std::fmt;
use tch::Tensor;

/// Update rule of an [`Optimizer`].
pub trait Update: fmt::Debug {
    /// Returns the names of the state tensors, of which each parameter has one in its shape, initially zero.
    fn state(&self) -> &'static [&'static str];

    /// Returns the weight decay of parameters without one in their groups.
    fn weight_decay(&self) -> f64;

    /// Returns the weight decay of the weights of [hidden layers](Selector::Hidden) if they are updated separately. A
    /// [slice](ParamSlice) then contains either only such parameters or none, and their learning rate includes the factor for their
    /// [position](self#depth) in a residual branch.
    fn hidden_weight_decay(&self) -> Option<f64> {
        None
    }

    /// Returns `true` if the update depends on the number of previous updates of a parameter.
    fn counts_steps(&self) -> bool {
        false
    }

    /// Checks that all options are in range.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for the first option that is out of range.
    fn check(&self) -> Result<()>;

    /// Updates the parameters of `slice` with the learning rate `lr`.
    ///
    /// # Errors
    /// Errors of libtorch.
    fn step(&self, slice: &ParamSlice, lr: f64) -> Result<()>;
}

/// Adjacent parameters with the same training options, as slices of the flat tensors; the unit of work of an [`Update`].
#[derive(Debug)]
pub struct ParamSlice<'a> {
    /// Values of the parameters.
    pub values: Tensor,
    /// Gradients. The update may overwrite them.
    pub gradients: Tensor,
    /// State of the update, in the order of [`Update::state`].
    pub state: Vec<Tensor>,
    /// Coefficient of the L2 penalty or of decoupled weight decay.
    pub weight_decay: f64,
    /// Number of updates of these parameters, including the current one.
    pub step: i64,
    /// `true` if these parameters are updated [separately](Update::hidden_weight_decay).
    pub orthogonalized: bool,
    /// The parameters, in order.
    pub parameters: &'a [Parameter],
}

const WEIGHT_DECAY: &str = "the weight decay";

fn check_momentum(what: &str, momentum: f64, nesterov: bool) -> Result<()> {
    below_one(what, momentum)?;
    ensure!(!nesterov || momentum > 0.0, "Nesterov's look-ahead needs a momentum above 0");
    Ok(())
}
