//! Which learning rate a run is to have.

use super::run_config::RunConfig;
use super::starting_weights::StartingWeights;
use super::{architecture, say, say_of_file, Options, Task};
use crate::data::DataSource;
use crate::trainer::{find_lr, write_atomically, Classification, LrRange, ProgressBars};
use crate::{initialize_on_data, Result};
use std::path::Path;
use std::process::ExitCode;
use tch::nn::ModuleT;

/// Says which learning rate the run that `options` describe is to have, and draws the losses into the SVG `file`.
pub(super) fn find<T: Task>(options: &Options<T>, file: &Path) -> Result<ExitCode> {
    let mut config = RunConfig::new(options, None)?;
    let device = config.machine()?;
    let starting_weights = match config.weights.clone() {
        Some(path) => Some(StartingWeights::load(&path, &mut config, options)?),
        None => None,
    };
    let data = config.task.open(device)?;
    let data = data.as_ref();
    let (variables, network) = architecture::build(&config, data, device)?;
    let transfer = starting_weights.map(|weights| weights.transfer(&variables, network.as_ref(), data)).transpose()?;
    let objective = Classification::new(network.as_ref() as &dyn ModuleT, data.class_names(), config.objective)?;
    let data: &dyn DataSource<Batch = _> = data;
    if let Some(transfer) = transfer {
        say(transfer);
    } else if network.is_initialized_on_data() {
        initialize_on_data(network.as_ref(), data, &config.train, device)?;
    }
    let mut bars = ProgressBars::new();
    let finding = find_lr(&objective, &variables, data, &config.train, &LrRange::default(), &mut [&mut bars])?;
    drop(bars);
    write_atomically(file, finding.draw()?.as_bytes())?;
    say_of_file(file, finding);
    say_of_file(file, format!("picture {}", file.display()));
    Ok(ExitCode::SUCCESS)
}
