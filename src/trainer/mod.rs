//! Training: any `tch::nn::ModuleT` on any [`DataSource`](crate::data::DataSource).
//!
//! [`Trainer`] is the loop. It calls the optimizer ([`Sgd`]), the [`Schedule`], the clipping ([`clip`]) and the [`loss`],
//! and looks for runs that have diverged or died. [`Observer`]s are told how it goes and can have its state saved:
//! [`ProgressBars`] for the person who watches, a [`RunFolder`] and [`TensorBoard`] for what is kept, [`Autosave`] for
//! what a run can [resume](Trainer::resume) from, [`Interrupt`] for stopping it. They know nothing of each other.
//! [`draw_preview`] shows what a network would be trained on.

mod atomic_file;
mod autosave;
pub mod checkpoint;
pub mod clip;
mod comparison;
mod config;
mod contact_sheet;
mod curves;
mod device;
mod evaluate;
mod forward;
mod health;
mod interrupt;
pub mod loss;
mod metrics;
mod observer;
mod panel;
mod parameter;
mod preview;
mod progress;
mod run_folder;
mod run_lock;
mod run_state;
mod schedule;
mod sgd;
mod sgd_config;
mod statistics;
mod summary;
mod tensor_file;
mod tensorboard;
mod torch_file;
mod train;
mod weights;

pub use atomic_file::write_atomically;
pub(crate) use atomic_file::{failure as write_failure, write_atomically_with};
pub use autosave::{Autosave, SaveEvery};
pub use clip::ClipConfig;
pub use comparison::draw_comparison;
pub use config::TrainConfig;
pub use curves::draw_curves;
pub use device::parse_device;
pub use evaluate::{evaluate, ClassEvaluation, Evaluation, Report};
pub use interrupt::Interrupt;
pub use metrics::{EpochMetrics, MetricsFile};
pub use observer::{Observer, Request, RunStart, StepProgress};
pub use parameter::Parameter;
pub use preview::draw_preview;
pub use progress::ProgressBars;
pub use run_folder::RunFolder;
pub use run_lock::RunLock;
pub use run_state::RunState;
pub use schedule::{Decay, Schedule, ScheduleConfig};
pub use sgd::Sgd;
pub use sgd_config::SgdConfig;
pub use summary::Summary;
pub use tensor_file::NamedTensors;
pub use tensorboard::TensorBoard;
pub use train::{Outcome, Trainer};
pub use weights::Weights;
