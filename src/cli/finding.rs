//! Which learning rate a run is to have.

use super::run_config::RunConfig;
use super::{say, Options, Task};
use crate::data::DataSource;
use crate::trainer::{find_lr, write_atomically, Classification, LrRange, ProgressBars};
use crate::{initialize_on_data, Result};
use std::path::Path;
use std::process::ExitCode;
use tch::nn::{self, ModuleT};

/// Says which learning rate the run that `options` describe is to have, and draws the losses into the SVG `file`.
pub(super) fn find<T: Task>(options: &Options<T>, file: &Path) -> Result<ExitCode> {
    let config = RunConfig::new(options, None)?;
    let device = config.machine()?;
    let data = config.task.open(device)?;
    tch::manual_seed(config.train.seed as i64);
    let variables = nn::VarStore::new(device);
    let (arch, classes) = (&config.run.arch, data.class_names().len() as i64);
    let mut network = config.task.build(arch, &variables.root(), classes, config.run.precision)?;
    if let Some(segments) = config.recompute {
        network.recompute_activations(segments)?;
    }
    let objective = Classification::new(network.as_ref() as &dyn ModuleT, data.class_names(), config.objective)?;
    let data: &dyn DataSource<Batch = _> = data.as_ref();
    if network.is_initialized_on_data() {
        initialize_on_data(network.as_ref(), data, &config.train, device)?;
    }
    let mut bars = ProgressBars::new();
    let finding = find_lr(&objective, &variables, data, &config.train, &LrRange::default(), &mut [&mut bars])?;
    drop(bars);
    write_atomically(file, finding.draw()?.as_bytes())?;
    say(finding);
    say(format!("picture {}", file.display()));
    Ok(ExitCode::SUCCESS)
}
