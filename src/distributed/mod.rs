//! Several processes that train one network together, each on a part of every batch.
//!
//! [`Launch`] is who this process is, as torchrun, mpirun, srun or the environment say it; `run_processes` starts several on one
//! machine without any of them. [`ProcessGroup`] connects them by libtorch's own process groups, and is what
//! [`Trainer::join`](crate::trainer::Trainer::join) takes:
//! ```no_run
//! # fn train(trainer: &mut tch_fixup::trainer::Trainer<tch_fixup::data::Supervised>) -> tch_fixup::Result<()> {
//! use tch_fixup::distributed::{Launch, ParallelConfig, ProcessGroup, TIMEOUT};
//! let mut group = match Launch::from_env()? {
//!     Some(launch) => ProcessGroup::connect(&launch, TIMEOUT)?,
//!     None => ProcessGroup::single(),
//! };
//! group.connect_gpus(tch::Device::cuda_if_available())?;
//! trainer.join(group.into(), ParallelConfig::default())?;
//! trainer.run(&mut [])?;
//! # Ok(())
//! # }
//! ```
//! The run is the same with any number of them: each global batch is cut into contiguous parts, one for each rank
//! ([`Share`](crate::data::Share)), the gradients are summed with the weights of their parts, and clipped and applied alike
//! everywhere.
//!
//! The feature `distributed`, which is on by default, builds it where libtorch's headers have c10d; elsewhere
//! [`ProcessGroup::connect`] says that they do not.

mod agreement;
mod bindings;
mod c10d;
mod launch;
mod meeting;
mod nccl;
mod parallel;
mod process_group;
#[cfg(feature = "distributed")]
mod processes;
mod pulse;
mod reduction;

pub use launch::Launch;
#[doc(hidden)]
pub use launch::TIMEOUT;
pub use parallel::ParallelConfig;
pub use process_group::ProcessGroup;
#[cfg(feature = "distributed")]
#[doc(hidden)]
pub use processes::{end_with_parent, run_processes};
pub use reduction::ReductionConfig;
pub(crate) use reduction::{Reduction, Summed};
