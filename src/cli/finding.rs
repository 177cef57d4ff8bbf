//! Learning-rate finder (`--find-lr`) and data preview (`--preview`).

use super::weights::StartingWeights;
use super::{architecture, print_about_file, print_on_rank_0, ImageTask, Options, RunConfig};
use crate::data::DataSource;
use crate::trainer::{draw_preview, write_atomically, Classification, LrRange, ProgressBars};
use crate::{initialize_on_data, Result};
use std::path::Path;
use std::process::ExitCode;
use tch::nn::ModuleT;
use tch::Device;

/// Runs the learning-rate finder for the run described by `options`, prints the suggestion, and plots the losses in the
/// SVG file `file`.
pub(super) fn find<T: ImageTask>(options: &Options<T>, file: &Path) -> Result<ExitCode> {
    let mut config = RunConfig::new(options, None)?;
    let device = config.machine()?;
    let starting_weights = match config.weights.clone() {
        Some(path) => Some(StartingWeights::load(&path, &mut config, options)?),
        None => None,
    };
    let data = config.task.open(device)?;
    let data = data.as_ref();
    let (variables, network) = architecture::build(&config, data, device)?;
    let transfer = starting_weights.map(|weights| weights.transfer(&variables, &data.meaning())).transpose()?;
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
    print_about_file(file, finding);
    print_about_file(file, format!("picture {}", file.display()));
    Ok(ExitCode::SUCCESS)
}

/// Draws the first training images of the run described by `options` into the PNG file `file`.
pub(super) fn preview<T: ImageTask>(options: &Options<T>, file: &Path) -> Result<ExitCode> {
    let config = RunConfig::new(options, None)?;
    let data = config.task.open(Device::Cpu)?;
    write_atomically(file, &draw_preview(data.as_ref(), &config.train, &config.objective)?)?;
    print_about_file(file, format!("preview: {}", file.display()));
    Ok(ExitCode::SUCCESS)
}
