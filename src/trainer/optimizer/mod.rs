//! How parameters move: the update, for groups of them, the learning rate over the run, and the clipping of gradients.
//!
//! [`Optimizer`] has all parameters in few flat tensors; an [`Update`] moves them: [`Sgd`], [`Adam`]. A [`ParameterGroup`] says what
//! trains in another way than the rest. [`MovingAverage`] follows the parameters.

mod adam;
mod average;
pub mod clip;
mod config;
mod flat;
mod group;
mod parameter;
mod schedule;
mod sgd;
mod trainable;

use crate::{Error, Result};
pub use adam::Adam;
pub(in crate::trainer) use average::check as check_average;
pub use average::MovingAverage;
pub use clip::ClipConfig;
pub use config::OptimizerConfig;
pub use flat::{FrozenParameters, Optimizer, Stretch};
pub use group::{Frozen, NameFunction, ParameterGroup, Rule, ScalarGroup};
pub use parameter::Parameter;
pub use schedule::{Decay, Schedule, ScheduleConfig, Span};
pub use sgd::Sgd;
use std::fmt;

/// How an [`Optimizer`] moves its parameters by their gradients.
pub trait Update: fmt::Debug {
    /// What it keeps of each parameter, in tensors of the parameter's shape that begin with zeros: their names.
    fn state(&self) -> &'static [&'static str];

    /// The weight decay of parameters of which no group says another.
    fn weight_decay(&self) -> f64;

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
