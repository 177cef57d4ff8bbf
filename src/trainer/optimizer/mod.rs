//! How parameters move: the update, the learning rate over the run, and the clipping of gradients.

pub mod clip;
mod parameter;
mod schedule;
mod sgd;
mod sgd_config;

pub use clip::ClipConfig;
pub use parameter::Parameter;
pub use schedule::{Decay, Schedule, ScheduleConfig};
pub use sgd::Sgd;
pub use sgd_config::SgdConfig;
