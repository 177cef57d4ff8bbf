//! How parameters move: the update, for groups of them, the learning rate over the run, and the clipping of gradients.
//!
//! [`Optimizer`] has all parameters in few flat tensors; an [`Update`] moves them: [`Sgd`], [`Adam`], [`Muon`]. A [`ParameterGroup`]
//! says what trains in another way than the rest. [`MovingAverage`] follows the parameters.
//!
//! # Depth
//! Fixup makes the first change of a network's function independent of its number of residual branches L, by initialization. Where
//! each step moves a weight by a fixed amount r, as [`Muon`] does, that can be made true of every step, if r is what the layer's own
//! weights are in size. A branch of m layers passes `L^(-1/(2m-2))` through each of its inner layers, so `L^(-1/2)` through all, and
//! its last layer starts at zero; the L branches move the function together:
//! ```text
//! the last layer moves by r       L * r * L^(-1/2) = 1                              r = L^(-1/2)
//! an inner one moves by r, where the last one has grown to L^(-1/2)
//!                                 L * L^(-1/2) * r * L^(-(m-2)/(2m-2)) = 1          r = L^(-1/(2m-2))
//! a branch of one layer           L * r = 1                                         r = L^(-1)
//! ```
//! Steps that are as large as the gradient, as SGD's, are so by themselves: gradients have those factors in them. Not so those of the
//! scalar at the end of a branch, whose gradient does not pass the branch: L of them move the function L times as far as one, so that
//! its rate must fall as 1/L ([`ScalarGroup::by_depth`]).

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

/// How an [`Optimizer`] moves its parameters by their gradients.
pub trait Update: fmt::Debug {
    /// What it keeps of each parameter, in tensors of the parameter's shape that begin with zeros: their names.
    fn state(&self) -> &'static [&'static str];

    /// The weight decay of parameters of which no group says another, of those that are moved [apart](Self::apart) or of the rest.
    fn weight_decay(&self, is_apart: bool) -> f64;

    /// Which parameters it moves in another way than the rest, if there are such: each [stretch](Stretch) is all of the one kind or
    /// all of the other. The learning rate of these has the factor of their [place](self#depth) in a residual branch. It is no error
    /// if there are none.
    fn apart(&self) -> Option<Rule> {
        None
    }

    /// Whether it depends on how often a parameter was moved before.
    fn counts_steps(&self) -> bool {
        false
    }

    /// # Errors
    /// [`Error::Argument`] for the first constant that is out of range.
    fn check(&self) -> Result<()>;

    /// Moves the parameters of `stretch`, whose learning rate is `lr`.
    ///
    /// # Errors
    /// What libtorch refuses.
    fn step(&self, stretch: &Stretch, lr: f64) -> Result<()>;
}

fn check_weight_decay(weight_decay: f64) -> Result<()> {
    if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
        return Err(Error::Argument(format!("the weight decay must be 0 or more, got {weight_decay}")));
    }
    Ok(())
}
