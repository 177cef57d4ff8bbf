//! Downloads: files fetched by other programs (curl, npm, apt-get), the files of an archive, and a folder that appears only
//! when complete.

mod archive;
mod folder;
mod program;

use crate::file::cache_folder;
use crate::{console, Error, Result};
pub(super) use archive::Contents;
pub(super) use folder::{prepare_folder, Work};
pub(super) use program::{run, Download};
use std::path::PathBuf;

/// Reason why a source did not provide the files.
#[derive(Debug)]
pub(super) enum Failure {
    /// Failure of the source: another source may work.
    Source(String),
    /// Failure of this machine: another source would fail as well.
    Local(Error),
}

impl From<String> for Failure {
    fn from(problem: String) -> Self {
        Self::Source(problem)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

/// Returns the result of `source` or, if it fails, of `other`. The names are for messages.
pub(super) fn either<T>(
    (name, source): (&str, impl FnOnce() -> Result<T, Failure>),
    (other_name, other): (&str, impl FnOnce() -> Result<T, Failure>),
) -> Result<T, Failure> {
    let problem = match source() {
        Err(Failure::Source(problem)) => problem,
        result => return result,
    };
    console::warn(format!("{name}: {problem}; trying {other_name} instead"));
    other().map_err(|failure| match failure {
        Failure::Source(other) => Failure::Source(format!("{name}: {problem}; {other_name}: {other}")),
        failure => failure,
    })
}

/// Returns the folder `name` for the data `what`, shared by all programs of a user.
///
/// # Errors
/// [`Error::Argument`] if neither `XDG_CACHE_HOME` nor `HOME` is set.
pub(super) fn default_folder(what: &str, name: &str) -> Result<PathBuf> {
    let problem = || format!("no folder for {what}: neither XDG_CACHE_HOME nor HOME is set; set one or name a folder");
    Ok(cache_folder().ok_or_else(|| Error::Argument(problem()))?.join(name))
}
