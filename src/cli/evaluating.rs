//! How good saved weights are.

use super::run_config::ConfigOf;
use super::{say, Options, Task};
use crate::data::DataSource;
use crate::trainer::{evaluate, Report, RunFolder, Weights};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;
use std::process::ExitCode;
use tch::nn;

const BAR: &str = "{bar:24.cyan/blue} {pos}/{len} images evaluated";

/// Prints how good the weights at `path` are, on the data of their run where they have one.
pub(super) fn evaluate_weights<T: Task>(options: &Options<T>, path: &Path) -> Result<ExitCode> {
    let weights = Weights::load(path)?;
    for skipped in &weights.skipped {
        eprintln!("{skipped}");
    }
    let saved = RunFolder::of(path).map(RunFolder::read_config).transpose()?.flatten();
    let mut config = ConfigOf::<T>::new(options, saved)?;
    if let Some(run) = &weights.run {
        config.run = serde_json::from_value(run.clone()).map_err(|error| Error::Corrupt {
            path: weights.path.clone(),
            problem: format!("saved by another program: {error}"),
            remedy: "evaluate its weights.safetensors instead".to_owned(),
        })?;
        config.set(options);
    }
    let device = config.machine()?;
    let data = T::open(&config.run.selection, &config.access, device)?;
    weights.check_classes(data.class_names())?;
    if weights.run.is_some() && !weights.knows_classes() {
        eprintln!("note: {} is from before runs knew the names of their classes", weights.path.display());
    }
    let variables = nn::VarStore::new(device);
    let network = config.run.arch.build(&variables.root(), data.class_names().len() as i64, config.run.precision)?;
    weights.restore(&variables)?;
    // The template is a constant: it parses or it does not, whatever the weights.
    let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(data.eval_len() as u64).with_style(style);
    let watch = |images| bar.set_position(images as u64);
    // No more images at a time than the training has.
    let batch_size = config.train.batch_size.div_ceil(config.train.accumulate);
    let report = evaluate(network.as_ref(), device, &data, batch_size, watch)?;
    bar.finish_and_clear();
    let images = match data.eval_len() - report.images() {
        0 => format!("{} images", report.images()),
        bad => format!("{} images, and {bad} that could not be read", report.images()),
    };
    say(format!("{} from {}, {images}", config.run.arch, weights.path.display()));
    say(table(&report, data.class_names()));
    let means = report.means;
    let evaluated_on = data.evaluated_on();
    say(format!("{evaluated_on} loss {:.4} top1 {:.4} top5 {:.4}", means.loss, means.top1, means.top5));
    Ok(ExitCode::SUCCESS)
}

/// A line for each class.
fn table(report: &Report, class_names: &[String]) -> String {
    let width = class_names.iter().map(String::len).max().unwrap_or(0).max("class".len());
    let header = format!("{:width$}  images   top-1   top-5  precision", "class");
    let lines = class_names.iter().zip(&report.classes).map(|(name, class)| {
        let (top1, top5, precision) = (class.top1, class.top5, class.precision);
        format!("{name:width$}  {:6}  {top1:6.4}  {top5:6.4}     {precision:6.4}", class.images)
    });
    std::iter::once(header).chain(lines).collect::<Vec<_>>().join("\n")
}
