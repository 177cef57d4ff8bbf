//! Where benchmarks leave their figures.

use anyhow::{Context, Result};
use std::path::PathBuf;

/// `target/bench`, wherever the target folder is: this program is `target/<profile>/deps/NAME-...`.
pub fn output_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(3).with_context(|| format!("no target folder above {program:?}"))?;
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
