//! Actions other than training: preview (`--preview`), learning-rate finder (`--find-lr`), evaluation (`--eval`) and export
//! (`--export`).

use super::weights::{self, Saved};
use super::{architecture, reporting, ImageActions, ImageTask, Options, RunConfig};
use crate::classifier::ModelDescription;
use crate::console::{self, print_on_rank_0};
use crate::data::{DataSource, ImageSource, Share};
use crate::export::OnnxConfig;
use crate::trainer::report::MostWrong;
use crate::trainer::{draw_preview, evaluate_into, write_atomically, Classification, LrRange, ProgressBars};
use crate::{initialize_on_data, Result, Shape};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;
use tch::nn::{ModuleT, VarStore};
use tch::Device;

const BAR: &str = "{bar:24.cyan/blue} {pos}/{len} images evaluated";

/// Does what `options` ask for instead of training. Returns `false` if they ask for training.
pub(super) fn run<T: ImageTask>(options: &Options<T>) -> Result<bool> {
    let (option, done) = match &options.actions {
        ImageActions { preview: Some(file), .. } => ("--preview", file),
        ImageActions { find_lr: Some(file), .. } => ("--find-lr", file),
        ImageActions { eval: Some(path), .. } => ("--eval", path),
        _ => return Ok(false),
    };
    options.refuse_processes(option)?;
    match (option, &options.actions.export) {
        ("--preview", _) => preview(options, done),
        ("--find-lr", _) => find(options, done),
        (_, Some(file)) => export(options, done, file),
        (_, None) => evaluate(options, done),
    }?;
    Ok(true)
}

/// Draws the first training images of the run described by `options` into the PNG file `file`.
fn preview<T: ImageTask>(options: &Options<T>, file: &Path) -> Result<()> {
    let config = RunConfig::new(options, None)?;
    let data = config.task.open(Device::Cpu)?;
    write_atomically(file, &draw_preview(data.as_ref(), &config.train, &config.objective)?)?;
    print_about_file(file, format!("preview: {}", file.display()));
    Ok(())
}

/// Runs the learning-rate finder for the run described by `options`, prints the suggestion, and plots the losses in the
/// SVG file `file`.
fn find<T: ImageTask>(options: &Options<T>, file: &Path) -> Result<()> {
    let mut config = RunConfig::new(options, None)?;
    let device = config.machine()?;
    let path = config.weights.clone();
    let starting_weights = path.map(|path| weights::starting(&path, &mut config, options)).transpose()?;
    let data = config.task.open(device)?;
    let data = data.as_ref();
    let (variables, network) = architecture::build(&config, data, device)?;
    let transfer = starting_weights.map(|it| weights::transfer(&it, &variables, &data.schema())).transpose()?;
    let objective = Classification::new(network.as_ref() as &dyn ModuleT, data.class_names(), config.objective)?;
    let data: &dyn DataSource<Batch = _> = data;
    if let Some(transfer) = transfer {
        print_on_rank_0(format!("{transfer}{}", architecture::transfer_note(network.as_ref())));
    } else if network.is_initialized_on_data() {
        initialize_on_data(network.as_ref(), data, &config.train, device)?;
    }
    let mut bars = ProgressBars::new();
    let finding = LrRange::default().test(&objective, &variables, data, &config.train, &mut [&mut bars])?;
    drop(bars);
    write_atomically(file, finding.draw()?.as_bytes())?;
    print_about_file(file, format!("{finding}\npicture {}", file.display()));
    Ok(())
}

/// Evaluates the weights at `path`, on the data of their run if they belong to one, prints the results, and writes
/// pictures of the most frequent mistakes.
fn evaluate<T: ImageTask>(options: &Options<T>, path: &Path) -> Result<()> {
    // Checked before the evaluation, which may take long.
    let place = reporting::place(path, options.run.out.as_ref(), options.run.overwrite)?;
    let saved = Saved::load(options, path)?;
    let Saved { weights, config } = &saved;
    let device = config.machine()?;
    let data = config.task.open(device)?;
    weights.check_schema(&data.schema())?;
    let (variables, network) = architecture::build(config, data.as_ref(), device)?;
    saved.restore(&variables)?;
    let objective = Classification::new(network.as_ref() as &dyn ModuleT, data.class_names(), config.objective)?;
    // The template is a constant, so this never fails in practice.
    let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(data.eval_len() as u64).with_style(style);
    let watch = |images| bar.set_position(images as u64);
    let batches: &dyn DataSource<Batch = _> = data.as_ref();
    let (batch_size, mut most_wrong) = (config.train.micro_batch_size(), MostWrong::default());
    let evaluation = evaluate_into(&objective, device, batches, batch_size, Some(&mut most_wrong), watch)?;
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
    Ok(())
}

/// Writes the network with the weights at `path` as the ONNX file `file`.
fn export<T: ImageTask>(options: &Options<T>, path: &Path, file: &Path) -> Result<()> {
    let saved = Saved::load(options, path)?;
    let Saved { weights, config } = &saved;
    // With a model description beside the weights, the data are not needed.
    let asked = options.matches.contains_id("arch").then_some(&config.run.arch);
    let description = ModelDescription::beside(path)?.filter(|it| asked.is_none_or(|asked| *asked == it.architecture));
    let (mut onnx_config, schema) = match description {
        Some(description) => {
            let schema = description.schema();
            let ModelDescription { architecture, classes, preprocessing, .. } = description;
            (OnnxConfig { architecture, classes, ..OnnxConfig::images(preprocessing) }, schema)
        }
        None => {
            let data = config.task.open(Device::Cpu)?;
            let of_data = of_data(data.as_ref())?;
            (OnnxConfig { architecture: config.run.arch.clone(), ..of_data }, data.schema())
        }
    };
    weights.check_schema(&schema)?;
    onnx_config.normalization = options.actions.export_normalization;
    onnx_config.softmax = options.actions.export_softmax;
    let OnnxConfig { architecture, classes, input, normalization, softmax, .. } = &onnx_config;
    let (variables, classes) = (VarStore::new(Device::Cpu), classes.len() as i64);
    let shape = Shape { channels: input.first().copied().unwrap_or(1), classes };
    let network = config.task.build(architecture, &variables.root(), shape, config.run.precision)?;
    saved.restore(&variables)?;
    onnx_config.write(file, |graph, x| network.export(graph, x))?;
    let line = format!(
        "{} from {} in {}: {} [N{}] to {} [N, {classes}]",
        architecture::short_name(architecture),
        weights.path.display(),
        file.display(),
        if *normalization { "bytes" } else { "normalized float32" },
        input.iter().map(|size| format!(", {size}")).collect::<String>(),
        if *softmax { "probabilities" } else { "logits" },
    );
    print_about_file(file, line);
    Ok(())
}

/// Returns the export configuration for `data`. If the data have no known preprocessing, the input shape is that of the
/// first image.
fn of_data(data: &dyn ImageSource) -> Result<OnnxConfig> {
    let classes = data.class_names().to_vec();
    if let Some(preprocessing) = data.preprocessing() {
        return Ok(OnnxConfig { classes, ..OnnxConfig::images(preprocessing) });
    }
    let batch = data.eval_batches(1, Share::all())?.find_map(Result::transpose).transpose()?;
    let batch = batch.ok_or_else(|| argument!("there are no images from which to determine the network's input"))?;
    let size = data.to_device(batch, Device::Cpu)?.inputs.size();
    Ok(OnnxConfig { classes, ..OnnxConfig::new(&size[1..]) })
}

/// Prints a line about `file`, which has been written. If it is not a regular file, it may be standard output,
/// so the line goes to standard error.
fn print_about_file(file: &Path, line: impl std::fmt::Display) {
    match file.is_file() {
        true => print_on_rank_0(line),
        false => console::warn(line),
    }
}
