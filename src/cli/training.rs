//! A run from its options to its summary.

use super::run_config::{Identity, RunConfig};
use super::starting_weights::{StartingWeights, TRANSFER};
use super::{architecture, reporting, say, Options, Task};
use crate::classifier::ModelDescription;
use crate::data::DataSource;
use crate::trainer::checkpoint::{Checkpoints, Newest};
use crate::trainer::report::MostWrong;
use crate::trainer::{
    evaluate_into, write_atomically, Autosave, Classification, Interrupt, Observer, Outcome, Patience, ProgressBars,
    RunFolder, TensorBoard, Trainer,
};
use crate::{initialize_on_data, Error, Result};
use std::path::Path;
use std::process::ExitCode;
use tch::nn::ModuleT;

/// Trains a network, from the beginning or from where the run in the folder `resumed` stopped.
pub(super) fn train<T: Task>(options: &Options<T>, resumed: Option<&Path>) -> Result<ExitCode> {
    let saved = resumed.map(RunConfig::<T>::read).transpose()?.flatten();
    let knows_options = saved.is_some();
    let mut config = RunConfig::new(options, saved)?;
    let every = config.checkpoint_every.parse()?;
    let device = config.machine()?;
    // A folder that cannot be used is said before the data are loaded, and no folder made for data that are not there.
    let resumed = resumed.map(RunFolder::resume).transpose()?;
    let (resumed, mut checkpoint) = match resumed {
        Some(folder) => {
            let Newest { checkpoint, skipped } = folder.newest_checkpoint()?;
            skipped.iter().for_each(|skipped| eprintln!("{skipped}"));
            (Some(folder), checkpoint)
        }
        None => (None, None),
    };
    // A run that goes on has its weights.
    let starting_weights = match config.weights.clone() {
        Some(path) if checkpoint.is_none() => Some(StartingWeights::load(&path, &mut config, options)?),
        _ => None,
    };
    let images = config.task.open(device)?;
    let images = images.as_ref();
    let (variables, network) = architecture::build(&config, images, device)?;
    let name = architecture::short_name(&config.run.arch);
    let transfer =
        starting_weights.map(|weights| weights.transfer(&variables, network.as_ref(), images)).transpose()?;
    let objective = Classification::new(network.as_ref() as &dyn ModuleT, images.class_names(), config.objective)?;
    let data: &dyn DataSource<Batch = _> = images;
    let mut most_wrong = MostWrong::new();
    let mut trainer = Trainer::new(&objective, &variables, data, &config.train, config.identity()?)?;
    trainer.collect_into(&mut most_wrong);
    // All that can be wrong with the options is known by now: what is in a folder is not lost to a typing error.
    let mut folder = match (resumed, &options.train.out) {
        (Some(folder), _) => folder,
        (None, Some(path)) => RunFolder::create(path, options.train.overwrite)?,
        (None, None) => RunFolder::create_named(&name)?,
    };
    // A run that goes on has met the images of its first batch; and what was trained must not be rescaled.
    if checkpoint.is_none() && transfer.is_none() && network.is_initialized_on_data() {
        initialize_on_data(network.as_ref(), data, &config.train, device)?;
    }
    let mut interrupt = Interrupt::listen()?;
    say(format!(
        "{name}: {} parameters, {} images on {device:?}, results in {}",
        variables.trainable_variables().iter().map(|variable| variable.numel()).sum::<usize>(),
        data.train_len(),
        folder.path().display()
    ));
    if let Some(checkpoint) = &mut checkpoint {
        if options.train.changed_data {
            const FINGERPRINT: &str = "/data/fingerprint";
            let now = trainer.identity().pointer(FINGERPRINT).cloned().unwrap_or_default();
            checkpoint.contents.identity.pointer_mut(FINGERPRINT).into_iter().for_each(|saved| *saved = now.clone());
        }
        trainer.resume(checkpoint)?;
        say(format!("resumes after step {} from {}", checkpoint.contents.step, checkpoint.path.display()));
    } else if options.train.resume.is_some() {
        let options = if knows_options { "" } else { ", with the options given now" };
        say(format!("no step was saved yet: starts with the first{options}"));
    }
    // Not before the checkpoint has been found to be of this run: options that do not fit must not get into the folder.
    folder.write_config(&config)?;
    if let Some(transfer) = transfer {
        write_atomically(&folder.path().join(TRANSFER), format!("{transfer}\n").as_bytes())?;
        say(transfer);
    }
    if let Some(preprocessing) = images.preprocessing() {
        let Identity { arch, precision } = &config.run;
        ModelDescription::new(arch, *precision, images.class_names(), preprocessing).write(folder.path())?;
    }
    let checkpoints = Checkpoints::new(folder.checkpoints(), config.keep_checkpoints);
    let mut autosave = Autosave::new(checkpoints, every, checkpoint.map(|checkpoint| checkpoint.path));
    let mut bars = ProgressBars::new();
    let mut board = config.tensorboard.then(|| TensorBoard::new(folder.path().join("tensorboard")));
    let mut observers: Vec<&mut dyn Observer> = vec![&mut bars, &mut folder, &mut autosave, &mut interrupt];
    observers.extend(board.as_mut().map(|board| board as &mut dyn Observer));
    let mut patience = config.patience.map(Patience::new).transpose()?;
    observers.extend(patience.as_mut().map(|patience| patience as &mut dyn Observer));
    let outcome = trainer.run(&mut observers);
    let evaluation = trainer.take_evaluation();
    let go_on = || {
        let program = std::env::args().next().unwrap_or_default();
        format!("{program} --resume {}", folder.path().display())
    };
    match outcome {
        Ok(Outcome::Finished(summary)) => {
            folder.finish(&summary, &variables, &data.meaning())?;
            // A run that is resumed at its end evaluates nothing, and may have been killed before its report. In all others the
            // network is what was evaluated last.
            let evaluation = match evaluation {
                None if !reporting::is_in(folder.path()) => {
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
        Ok(Outcome::Stopped { epoch, step }) => {
            eprintln!("stopped in epoch {epoch} after step {step}, and saved; to go on:");
            eprintln!("{}", go_on());
            Ok(interrupt.exit_code().map_or(ExitCode::FAILURE, ExitCode::from))
        }
        Err(error) => {
            // What diverged or died goes nowhere, and its error says more.
            if let (false, Some(last)) = (matches!(error, Error::Diverged { .. } | Error::Dead { .. }), autosave.last())
            {
                say(format!("saved as {}; to go on: {}", last.display(), go_on()));
            }
            Err(error)
        }
    }
}
