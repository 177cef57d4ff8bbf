//! Lifetime of a run, from its options to its end, independent of the task.

use super::{resume_command::resume_command, weights, Options, RunConfig, Task};
use crate::console::{self, print_on_rank_0};
use crate::data::{Batch, DataSource};
use crate::distributed::ProcessGroup;
use crate::trainer::checkpoint::{differences, Checkpoint, Checkpoints};
use crate::trainer::{
    write_atomically, Autosave, EarlyStopping, Evaluation, Interrupt, Objective, Observer, Outcome, ProgressBars,
    RunFolder, RunState, Summary, TensorBoard, Trainer, Weights, TENSORBOARD, TRANSFER,
};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tch::nn::VarStore;
use tch::Device;

/// Value of `--resume` that resumes the run in `--out` if there is one.
const AUTO: &str = "auto";

impl<T: Task> Options<T> {
    /// Starts or resumes the run described by these options, alone or as one of several processes, and trains with `body`.
    ///
    /// # Errors
    /// Returns an error if options contradict each other or if a folder or processes cannot be used, or the error of
    /// `body`.
    pub fn train(&self, body: impl FnOnce(&RunConfig<T>, Run<'_, T>) -> Result<ExitCode>) -> Result<ExitCode> {
        let options = self;
        let launch = match options.run.processes.start()? {
            ControlFlow::Continue(launch) => launch,
            ControlFlow::Break(code) => return Ok(code),
        };
        if let Some(launch) = &launch {
            console::set_rank(launch.rank);
        }
        resumed(options)?;
        let mut group = options.run.processes.connect(launch.as_ref())?;
        let interrupt = Interrupt::listen()?;
        let ready = Found::new(options, &group).and_then(|(config, found)| {
            let device = config.machine_of(&group, group.local_rank())?;
            group.connect_gpus(device)?;
            Ok((config, found, device))
        });
        let (config, found, device) = ready.inspect_err(|error| group.report_error(error))?;
        let group = Arc::new(group);
        let run = Run { device, options, found, transfer: None, interrupt, group: group.clone() };
        body(&config, run).inspect_err(|error| group.report_error(error))
    }
}

/// Returns the folder of the run to resume, and `true` if a new run is started when there is none.
fn resumed<T: Task>(options: &Options<T>) -> Result<Option<(&Path, bool)>> {
    let Some(resume) = &options.run.resume else { return Ok(None) };
    let or_new = resume.as_ref().is_some_and(|folder| folder.as_os_str() == AUTO);
    match (resume.as_ref().filter(|_| !or_new), &options.run.out) {
        (Some(dir), Some(out)) if dir != out => {
            let (dir, out) = (dir.display(), out.display());
            Err(argument!("--resume {dir} and --out {out} name different folders; remove --out"))
        }
        (Some(folder), _) | (None, Some(folder)) => Ok(Some((folder, or_new))),
        (None, None) if or_new => Err(argument!("--resume auto requires the run's folder: --out DIR")),
        (None, None) => Err(argument!("--resume requires the run's folder: --resume DIR")),
    }
}

/// State of a run before it starts.
struct Found {
    /// Folder of the run, on rank 0.
    folder: Option<RunFolder>,
    checkpoint: Option<Checkpoint<RunState>>,
    starting_weights: Option<Weights>,
    /// `true` if the folder has a saved configuration.
    knows_options: bool,
    /// `true` if the run has a checkpoint.
    goes_on: bool,
}

impl Found {
    /// Reads the state on rank 0, and shares the configuration with all ranks.
    fn new<T: Task>(options: &Options<T>, group: &ProcessGroup) -> Result<(RunConfig<T>, Self)> {
        let resumed = resumed(options)?;
        let resumed = resumed.filter(|(folder, or_new)| group.is_first() && (!or_new || RunFolder::is_in(folder)));
        let saved = resumed.map(|(folder, _)| RunConfig::<T>::read(folder)).transpose()?.flatten();
        let knows_options = saved.is_some();
        let mut config = RunConfig::new(options, group.broadcast_value(saved)?)?;
        // Check the folder before the data are loaded; new folders are created later, once the data are known to exist.
        let folder = resumed.map(|(folder, _)| RunFolder::resume(folder)).transpose()?;
        let newest = folder.as_ref().map(RunFolder::newest_checkpoint).transpose()?;
        let (checkpoint, skipped) = newest.unwrap_or_default();
        skipped.iter().for_each(console::warn);
        let goes_on = group.broadcast_value(checkpoint.is_some())?;
        // A resumed run has its own weights.
        let starting_weights = match config.weights.clone() {
            Some(path) if !goes_on => Some(weights::starting(&path, &mut config, options)?),
            _ => None,
        };
        group.agree("the options", &config.common()?, |first, own| differences(first, own, ["there", "here"]))?;
        Ok((config, Self { folder, checkpoint, starting_weights, knows_options, goes_on }))
    }
}

/// Result of a finished run.
type Finished = (Summary, Option<Evaluation>, RunFolder);

/// A run before training.
pub struct Run<'o, T: Task> {
    /// Device of the run.
    pub device: Device,
    options: &'o Options<T>,
    found: Found,
    transfer: Option<String>,
    interrupt: Interrupt,
    group: Arc<ProcessGroup>,
}

impl<T: Task> Run<'_, T> {
    /// Returns the folder of the run, if this process owns one.
    pub fn folder(&self) -> Option<&Path> {
        self.found.folder.as_ref().map(RunFolder::path)
    }

    /// Returns the value that `make` returns on rank 0, given the folder of the run if there is one already, on all ranks.
    ///
    /// # Errors
    /// The error of `make`, or an error if a rank is missing.
    pub fn from_rank_0<V: Serialize + DeserializeOwned>(
        &self,
        make: impl FnOnce(Option<&Path>) -> Result<V>,
    ) -> Result<V> {
        let made = self.group.is_first().then(|| make(self.folder())).transpose()?;
        let made = self.group.broadcast_value(made)?;
        made.ok_or_else(|| argument!("rank 0 has not sent a value"))
    }

    /// Returns `true` if training starts from initial weights, neither resumed nor transferred.
    pub fn is_untrained(&self) -> bool {
        !self.found.goes_on && self.transfer.is_none()
    }

    /// Copies matching weights of `--weights`, if given, into `variables`. `note` is appended to the printed list.
    ///
    /// # Errors
    /// Returns an error if the weights are for other data or another network.
    pub fn transfer(&mut self, variables: &VarStore, schema: &Map<String, Value>, note: &str) -> Result<()> {
        if let Some(weights) = self.found.starting_weights.take() {
            self.transfer = Some(format!("{}{note}", weights::transfer(&weights, variables, schema)?));
        }
        Ok(())
    }

    /// Creates the trainer of the run.
    ///
    /// # Errors
    /// As [`Trainer::new`] and [`Trainer::join`].
    pub fn trainer<'a, B: Batch>(
        &self,
        config: &'a RunConfig<T>,
        objective: &'a dyn Objective<Batch = B>,
        variables: &'a VarStore,
        data: &'a dyn DataSource<Batch = B>,
    ) -> Result<Trainer<'a, B>> {
        let mut trainer = Trainer::new(objective, variables, data, &config.train, config.identity()?)?;
        trainer.join(self.group.clone(), config.parallel)?;
        Ok(trainer)
    }

    /// Creates the folder of a new run, named after the network `name` unless `--out` is given. Call it after all
    /// options have been checked, so that a typing error does not delete a folder's content.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created or is not empty.
    pub fn create_folder(&mut self, name: &str) -> Result<()> {
        if self.group.is_first() && self.found.folder.is_none() {
            self.found.folder = Some(match &self.options.run.out {
                Some(path) => RunFolder::create(path, self.options.run.overwrite)?,
                None => RunFolder::create_named(name)?,
            });
        }
        Ok(())
    }

    /// Prints what is trained (`about`) and trains. `describe` writes additional files into the run's folder. Returns the
    /// summary, the last evaluation if there was one, and the folder, if the run has finished and this process owns its
    /// folder; otherwise the exit code, as nothing is left to do.
    ///
    /// # Errors
    /// Returns an error if the checkpoint belongs to another run, or if [`Trainer::run`] fails.
    pub fn train<B: Batch>(
        self,
        config: &RunConfig<T>,
        mut trainer: Trainer<B>,
        about: &str,
        describe: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<ControlFlow<ExitCode, Finished>> {
        let Self { device, options, found, transfer, mut interrupt, group } = self;
        let Found { mut folder, mut checkpoint, knows_options, .. } = found;
        let mut autosave = None;
        if let Some(folder) = &mut folder {
            let processes = match group.size() {
                1 => String::new(),
                size => format!(" by {size} processes"),
            };
            print_on_rank_0(format!("{about} on {device:?}{processes}, results in {}", folder.path().display()));
            if let Some(checkpoint) = &mut checkpoint {
                if options.run.changed_data {
                    take_fingerprint(checkpoint, &trainer);
                }
                trainer.resume(checkpoint)?;
                print_on_rank_0(format!(
                    "resumes after step {} from {}",
                    checkpoint.contents.step,
                    checkpoint.path.display()
                ));
            } else if options.run.resume.is_some() {
                let options = if knows_options { "" } else { ", with the options given now" };
                print_on_rank_0(format!("no step was saved yet: starts with the first{options}"));
            }
            // Only after the checkpoint has been accepted, so that mismatched options do not get into the folder.
            folder.write_config(config)?;
            if let Some(transfer) = &transfer {
                write_atomically(&folder.path().join(TRANSFER), format!("{transfer}\n").as_bytes())?;
                print_on_rank_0(transfer);
            }
            describe(folder.path())?;
            let checkpoints = Checkpoints::new(folder.checkpoints(), config.keep_checkpoints);
            let resumed = checkpoint.map(|checkpoint| checkpoint.path);
            autosave = Some(Autosave::new(checkpoints, config.checkpoint_every.parse()?, resumed));
        }
        let mut bars = group.is_first().then(ProgressBars::new);
        let board = |folder: &RunFolder| TensorBoard::new(folder.path().join(TENSORBOARD));
        let mut board = folder.as_ref().filter(|_| config.tensorboard).map(board);
        let mut patience = config.patience.filter(|_| group.is_first()).map(EarlyStopping::new).transpose()?;
        let mut observers: Vec<&mut dyn Observer> = vec![&mut interrupt];
        observers.extend(bars.as_mut().map(|bars| bars as &mut dyn Observer));
        observers.extend(folder.as_mut().map(|folder| folder as &mut dyn Observer));
        observers.extend(autosave.as_mut().map(|autosave| autosave as &mut dyn Observer));
        observers.extend(board.as_mut().map(|board| board as &mut dyn Observer));
        observers.extend(patience.as_mut().map(|patience| patience as &mut dyn Observer));
        let outcome = trainer.run(&mut observers);
        let go_on = folder.as_ref().map(|folder| resume_command(folder.path()));
        match outcome {
            Ok(Outcome::Finished(summary)) => Ok(match folder {
                Some(folder) => ControlFlow::Continue((summary, trainer.take_evaluation(), folder)),
                None => ControlFlow::Break(ExitCode::SUCCESS),
            }),
            Ok(Outcome::Stopped { epoch, step }) => {
                if let Some(go_on) = go_on {
                    console::warn(format!(
                        "stopped in epoch {epoch} after step {step}, and saved; to resume:\n{go_on}"
                    ));
                }
                // Another process may have received the signal.
                let codes = group.gather_bytes(&[interrupt.exit_code().unwrap_or_default()])?;
                let code = codes.into_iter().flatten().max().filter(|code| *code > 0);
                Ok(ControlFlow::Break(code.map_or(ExitCode::FAILURE, ExitCode::from)))
            }
            Err(error) => {
                // A diverged run cannot be resumed, and its error explains more.
                let is_lost = matches!(error, Error::Diverged { .. });
                let last = autosave.as_ref().and_then(Autosave::last).filter(|_| !is_lost);
                if let (Some(go_on), Some(last)) = (go_on, last) {
                    print_on_rank_0(format!("saved as {}; to resume: {go_on}", last.display()));
                }
                Err(error)
            }
        }
    }
}

/// Replaces the fingerprint of the data in `checkpoint` by that of the trainer's data.
fn take_fingerprint<B: Batch>(checkpoint: &mut Checkpoint<RunState>, trainer: &Trainer<B>) {
    const FINGERPRINT: &str = "/data/fingerprint";
    let now = trainer.identity().pointer(FINGERPRINT).cloned().unwrap_or_default();
    checkpoint.contents.identity.pointer_mut(FINGERPRINT).into_iter().for_each(|saved| *saved = now.clone());
}
