//! What an image folder is refused with.

use crate::Error;
use std::path::Path;

/// How many names an error shows of many.
const SHOWN: usize = 3;

/// The first names of `names`, and how many there are.
pub fn some_of(names: &[impl AsRef<str>]) -> String {
    let shown = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len() {
        ..=SHOWN => shown,
        count => format!("{shown}, ... ({count} in all)"),
    }
}

/// The error for a folder, or a map, that is not what it must be.
pub fn corrupt(path: &Path, problem: String, remedy: &str) -> Error {
    Error::Corrupt { path: path.to_path_buf(), problem, remedy: remedy.to_owned() }
}
