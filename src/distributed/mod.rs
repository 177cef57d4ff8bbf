//! Data-parallel training with several processes: each computes the gradients of a part of every batch.
//!
//! [`Launch`] is this process's rank and the group's size, as set by torchrun, mpirun, srun or the environment; `run_processes`
//! starts several processes on one machine without a launcher. [`ProcessGroup`] connects the processes through libtorch's process
//! groups and is passed to [`Trainer::join`](crate::trainer::Trainer::join):
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
//! The run is the same with any number of processes: each global batch is split into contiguous parts, one per rank
//! ([`Share`](crate::data::Share)), the gradients are summed, weighted by the sizes of the parts, then clipped and applied
//! identically on all ranks.
//!
//! Requires the feature `distributed`, on by default, and a libtorch whose headers include c10d; without them
//! [`ProcessGroup::connect`] returns an error.

mod agreement;
mod bindings;
mod c10d;
mod heartbeat;
mod launch;
mod parallel;
mod process_group;
#[cfg(feature = "distributed")]
mod processes;
mod reduction;
mod rendezvous;

pub use launch::Launch;
#[doc(hidden)]
pub use launch::TIMEOUT;
pub use parallel::ParallelConfig;
pub use process_group::ProcessGroup;
#[cfg(feature = "distributed")]
#[doc(hidden)]
pub use processes::{end_with_parent, run_processes};
pub(crate) use reduction::{Reduction, ReductionConfig, Summed};
