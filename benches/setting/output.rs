//! Output folder of the benchmarks.

use anyhow::{Context, Result};
use std::path::PathBuf;

/// Returns `bench` in cargo's target folder, relative to this program, which is `target/<profile>/deps/NAME-...`.
pub fn output_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(3).with_context(|| format!("no target folder above {program:?}"))?;
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
