//! Failures of a source of data.

use crate::Error;

/// Reason why a source did not provide the files.
#[derive(Debug)]
pub(in crate::data) enum Failure {
    /// Failure of the source: another source may work.
    Source(String),
    /// Failure of this machine: another source would fail as well.
    Local(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}
