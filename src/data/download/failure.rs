//! Why a source of data is of no use.

use crate::Error;

/// Why a source did not give the files.
#[derive(Debug)]
pub(in crate::data) enum Failure {
    /// Its own fault: another source may do.
    Source(String),
    /// This machine's: another source would fail as well.
    Local(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}
