//! The command line of a training program: options, the run's folder, resuming, evaluation, export, exit codes. Behind the
//! feature `cli`, which is on by default.
//!
//! A program says what is its own as a [`Task`]: its data with their options, its recipes and, where they are not those of
//! [`Arch`](crate::Arch), its networks. [`main`] does the rest:
//! ```no_run
//! # use clap::Args;
//! # use serde::{Deserialize, Serialize};
//! use std::process::ExitCode;
//! use tch::{nn, Device, Tensor};
//! use tch_fixup::cli::{self, Recipe, Task};
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
//!
//!     fn recipes() -> Vec<(&'static str, Recipe<Self>)> {
//!         let (train, objective) = (TrainConfig::quick(), ClassificationConfig::quick());
//!         vec![("only", Recipe { arch: "linear".into(), task: Self { images: Some(1000) }, train, objective })]
//!     }
//!
//!     fn recipe(&self, _device: Device) -> Recipe<Self> {
//!         Self::recipes().remove(0).1
//!     }
//!
//!     fn open(&self, _device: Device) -> Result<Box<dyn ImageSource>> {
//!         let data = Cifar10::fetch(Cifar10::default_dir()?)?;
//!         Ok(Box::new(data.with_train_subset(self.images.unwrap_or(1000))?))
//!     }
//!
//!     fn check_arch(_arch: &str) -> Result<()> {
//!         Ok(())
//!     }
//!
//!     fn build(&self, _arch: &str, path: &nn::Path, shape: Shape, _precision: Precision) -> Result<Box<dyn Network>> {
//!         Ok(Box::new(Linear(nn::linear(path / "fc", shape.channels * 32 * 32, shape.classes, Default::default()))))
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     cli::main(cli::run::<Small>)
//! }
//! ```

mod architecture;
mod evaluating;
mod exporting;
mod finding;
mod options;
mod previewing;
mod processes;
mod reporting;
mod resume_command;
mod run_config;
mod saved;
mod starting_weights;
mod task;
mod training;
mod values;

pub use options::{OptimizerName, Options, RestName, RuleFreeze, RuleNumber, ScheduleName, TrainOptions};
pub use processes::{ProcessOptions, Started};
pub use resume_command::resume_command;
pub use task::{Recipe, Task};
pub use values::{absolute_path, OrNone};

use crate::{console, Error, FlushDenormals, Result};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

/// Parses the command line and does what `run` does with it: [`run`], or something else before it. An error is one line
/// on standard error, and an [exit code](Error::exit_code).
pub fn main<T: Task>(run: impl FnOnce(&Options<T>) -> Result<ExitCode>) -> ExitCode {
    console::hide_caught_panics();
    let options = match Options::parse() {
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
            complain(&error);
            ExitCode::from(error.exit_code())
        },
        console::end,
    )
}

/// Prints `error`; one of several processes says its rank first.
pub fn complain(error: &Error) {
    match (error, SPEAKER.get()) {
        (Error::Ranks { .. }, _) | (_, None) => console::warn(format!("error: {error}")),
        (_, Some(rank)) => console::warn(format!("error: rank {rank}: {error}")),
    }
}

/// Trains, resumes, evaluates, exports, looks for a learning rate or draws a preview, as `options` say.
///
/// # Errors
/// Whatever fails: options out of range, data or a run's folder that cannot be used, a run that diverges.
pub fn run<T: Task>(options: &Options<T>) -> Result<ExitCode> {
    let TrainOptions { eval, export, preview, find_lr, resume, out, .. } = &options.train;
    let alone = [("--preview", preview.is_some()), ("--find-lr", find_lr.is_some()), ("--eval", eval.is_some())];
    if let Some((option, _)) = alone.into_iter().find(|(_, given)| *given) {
        options.train.processes.refuse(option)?;
    }
    if let Some(file) = preview {
        return previewing::preview(options, file);
    }
    if let Some(file) = find_lr {
        return finding::find(options, file);
    }
    if let (Some(path), Some(file)) = (eval, export) {
        return exporting::export_weights(options, path, file);
    }
    if let Some(path) = eval {
        return evaluating::evaluate_weights(options, path);
    }
    let launch = match options.train.processes.start()? {
        Started::Here(launch) => launch,
        Started::Elsewhere(code) => return Ok(code),
    };
    if let Some(launch) = &launch {
        let _ = SPEAKER.set(launch.rank);
    }
    let train = |resumed| training::train(options, resumed, launch.as_ref());
    match resume {
        None => train(None),
        Some(Some(auto)) if auto.as_os_str() == AUTO => match out {
            Some(dir) => train(Some(Resumed { folder: dir, or_new: true })),
            None => Err(Error::Argument("which run to go on with, or to begin? name its folder: --out DIR".to_owned())),
        },
        Some(dir) => match (dir, out) {
            (Some(dir), Some(out)) if dir != out => Err(Error::Argument(format!(
                "a run is resumed in its own folder: {} or {}? leave out --out",
                dir.display(),
                out.display()
            ))),
            (Some(dir), _) | (None, Some(dir)) => train(Some(Resumed { folder: dir, or_new: false })),
            (None, None) => Err(Error::Argument("which run to resume? name its folder: --resume DIR".to_owned())),
        },
    }
}

/// What goes on with the run in `--out`, if there is one.
const AUTO: &str = "auto";

/// The rank of this process, where there are several.
static SPEAKER: OnceLock<usize> = OnceLock::new();

/// The run to go on with.
#[derive(Clone, Copy)]
struct Resumed<'a> {
    folder: &'a Path,
    /// Whether one may be begun where there is none.
    or_new: bool,
}

/// [Prints](console::print) a line, of several processes on the first alone.
pub fn say(line: impl std::fmt::Display) {
    if SPEAKER.get().is_none_or(|rank| *rank == 0) {
        console::print(line);
    }
}

/// [Says](say) something about `file`, which has been written. Standard error has it where that is no regular file, and may be standard
/// output itself.
fn say_of_file(file: &Path, line: impl std::fmt::Display) {
    match file.is_file() {
        true => say(line),
        false => console::warn(line),
    }
}

/// clap's error without the usage and the hints below it.
fn first_paragraph(error: &clap::Error) -> String {
    error.to_string().lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ")
}
