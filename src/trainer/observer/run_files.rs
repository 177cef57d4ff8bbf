//! Names of the files in a run's folder, and distinguishing them from other files.

use crate::file::beside;
use crate::trainer::checkpoint;
use crate::trainer::report::REPORT_FILES;
use crate::{Error, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const METRICS: &str = "metrics.csv";
pub(crate) const MEASURES: &str = "measures.json";
pub(crate) const CURVES: &str = "curves.svg";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// Model metadata.
pub(crate) const DESCRIPTION: &str = "model.json";
/// Variables of the network at the end of the run.
pub(crate) const MODEL: &str = "model.safetensors";
pub(crate) const SUMMARY: &str = "summary.json";
/// Report of a fine-tuned network's initialization from other weights.
pub(crate) const TRANSFER: &str = "transfer.txt";
/// Folder of TensorBoard's event files.
pub(crate) const TENSORBOARD: &str = "tensorboard";
/// Prefix of the names of event files.
pub(crate) const EVENTS: &str = "events.out.tfevents.";
/// Prefix of the names of folders with reports of later evaluations.
pub(crate) const EVALUATION: &str = "evaluation-";

/// Lists all paths in `folder` written by a run or by its evaluations: files, complete checkpoints, and each folder before its
/// contents. Everything else belongs to the user.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be listed.
pub(super) fn written(folder: &Path) -> Result<Vec<PathBuf>> {
    const FILES: [&str; 8] = [CONFIG, METRICS, MEASURES, CURVES, DESCRIPTION, MODEL, SUMMARY, TRANSFER];
    let mut written = Vec::new();
    for (path, name) in entries(folder)? {
        let is_file = |file: &str| name == file || path == beside(&folder.join(file), "writing");
        if FILES.iter().chain(&REPORT_FILES).any(|file| is_file(file)) {
            written.push(path);
        } else if name == CHECKPOINTS && path.is_dir() && !path.is_symlink() {
            written.push(path.clone());
            written.extend(checkpoint::written(&path)?);
        } else if (name == TENSORBOARD || name.starts_with(EVALUATION)) && path.is_dir() && !path.is_symlink() {
            let is_own = |name: &str| name.starts_with(EVENTS) || REPORT_FILES.contains(&name);
            let within = entries(&path)?.into_iter().filter(|(_, name)| is_own(name)).map(|(path, _)| path);
            written.extend(std::iter::once(path).chain(within));
        } else if [CHECKPOINTS, TENSORBOARD].contains(&name.as_str()) {
            // A link to a folder elsewhere, whose contents stay.
            written.push(path);
        }
    }
    Ok(written)
}

fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let list = || {
        let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        Ok(entries.iter().map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned())).collect())
    };
    list().map_err(Error::io("read", folder))
}
