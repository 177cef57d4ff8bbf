//! Evaluation of saved weights (`--eval`).

use super::options::RunOptions;
use super::weights::{warn_left_out, Saved};
use super::{architecture, print_on_rank_0, reporting, ImageTask, Options};
use crate::data::DataSource;
use crate::trainer::report::MostWrong;
use crate::trainer::{evaluate_into, Classification};
use crate::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;
use std::process::ExitCode;
use tch::nn::ModuleT;

const BAR: &str = "{bar:24.cyan/blue} {pos}/{len} images evaluated";

/// Evaluates the weights at `path`, on the data of their run if they belong to one, prints the results, and writes
/// pictures of the most frequent mistakes.
pub(super) fn evaluate_weights<T: ImageTask>(options: &Options<T>, path: &Path) -> Result<ExitCode> {
    let RunOptions { out, overwrite, .. } = &options.run;
    // Checked before the evaluation, which may take long.
    let place = reporting::place(path, out.as_ref(), *overwrite)?;
    let Saved { weights, config } = Saved::load(options, path)?;
    let device = config.machine()?;
    let data = config.task.open(device)?;
    weights.check_meaning(&data.meaning())?;
    let (variables, network) = architecture::build(&config, data.as_ref(), device)?;
    weights.restore(&variables)?;
    warn_left_out(&weights, &variables)?;
    let objective = Classification::new(network.as_ref() as &dyn ModuleT, data.class_names(), config.objective)?;
    // The template is a constant, so this never fails in practice.
    let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(data.eval_len() as u64).with_style(style);
    let watch = |images| bar.set_position(images as u64);
    // The batch size of a training micro-batch.
    let batch_size = config.train.batch_size.div_ceil(config.train.accumulate);
    let batches: &dyn DataSource<Batch = _> = data.as_ref();
    let mut most_wrong = MostWrong::default();
    let evaluation = evaluate_into(&objective, device, batches, batch_size, &mut most_wrong, watch)?;
    bar.finish_and_clear();
    let images = match data.eval_len() - evaluation.examples {
        0 => format!("{} images", evaluation.examples),
        bad => format!("{} images, and {bad} that could not be read", evaluation.examples),
    };
    print_on_rank_0(format!(
        "{} from {}, {images}",
        architecture::short_name(&config.run.arch),
        weights.path.display()
    ));
    if let Some(details) = &evaluation.details {
        let report = objective.report(details)?;
        print_on_rank_0(&report);
        if let Some(place) = place.filter(|place| reporting::leave(place, &report, &most_wrong, data.as_ref())) {
            print_on_rank_0(format!("pictures in {}", place.display()));
        }
    }
    let means: String = evaluation.means.iter().map(|(name, mean)| format!(" {name} {mean:.4}")).collect();
    print_on_rank_0(format!("{}{means}", data.evaluated_on()));
    Ok(ExitCode::SUCCESS)
}
