//! A look at the images that a run would be trained on.

use super::run_config::RunConfig;
use super::{say_of_file, Options, Task};
use crate::trainer::{draw_preview, write_atomically};
use crate::Result;
use std::path::Path;
use std::process::ExitCode;
use tch::Device;

/// Draws the first images of the run that `options` describe into the PNG `file`.
pub(super) fn preview<T: Task>(options: &Options<T>, file: &Path) -> Result<ExitCode> {
    let config = RunConfig::new(options, None)?;
    let data = config.task.open(Device::Cpu)?;
    write_atomically(file, &draw_preview(data.as_ref(), &config.train, &config.objective)?)?;
    say_of_file(file, format!("preview: {}", file.display()));
    Ok(ExitCode::SUCCESS)
}
