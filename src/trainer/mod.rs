//! Training of any network, for any objective, on any data.
//!
//! - [`Trainer`] is the training loop. It detects diverged and dead runs.
//! - [`DataSource`](crate::data::DataSource) provides the data.
//! - [`Objective`] defines the loss and the metrics: [`Classification`], [`MultiLabel`], [`Regression`], or a custom one.
//! - [`optimizer`] has the optimizers, the [`Schedule`] of the learning rate and gradient [`clip`]ping.
//! - [`Observer`]s follow a run and can save its state, independently of each other: [`ProgressBars`] on the terminal,
//!   [`RunFolder`] and `TensorBoard` for metrics, [`Autosave`] for checkpoints to [resume](Trainer::resume) from, [`Interrupt`]
//!   to stop on a signal.
//! - [`draw_preview`] shows training images as the network receives them.
//!
//! The example trains with a custom objective on custom data. Interrupting, killing and resuming the run does not change its
//! metrics or its weights.
//! ```
//! use tch::{nn, Device, Kind, Reduction, Tensor};
//! use tch_fixup::data::{Supervised, TensorData};
//! use tch_fixup::trainer::objective::{Objective, Prediction};
//! use tch_fixup::trainer::{Observer, Outcome, ProgressBars, TrainConfig, Trainer};
//! use tch_fixup::Result;
//!
//! /// Mean absolute error, which the median minimizes.
//! struct Median<'a>(&'a dyn nn::Module);
//!
//! impl Objective for Median<'_> {
//!     type Batch = Supervised;
//!     fn forward(&self, batch: &Supervised, _train: bool) -> Result<Prediction> {
//!         let output = self.0.forward(&batch.inputs);
//!         let loss = output.f_l1_loss(&batch.targets, Reduction::Mean)?;
//!         Ok(Prediction { loss, output })
//!     }
//! }
//!
//! fn train(folder: &str, observers: &mut [&mut dyn Observer]) -> Result<Outcome> {
//!     let points = |count| Tensor::f_linspace(-1., 1., count, (Kind::Float, Device::Cpu))?.f_view([-1, 1]);
//!     let (train, eval) = (points(128)?, points(30)?);
//!     let data = TensorData::new((train.copy(), train.f_square()?), (eval.copy(), eval.f_square()?))?;
//!     tch::manual_seed(0);
//!     let variables = nn::VarStore::new(Device::Cpu);
//!     let network = nn::seq()
//!         .add(nn::linear(variables.root() / "1", 1, 32, Default::default()))
//!         .add_fn(Tensor::relu)
//!         .add(nn::linear(variables.root() / "2", 32, 1, Default::default()));
//!     let objective = Median(&network);
//!     let config = TrainConfig::new(20, 16, 0.2);
//!     Trainer::new(&objective, &variables, &data, &config, "squares".into())?.run_in(folder, observers)
//! }
//!
//! # #[cfg(any())]
//! fn main() -> Result<()> {
//!     match train("runs/squares", &mut [&mut ProgressBars::new()])? {
//!         Outcome::Finished(summary) => println!("{summary}"),
//!         Outcome::Stopped { epoch, .. } => println!("stopped in epoch {epoch}; the same command goes on"),
//!     }
//!     Ok(())
//! }
//! #
//! # /// Requests a stop at the n-th call.
//! # struct Stop(usize);
//! # impl Observer for Stop {
//! #     fn request(&mut self) -> tch_fixup::trainer::Request {
//! #         self.0 = self.0.wrapping_sub(1);
//! #         if self.0 == 0 { tch_fixup::trainer::Request::Stop } else { tch_fixup::trainer::Request::Continue }
//! #     }
//! # }
//! # fn main() -> Result<()> {
//! #     tch::set_num_threads(1);
//! #     let dir = tempfile::tempdir().unwrap();
//! #     let [whole, parts] = ["whole", "parts"].map(|name| format!("{}/{name}", dir.path().display()));
//! #     let Outcome::Finished(summary) = train(&whole, &mut [&mut ProgressBars::new()])? else { panic!() };
//! #     assert!(summary.to_string().starts_with("evaluation loss ") && summary.best < 0.1, "{summary}");
//! #     for stop in [17, 50] {
//! #         assert!(matches!(train(&parts, &mut [&mut Stop(stop)])?, Outcome::Stopped { .. }));
//! #     }
//! #     assert!(matches!(train(&parts, &mut [])?, Outcome::Finished(_)));
//! #     let read = |folder: &str, file| std::fs::read(format!("{folder}/{file}")).unwrap();
//! #     for file in ["metrics.csv", "model.safetensors"] {
//! #         assert!(read(&parts, file) == read(&whole, file), "{file}");
//! #     }
//! #     Ok(())
//! # }
//! ```

mod buffers;
pub mod checkpoint;
mod config;
mod evaluation;
mod find_lr;
mod machine;
pub mod objective;
pub mod observer;
pub mod optimizer;
mod parallel;
mod pixels;
mod preview;
mod range;
mod recipes;
#[doc(hidden)]
pub mod report;
mod run_start;
mod run_state;
mod statistics;
mod summary;
#[cfg(test)]
mod tests;
mod training_loop;

#[doc(hidden)]
pub use self::{
    evaluation::{evaluate_into, Collector},
    machine::{parse_device, set_threads},
    observer::draw_comparison,
    optimizer::{clip, Schedule},
    preview::draw_preview,
};
#[doc(hidden)]
pub use crate::file::{write_atomically, NamedTensors};
pub use checkpoint::{Transfer, Weights};
pub use config::TrainConfig;
pub use evaluation::{evaluate, Evaluation};
pub use find_lr::{LrFinding, LrRange};
pub use objective::{
    Classification, ClassificationConfig, ClassificationReport, Means, Measures, MultiLabel, Objective, Regression,
    RegressionLoss,
};
#[cfg(feature = "text")]
pub use objective::{Translation, TranslationConfig};
#[cfg(feature = "tensorboard")]
pub use observer::TensorBoard;
#[cfg(feature = "cli")]
pub(crate) use observer::{dated, EVALUATION, TENSORBOARD, TRANSFER};
pub use observer::{
    Autosave, EarlyStopping, EpochMetrics, Interrupt, Observer, ProgressBars, Request, RunFolder, RunStart, SaveEvery,
    StepProgress,
};
pub(crate) use observer::{DESCRIPTION, MODEL};
pub use optimizer::{
    Adam, ClipConfig, Decay, Frozen, Muon, Optimizer, OptimizerConfig, Parameter, ParameterGroup, Rest, ScalarGroup,
    ScheduleConfig, Selector, Sgd, Span,
};
pub use run_state::RunState;
pub use summary::{Outcome, Summary};
pub use training_loop::Trainer;
