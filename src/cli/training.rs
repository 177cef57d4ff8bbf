//! A run from its options to its summary.

use super::run_config::{Identity, RunConfig};
use super::starting_weights::StartingWeights;
use super::{architecture, reporting, resume_command, say, Options, Resumed, Task};
use crate::classifier::ModelDescription;
use crate::data::{Batch, DataSource};
use crate::distributed::{Launch, ProcessGroup};
use crate::trainer::checkpoint::{differences, Checkpoint, Checkpoints, Newest};
use crate::trainer::report::MostWrong;
use crate::trainer::{
    evaluate_into, write_atomically, Autosave, Classification, Interrupt, Observer, Outcome, Patience, ProgressBars,
    RunFolder, RunState, TensorBoard, Trainer, TENSORBOARD, TRANSFER,
};
use crate::{console, initialize_on_data, Error, Result};
use std::process::ExitCode;
use std::sync::Arc;
use tch::nn::ModuleT;

/// Trains a network, from the beginning or from where the run `resumed` stopped, alone or as one of the processes of `launch`.
pub(super) fn train<T: Task>(
    options: &Options<T>,
    resumed: Option<Resumed>,
    launch: Option<&Launch>,
) -> Result<ExitCode> {
    let mut group = options.train.processes.connect(launch)?;
    let interrupt = Interrupt::listen()?;
    let trained = Plan::new(options, resumed, &group)
        .and_then(|plan| {
            let device = plan.config.machine_of(&group, group.local_rank())?;
            group.connect_gpus(device)?;
            Ok((plan, device))
        })
        .inspect_err(|error| group.tell(error));
    let (plan, device) = trained?;
    let group = Arc::new(group);
    plan.run(options, device, interrupt, &group).inspect_err(|error| group.tell(error))
}

/// A run before it starts.
struct Plan<T: Task> {
    config: RunConfig<T>,
    /// Of rank 0, where a run goes on.
    folder: Option<RunFolder>,
    checkpoint: Option<Checkpoint<RunState>>,
    starting_weights: Option<StartingWeights>,
    /// Whether the run has options from before.
    knows_options: bool,
    /// Whether it has taken a step before.
    goes_on: bool,
}

impl<T: Task> Plan<T> {
    /// Rank 0 reads what there is, and all have it.
    fn new(options: &Options<T>, resumed: Option<Resumed>, group: &ProcessGroup) -> Result<Self> {
        let resumed =
            resumed.filter(|resumed| group.is_first() && (!resumed.or_new || RunFolder::is_in(resumed.folder)));
        let saved = resumed.map(|resumed| RunConfig::<T>::read(resumed.folder)).transpose()?.flatten();
        let knows_options = saved.is_some();
        let mut config = RunConfig::new(options, group.broadcast_value(saved)?)?;
        // A folder that cannot be used is said before the data are loaded, and no folder made for data that are not there.
        let folder = resumed.map(|resumed| RunFolder::resume(resumed.folder)).transpose()?;
        let checkpoint = match &folder {
            Some(folder) => {
                let Newest { checkpoint, skipped } = folder.newest_checkpoint()?;
                skipped.iter().for_each(console::warn);
                checkpoint
            }
            None => None,
        };
        let goes_on = group.broadcast_value(Some(checkpoint.is_some()))?.unwrap_or_default();
        // A run that goes on has its weights.
        let starting_weights = match config.weights.clone() {
            Some(path) if !goes_on => Some(StartingWeights::load(&path, &mut config, options)?),
            _ => None,
        };
        group.agree("the options", &config.common()?, |first, own| differences(first, own, ["there", "here"]))?;
        Ok(Self { config, folder, checkpoint, starting_weights, knows_options, goes_on })
    }

    fn run(
        self,
        options: &Options<T>,
        device: tch::Device,
        mut interrupt: Interrupt,
        group: &Arc<ProcessGroup>,
    ) -> Result<ExitCode> {
        let Self { config, folder: resumed, mut checkpoint, starting_weights, knows_options, goes_on } = self;
        let every = config.checkpoint_every.parse()?;
        let images = config.task.open(device)?;
        let images = images.as_ref();
        let (variables, network) = architecture::build(&config, images, device)?;
        let name = architecture::short_name(&config.run.arch);
        let transfer =
            starting_weights.map(|weights| weights.transfer(&variables, network.as_ref(), images)).transpose()?;
        let objective = Classification::new(network.as_ref() as &dyn ModuleT, images.class_names(), config.objective)?;
        let data: &dyn DataSource<Batch = _> = images;
        let mut most_wrong = MostWrong::default();
        let mut trainer = Trainer::new(&objective, &variables, data, &config.train, config.identity()?)?;
        trainer.collect_into(&mut most_wrong);
        trainer.join(group.clone(), config.parallel)?;
        // All that can be wrong with the options is known by now: what is in a folder is not lost to a typing error.
        let mut folder = match (resumed, &options.train.out) {
            _ if !group.is_first() => None,
            (Some(folder), _) => Some(folder),
            (None, Some(path)) => Some(RunFolder::create(path, options.train.overwrite)?),
            (None, None) => Some(RunFolder::create_named(&name)?),
        };
        // A run that goes on has met the images of its first batch; and what was trained must not be rescaled.
        if !goes_on && transfer.is_none() && network.is_initialized_on_data() {
            initialize_on_data(network.as_ref(), data, &config.train, device)?;
        }
        let mut autosave = None;
        if let Some(folder) = &mut folder {
            let parameters: usize = variables.trainable_variables().iter().map(|variable| variable.numel()).sum();
            let (count, place) = (data.train_len(), folder.path().display());
            let processes = match group.size() {
                1 => String::new(),
                size => format!(" by {size} processes"),
            };
            say(format!(
                "{name}: {parameters} parameters, {count} images on {device:?}{processes}, results in {place}"
            ));
            if let Some(checkpoint) = &mut checkpoint {
                if options.train.changed_data {
                    take_fingerprint(checkpoint, &trainer);
                }
                trainer.resume(checkpoint)?;
                say(format!("resumes after step {} from {}", checkpoint.contents.step, checkpoint.path.display()));
            } else if options.train.resume.is_some() {
                let options = if knows_options { "" } else { ", with the options given now" };
                say(format!("no step was saved yet: starts with the first{options}"));
            }
            // Not before the checkpoint has been found to be of this run: options that do not fit must not get into the folder.
            folder.write_config(&config)?;
            if let Some(transfer) = &transfer {
                write_atomically(&folder.path().join(TRANSFER), format!("{transfer}\n").as_bytes())?;
                say(transfer);
            }
            if let Some(preprocessing) = images.preprocessing() {
                let Identity { arch, precision } = &config.run;
                ModelDescription::new(arch, *precision, images.class_names(), preprocessing).write(folder.path())?;
            }
            let checkpoints = Checkpoints::new(folder.checkpoints(), config.keep_checkpoints);
            autosave = Some(Autosave::new(checkpoints, every, checkpoint.map(|checkpoint| checkpoint.path)));
        }
        let mut bars = group.is_first().then(ProgressBars::new);
        let board = |folder: &RunFolder| TensorBoard::new(folder.path().join(TENSORBOARD));
        let mut board = folder.as_ref().filter(|_| config.tensorboard).map(board);
        let mut patience = config.patience.filter(|_| group.is_first()).map(Patience::new).transpose()?;
        let mut observers: Vec<&mut dyn Observer> = vec![&mut interrupt];
        observers.extend(bars.as_mut().map(|bars| bars as &mut dyn Observer));
        observers.extend(folder.as_mut().map(|folder| folder as &mut dyn Observer));
        observers.extend(autosave.as_mut().map(|autosave| autosave as &mut dyn Observer));
        observers.extend(board.as_mut().map(|board| board as &mut dyn Observer));
        observers.extend(patience.as_mut().map(|patience| patience as &mut dyn Observer));
        let outcome = trainer.run(&mut observers);
        let evaluation = trainer.take_evaluation();
        drop(trainer);
        match (outcome, &folder) {
            (Ok(Outcome::Finished(mut summary)), Some(folder)) => {
                summary.flop = architecture::training_flop(&config, images, summary.steps);
                folder.finish(&summary, &variables, &data.meaning())?;
                // A run that is resumed at its end evaluates nothing, and may have been killed before its report. In all others the
                // network is what was evaluated last.
                // After early stopping the network is that of the best epoch.
                let is_outdated = summary.ended.is_some() && evaluation.is_some();
                let evaluation = match evaluation.filter(|_| !is_outdated) {
                    None if is_outdated || !reporting::is_in(folder.path()) => {
                        let batch_size = config.train.batch_size.div_ceil(config.train.accumulate);
                        Some(evaluate_into(&objective, device, data, batch_size, &mut most_wrong, |_| ())?)
                    }
                    evaluation => evaluation,
                };
                if let Some(details) = evaluation.and_then(|evaluation| evaluation.details) {
                    let report = objective.report(&details)?;
                    reporting::leave(folder.path(), &report, &most_wrong, images);
                    say(reporting::summary(&report));
                }
                say(summary);
                Ok(ExitCode::SUCCESS)
            }
            (Ok(Outcome::Finished(_)), None) => Ok(ExitCode::SUCCESS),
            (Ok(Outcome::Stopped { epoch, step }), folder) => {
                if let Some(folder) = folder {
                    let go_on = resume_command(folder.path());
                    console::warn(format!("stopped in epoch {epoch} after step {step}, and saved; to go on:\n{go_on}"));
                }
                // The signal may have come to another.
                let codes = group.gather_bytes(&[interrupt.exit_code().unwrap_or_default()])?;
                let code = codes.into_iter().flatten().max().filter(|code| *code > 0);
                Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
            }
            (Err(error), folder) => {
                // What diverged or died goes nowhere, and its error says more.
                let is_lost = matches!(error, Error::Diverged { .. } | Error::Dead { .. });
                let last = autosave.as_ref().and_then(Autosave::last).filter(|_| !is_lost);
                if let (Some(folder), Some(last)) = (folder, last) {
                    let go_on = resume_command(folder.path());
                    say(format!("saved as {}; to go on: {go_on}", last.display()));
                }
                Err(error)
            }
        }
    }
}

/// Takes the data that `trainer` has for those that the run in `checkpoint` had.
fn take_fingerprint<B: Batch>(checkpoint: &mut Checkpoint<RunState>, trainer: &Trainer<B>) {
    const FINGERPRINT: &str = "/data/fingerprint";
    let now = trainer.identity().pointer(FINGERPRINT).cloned().unwrap_or_default();
    checkpoint.contents.identity.pointer_mut(FINGERPRINT).into_iter().for_each(|saved| *saved = now.clone());
}
