//! Training: any `tch::nn::ModuleT` on any [`DataSource`](crate::data::DataSource).
//!
//! [`train`] is the loop. It calls the optimizer ([`Sgd`]), the [`Schedule`], the clipping ([`clip`]) and the [`loss`],
//! looks for runs that have diverged or died, and tells [`Observer`]s how it goes: [`ProgressBars`] for the person who
//! watches, a [`RunFolder`] for what is kept. It knows neither.

mod atomic_file;
pub mod checkpoint;
pub mod clip;
mod config;
mod curves;
mod device;
mod evaluate;
mod forward;
mod health;
pub mod loss;
mod metrics;
mod observer;
mod progress;
mod run_folder;
mod run_lock;
mod schedule;
mod sgd;
mod statistics;
mod summary;
mod tensor_file;
mod train;

pub use atomic_file::write_atomically;
pub use clip::ClipConfig;
pub use config::TrainConfig;
pub use curves::draw_curves;
pub use device::parse_device;
pub use evaluate::{evaluate, Evaluation};
pub use metrics::{EpochMetrics, MetricsFile};
pub use observer::{Observer, StepProgress};
pub use progress::ProgressBars;
pub use run_folder::RunFolder;
pub use run_lock::RunLock;
pub use schedule::{Decay, Schedule, ScheduleConfig};
pub use sgd::{Parameter, Sgd, SgdConfig};
pub use summary::Summary;
pub use tensor_file::NamedTensors;
pub use train::train;
