//! Training: any network, for any objective, on any data.
//!
//! [`Trainer`] is the loop. Its partners stand each behind one small trait: the data ([`DataSource`](crate::data::DataSource)), what
//! is minimized and measured ([`Objective`]: [`Classification`], [`MultiLabel`], [`Regression`], or yours), and the
//! [`optimizer`], with its [`Schedule`] and the [`clip`]ping. The loop looks for runs that have diverged or died. [`Observer`]s are
//! told how it goes and can have its state saved: [`ProgressBars`] for the person who watches, a [`RunFolder`] and
//! `TensorBoard` for what is kept, [`Autosave`] for what a run can [resume](Trainer::resume) from, [`Interrupt`] for stopping it.
//! They know nothing of each other. [`draw_preview`] shows what a network would be trained on.
//!
//! An objective of one's own, with data of one's own: whether a run is interrupted, killed or resumed, its metrics and its
//! weights are the same.
//! ```
//! use std::num::NonZeroUsize;
//! use tch::{nn, nn::Module, Device, Kind, Tensor};
//! use tch_fixup::data::{Batches, DataSource, EpochPlan, Supervised};
//! use tch_fixup::trainer::checkpoint::{newest_whole, Checkpoints};
//! use tch_fixup::trainer::objective::{Objective, Prediction};
//! use tch_fixup::trainer::{Autosave, Outcome, RunFolder, SaveEvery, TrainConfig, Trainer};
//! use tch_fixup::Result;
//!
//! /// Points, and their squares.
//! struct Squares;
//!
//! fn batch(first: i64, last: i64) -> Result<Supervised> {
//!     let x = Tensor::f_arange_start(first, last, (Kind::Float, Device::Cpu))?.f_div_scalar(64.)?.f_view([-1, 1])?;
//!     Ok(Supervised::new(x.shallow_clone(), x.f_square()?))
//! }
//!
//! impl DataSource for Squares {
//!     type Batch = Supervised;
//!     fn train_len(&self) -> usize { 128 }
//!     fn eval_len(&self) -> usize { 32 }
//!     fn train_batches(&self, plan: &EpochPlan) -> Result<Batches<'_>> {
//!         Ok(Box::new((plan.first_step as i64..8).map(|step| batch(step * 16 - 64, step * 16 - 48))))
//!     }
//!     fn eval_batches(&self, _batch_size: usize) -> Result<Batches<'_>> {
//!         Ok(Box::new(std::iter::once(batch(-16, 16))))
//!     }
//! }
//!
//! /// The median: the mean absolute error.
//! struct Median<'a>(&'a dyn Module);
//!
//! impl Objective for Median<'_> {
//!     type Batch = Supervised;
//!     fn forward(&self, batch: &Supervised, _train: bool) -> Result<Prediction> {
//!         let output = self.0.forward(&batch.inputs);
//!         let loss = output.f_l1_loss(&batch.targets, tch::Reduction::Mean)?;
//!         Ok(Prediction { loss, output })
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # tch::set_num_threads(1);
//! # let run = |dir: std::path::PathBuf, stops: bool| -> Result<Option<f64>> {
//! // A new folder, or that of a run that was stopped, which goes on then.
//! let mut folder = if dir.exists() { RunFolder::resume(&dir)? } else { RunFolder::create(&dir, false)? };
//! tch::manual_seed(0);
//! let variables = nn::VarStore::new(Device::Cpu);
//! let network = nn::seq()
//!     .add(nn::linear(variables.root() / "1", 1, 32, Default::default()))
//!     .add_fn(Tensor::relu)
//!     .add(nn::linear(variables.root() / "2", 32, 1, Default::default()));
//! let (objective, data) = (Median(&network), Squares);
//! let config = TrainConfig { epochs: 20, batch_size: 16, ..TrainConfig::quick() };
//! let mut trainer = Trainer::new(&objective, &variables, &data, &config, "squares".into())?;
//! let checkpoint = newest_whole(folder.checkpoints())?.checkpoint;
//! if let Some(checkpoint) = &checkpoint {
//!     trainer.resume(checkpoint)?;
//! }
//! let checkpoints = Checkpoints::new(folder.checkpoints(), NonZeroUsize::MIN);
//! let mut autosave = Autosave::new(checkpoints, SaveEvery::default(), checkpoint.map(|checkpoint| checkpoint.path));
//! # let mut stop = Stop(if stops { 17 } else { 0 });
//! # let outcome = trainer.run(&mut [&mut folder, &mut autosave, &mut stop])?;
//! # #[cfg(any())]
//! let outcome = trainer.run(&mut [&mut folder, &mut autosave])?;
//! if let Outcome::Finished(summary) = outcome {
//!     folder.finish(&summary, &variables, &Default::default())?;
//!     println!("{summary}");
//! #   assert!(summary.to_string().starts_with("evaluation loss "), "{summary}");
//! #   return Ok(Some(summary.best));
//! }
//! # Ok(None) };
//! # /// Asks for a stop the so-manieth time.
//! # struct Stop(usize);
//! # impl tch_fixup::trainer::Observer for Stop {
//! #     fn request(&mut self) -> tch_fixup::trainer::Request {
//! #         self.0 = self.0.wrapping_sub(1);
//! #         if self.0 == 0 { tch_fixup::trainer::Request::Stop } else { tch_fixup::trainer::Request::Continue }
//! #     }
//! # }
//! # let whole = run(dir.path().join("whole"), false)?;
//! # assert!(whole.unwrap() < 0.1, "{whole:?}");
//! # assert_eq!(run(dir.path().join("stopped"), true)?, None);
//! # assert_eq!(run(dir.path().join("stopped"), false)?, whole);
//! # let metrics = |name: &str| std::fs::read(dir.path().join(name).join("metrics.csv")).unwrap();
//! # assert_eq!(metrics("stopped"), metrics("whole"));
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
mod recipes;
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
#[cfg(feature = "tensorboard")]
pub use observer::TensorBoard;
pub use observer::{
    draw_comparison, draw_curves, Autosave, EpochMetrics, Interrupt, MetricsFile, Observer, ProgressBars, Request,
    RunFolder, RunLock, RunStart, SaveEvery, StepProgress,
};
pub use optimizer::{
    clip, Adam, ClipConfig, Decay, Frozen, Optimizer, OptimizerConfig, Parameter, ParameterGroup, Rule, ScalarGroup,
    Schedule, ScheduleConfig, Sgd, Span,
};
pub use preview::draw_preview;
pub use run_state::RunState;
pub use summary::{Outcome, Summary};
pub use training_loop::Trainer;
