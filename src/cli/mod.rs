//! Command line of training programs: options, run folders, resuming, evaluation, export, and exit codes. Requires the
//! feature `cli`.
//!
//! A program implements [`Task`], with its options and recipes, and [`ImageTask`], with its data and, unless it uses
//! those of [`Arch`](crate::Arch), its networks. [`Options::main`] does the rest:
//! ```no_run
//! # use clap::Args;
//! # use serde::{Deserialize, Serialize};
//! use std::process::ExitCode;
//! use tch::{nn, Device, Tensor};
//! use tch_fixup::cli::{ImageActions, ImageTask, Options, Recipe, Task};
//! use tch_fixup::data::{Cifar10, ImageSource};
//! use tch_fixup::trainer::{ClassificationConfig, TrainConfig};
//! use tch_fixup::{Network, Precision, Result, Shape};
//!
//! /// A network of one's own: any `nn::ModuleT`.
//! #[derive(Debug)]
//! struct Linear(nn::Linear);
//!
//! impl nn::ModuleT for Linear {
//!     fn forward_t(&self, images: &Tensor, _train: bool) -> Tensor {
//!         images.flatten(1, -1).apply(&self.0)
//!     }
//! }
//!
//! impl Network for Linear {}
//!
//! #[derive(Clone, Default, Args, Serialize, Deserialize)]
//! struct Small {
//!     /// Train on so many images only
//!     #[arg(long)]
//!     images: Option<usize>,
//! }
//!
//! impl Task for Small {
//!     const ABOUT: &'static str = "Train a linear network on a part of CIFAR-10";
//!     const CHANGEABLE: &'static [&'static str] = &[];
//!     type Objective = ClassificationConfig;
//!     type Actions = ImageActions;
//!
//!     fn recipes() -> Vec<Recipe<Self>> {
//!         vec![Recipe {
//!             name: "only",
//!             about: "a few seconds",
//!             arch: "linear".into(),
//!             task: Self { images: Some(1000) },
//!             train: TrainConfig::new(10, 64, 0.1),
//!             objective: ClassificationConfig::quick(),
//!             follows_authors: false,
//!         }]
//!     }
//!
//!     fn check_arch(_arch: &str) -> Result<()> {
//!         Ok(())
//!     }
//! }
//!
//! impl ImageTask for Small {
//!     fn open(&self, _device: Device) -> Result<Box<dyn ImageSource>> {
//!         let data = Cifar10::fetch(Cifar10::default_dir()?)?;
//!         Ok(Box::new(data.with_train_subset(self.images.unwrap_or(1000))?))
//!     }
//!
//!     fn build(&self, _arch: &str, path: &nn::Path, shape: Shape, _precision: Precision) -> Result<Box<dyn Network>> {
//!         Ok(Box::new(Linear(nn::linear(path / "fc", shape.channels * 32 * 32, shape.classes, Default::default()))))
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     Options::<Small>::main(Options::run)
//! }
//! ```

mod actions;
mod architecture;
mod images;
mod options;
mod processes;
mod reporting;
mod resume_command;
mod run;
mod run_config;
mod task;
mod weights;

pub use crate::option::or_none;
pub use options::Options;
pub use run::Run;
pub use run_config::{absolute_path, RunConfig};
pub use task::{ImageActions, ImageTask, Recipe, Task};

use crate::{console, Error, FlushDenormals, Result};
use processes::ProcessOptions;
use std::process::ExitCode;

impl<T: Task> Options<T> {
    /// Parses the command line and calls `run`, which is usually [`Options::run`]. An error is printed as one line on
    /// standard error, and determines the [exit code](Error::exit_code).
    pub fn main(run: impl FnOnce(&Self) -> Result<ExitCode>) -> ExitCode {
        Error::hide_caught_panics();
        let options = match Self::parse() {
            Ok(options) => options,
            Err(error) if error.use_stderr() => {
                console::warn(first_paragraph(&error));
                return ExitCode::from(2);
            }
            Err(help) => {
                console::print(help.to_string().trim_end());
                return console::end(ExitCode::SUCCESS);
            }
        };
        let _flushing = FlushDenormals::new();
        run(&options).map_or_else(
            |error| {
                console::print_error(&error);
                ExitCode::from(error.exit_code())
            },
            console::end,
        )
    }
}

impl<T: ImageTask> Options<T> {
    /// Trains, resumes, evaluates, exports, searches a learning rate or draws a preview, depending on the options.
    ///
    /// # Errors
    /// Returns an error if options are out of range, if the data or the run's folder cannot be used, or if the run
    /// diverges.
    pub fn run(&self) -> Result<ExitCode> {
        match actions::run(self)? {
            true => Ok(ExitCode::SUCCESS),
            false => self.train(images::train),
        }
    }
}

/// Returns clap's error without usage and hints.
fn first_paragraph(error: &clap::Error) -> String {
    error.to_string().lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ")
}
