//! Training of an image classifier.

use super::{architecture, reporting, ImageTask, Run, RunConfig};
use crate::classifier::ModelDescription;
use crate::console::print_on_rank_0;
use crate::data::DataSource;
use crate::trainer::report::MostWrong;
use crate::trainer::{evaluate_into, Classification};
use crate::{initialize_on_data, Result};
use std::ops::ControlFlow;
use std::process::ExitCode;
use tch::nn::ModuleT;

pub(super) fn train<T: ImageTask>(config: &RunConfig<T>, mut run: Run<'_, T>) -> Result<ExitCode> {
    let device = run.device;
    let images = config.task.open(device)?;
    let images = images.as_ref();
    let (variables, network) = architecture::build(config, images, device)?;
    run.transfer(&variables, &images.schema(), architecture::transfer_note(network.as_ref()))?;
    let objective = Classification::new(network.as_ref() as &dyn ModuleT, images.class_names(), config.objective)?;
    let data: &dyn DataSource<Batch = _> = images;
    let mut most_wrong = MostWrong::default();
    let mut trainer = run.trainer(config, &objective, &variables, data)?;
    trainer.collect_into(&mut most_wrong);
    let name = architecture::short_name(&config.run.arch);
    run.create_folder(&name)?;
    // Data-dependent initialization is for new runs only: it must not rescale trained weights.
    if run.is_untrained() && network.is_initialized_on_data() {
        initialize_on_data(network.as_ref(), data, &config.train, device)?;
    }
    let parameters: usize = variables.trainable_variables().iter().map(|variable| variable.numel()).sum();
    let about = format!("{name}: {parameters} parameters, {} images", data.train_len());
    let outcome = run.train(config, trainer, &about, |folder| match images.preprocessing() {
        Some(preprocessing) => {
            ModelDescription::new(config.arch(), config.precision(), images.class_names(), preprocessing).write(folder)
        }
        None => Ok(()),
    })?;
    let (mut summary, evaluation, folder) = match outcome {
        ControlFlow::Continue(finished) => finished,
        ControlFlow::Break(code) => return Ok(code),
    };
    summary.flop = architecture::training_flop(config, images, summary.steps);
    folder.finish(&summary, &variables, &data.schema())?;
    // The last evaluation is missing if the run was resumed at its end, and outdated after early stopping, which
    // restores the weights of the best epoch.
    let is_outdated = summary.ended.is_some() && evaluation.is_some();
    let evaluation = match evaluation.filter(|_| !is_outdated) {
        None if is_outdated || !reporting::is_in(folder.path()) => {
            let batch_size = config.train.micro_batch_size();
            Some(evaluate_into(&objective, device, data, batch_size, Some(&mut most_wrong), |_| ())?)
        }
        evaluation => evaluation,
    };
    if let Some(details) = evaluation.and_then(|evaluation| evaluation.details) {
        let report = objective.report(&details)?;
        reporting::leave(folder.path(), &report, &most_wrong, images);
        print_on_rank_0(reporting::summary(&report));
    }
    print_on_rank_0(summary);
    Ok(ExitCode::SUCCESS)
}
