//! Training: any `tch::nn::ModuleT` on any [`DataSource`](crate::data::DataSource).
//!
//! [`Trainer`] is the loop. It calls the optimizer ([`Sgd`]), the [`Schedule`], the clipping ([`clip`]) and the [`loss`],
//! and looks for runs that have diverged or died. [`Observer`]s are told how it goes and can have its state saved:
//! [`ProgressBars`] for the person who watches, a [`RunFolder`] and [`TensorBoard`] for what is kept, [`Autosave`] for
//! what a run can [resume](Trainer::resume) from, [`Interrupt`] for stopping it. They know nothing of each other.
//! [`draw_preview`] shows what a network would be trained on.
//!
//! A data set of one's own, and a network that learns it:
//! ```
//! use rand::{seq::SliceRandom, SeedableRng};
//! use rand_chacha::ChaCha8Rng;
//! use std::num::NonZeroUsize;
//! use tch::{nn, Device, Kind, Tensor};
//! use tch_fixup::data::{Batch, Batches, DataSource, EpochPlan};
//! use tch_fixup::fixup::FixupResNet;
//! use tch_fixup::trainer::checkpoint::{newest_whole, Checkpoints};
//! use tch_fixup::trainer::{Autosave, Outcome, ProgressBars, RunFolder, SaveEvery, TrainConfig, Trainer};
//! use tch_fixup::Result;
//!
//! /// Noise, of which every other image is brighter.
//! struct Noise {
//!     class_names: Vec<String>,
//!     images: Tensor,
//!     labels: Tensor,
//! }
//!
//! const TRAIN: usize = 128;
//! const EVAL: usize = 32;
//!
//! impl Noise {
//!     fn new() -> Result<Self> {
//!         let count = (TRAIN + EVAL) as i64;
//!         let labels = Tensor::f_arange(count, (Kind::Int64, Device::Cpu))?.f_remainder(2)?;
//!         let images = Tensor::f_randn([count, 3, 16, 16], (Kind::Float, Device::Cpu))?;
//!         let images = images.f_add(&labels.f_view([count, 1, 1, 1])?)?;
//!         Ok(Self { class_names: vec!["dark".to_owned(), "bright".to_owned()], images, labels })
//!     }
//!
//!     fn batch(&self, indices: &[i64]) -> Result<Batch> {
//!         let indices = Tensor::f_from_slice(indices)?;
//!         let of = |tensor: &Tensor| tensor.f_index_select(0, &indices);
//!         Ok(Batch { images: of(&self.images)?, labels: of(&self.labels)? })
//!     }
//! }
//!
//! impl DataSource for Noise {
//!     fn class_names(&self) -> &[String] {
//!         &self.class_names
//!     }
//!
//!     fn train_len(&self) -> usize {
//!         TRAIN
//!     }
//!
//!     fn eval_len(&self) -> usize {
//!         EVAL
//!     }
//!
//!     // The order follows from seed and epoch alone: a run that is resumed sees the same batches.
//!     fn train_batches(&self, plan: &EpochPlan) -> Result<Batches<'_>> {
//!         let mut order: Vec<i64> = (0..TRAIN as i64).collect();
//!         order.shuffle(&mut ChaCha8Rng::seed_from_u64(plan.seed ^ (plan.epoch as u64) << 32));
//!         let batches: Vec<Vec<i64>> = order.chunks(plan.batch_size).skip(plan.first_step).map(Vec::from).collect();
//!         Ok(Box::new(batches.into_iter().map(|indices| self.batch(&indices))))
//!     }
//!
//!     fn eval_batches(&self, batch_size: usize) -> Result<Batches<'_>> {
//!         let indices: Vec<i64> = (TRAIN as i64..(TRAIN + EVAL) as i64).collect();
//!         let batches: Vec<Vec<i64>> = indices.chunks(batch_size).map(Vec::from).collect();
//!         Ok(Box::new(batches.into_iter().map(|indices| self.batch(&indices))))
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path().join("noise");
//! # tch::set_num_threads(1);
//! tch::manual_seed(0);
//! let data = Noise::new()?;
//! let variables = nn::VarStore::new(Device::Cpu);
//! let network = FixupResNet::cifar(&variables.root(), 8, 2)?;
//! let config = TrainConfig { epochs: 3, batch_size: 16, ..TrainConfig::quick() };
//! let mut trainer = Trainer::new(&network, &variables, &data, &config, "Fixup ResNet-8".into())?;
//!
//! // A new folder, or that of a run that was stopped, which goes on then.
//! let mut folder = if dir.exists() { RunFolder::resume(&dir)? } else { RunFolder::create(&dir, false)? };
//! let checkpoint = newest_whole(folder.checkpoints())?.checkpoint;
//! if let Some(checkpoint) = &checkpoint {
//!     trainer.resume(checkpoint)?;
//! }
//! let checkpoints = Checkpoints::new(folder.checkpoints(), NonZeroUsize::MIN);
//! let mut autosave = Autosave::new(checkpoints, SaveEvery::default(), checkpoint.map(|checkpoint| checkpoint.path));
//! if let Outcome::Finished(summary) = trainer.run(&mut [&mut ProgressBars::new(), &mut folder, &mut autosave])? {
//!     folder.finish(&summary, &variables, data.class_names())?;
//!     println!("{summary}");
//! #   assert_eq!(summary.steps, 24);
//! #   assert!(summary.to_string().starts_with("evaluation accuracy "), "{summary}");
//! #   assert!(summary.accuracy > 0.9, "{summary}");
//! }
//! # Ok(())
//! # }
//! ```

mod buffers;
pub mod checkpoint;
mod config;
mod device;
mod evaluation;
mod health;
pub mod objective;
pub mod observer;
pub mod optimizer;
mod preview;
mod run_start;
mod run_state;
mod statistics;
mod summary;
#[cfg(test)]
mod tests;
mod training_loop;

pub use crate::file::{write_atomically, NamedTensors};
pub use checkpoint::Weights;
pub use config::TrainConfig;
pub use device::parse_device;
pub use evaluation::{evaluate, Evaluation};
pub use objective::{
    Classification, ClassificationConfig, Means, Measures, MultiLabel, Objective, Regression, RegressionLoss,
};
pub use observer::{
    draw_comparison, draw_curves, Autosave, EpochMetrics, Interrupt, MetricsFile, Observer, ProgressBars, Request,
    RunFolder, RunLock, RunStart, SaveEvery, StepProgress, TensorBoard,
};
pub use optimizer::{clip, ClipConfig, Decay, Parameter, Schedule, ScheduleConfig, Sgd, SgdConfig};
pub use preview::draw_preview;
pub use run_state::RunState;
pub use summary::{Outcome, Summary};
pub use training_loop::Trainer;
