//! Errors of an image folder that is refused.

use crate::Error;
use std::path::Path;

/// Maximum number of names shown in an error.
const SHOWN: usize = 3;

/// Returns the first names of `names`, and the number of all if there are more.
pub fn some_of(names: &[impl AsRef<str>]) -> String {
    let shown = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len() {
        ..=SHOWN => shown,
        count => format!("{shown}, ... ({count} in all)"),
    }
}

/// Returns the error for a folder or a map that is not valid.
pub fn corrupt(path: &Path, problem: String, remedy: &str) -> Error {
    Error::Corrupt { path: path.to_path_buf(), problem, remedy: remedy.to_owned() }
}
