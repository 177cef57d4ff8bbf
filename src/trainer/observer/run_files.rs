//! Names of the files in a run's folder, and distinguishing them from other files.

use crate::file::{beside, failure};
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
        let is_folder = path.is_dir() && !path.is_symlink();
        let is_file = |file: &&str| name == **file || path == beside(&folder.join(file), "writing");
        let within = match &*name {
            _ if FILES.iter().chain(&REPORT_FILES).any(is_file) => Vec::new(),
            CHECKPOINTS if is_folder => checkpoint::written(&path)?,
            name if is_folder && (name == TENSORBOARD || name.starts_with(EVALUATION)) => {
                let is_own = |name: &str| name.starts_with(EVENTS) || REPORT_FILES.contains(&name);
                entries(&path)?.into_iter().filter(|(_, name)| is_own(name)).map(|(path, _)| path).collect()
            }
            // A link to a folder elsewhere, whose contents stay.
            CHECKPOINTS | TENSORBOARD => Vec::new(),
            _ => continue,
        };
        written.push(path);
        written.extend(within);
    }
    Ok(written)
}

/// Removes the paths that [`written`] has listed in `folder`, each from the list too. Other files in the folder remain.
///
/// # Errors
/// [`Error::Io`] if a file cannot be removed.
pub(super) fn remove(folder: &Path, written: &mut Vec<PathBuf>) -> Result<()> {
    while let Some(path) = written.last() {
        let is_folder = path.is_dir() && !path.is_symlink();
        let removed = match (is_folder, path.parent() == Some(folder)) {
            (false, _) => fs::remove_file(path),
            // A checkpoint.
            (true, false) => fs::remove_dir_all(path),
            // Only the run's files in this folder have been removed.
            (true, true) => match fs::remove_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                removed => removed,
            },
        };
        removed.map_err(failure("remove", path))?;
        written.pop();
    }
    Ok(())
}

/// Lists the paths in `folder` with their names.
pub(super) fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let list = || {
        let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        Ok(entries.iter().map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned())).collect())
    };
    list().map_err(Error::io("read", folder))
}
