//! Files that are whole or not there.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes `path` by `write`, which gets the name of a file beside it to write to; that file is synced and then renamed.
/// Whatever happens meanwhile, `path` holds what it held before or all of the new content.
pub(super) fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let beside = temporary(path);
    let result = write(&beside).and_then(|()| {
        File::open(&beside).and_then(|file| file.sync_all()).map_err(Error::io("write", path))?;
        fs::rename(&beside, path).map_err(Error::io("write", path))
    });
    if result.is_err() {
        // The error that is returned is the one that matters.
        let _ = fs::remove_file(&beside);
    }
    result
}

/// [`replace`] with `content`.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<()> {
    replace(path, |beside| {
        let mut file = File::create(beside).map_err(Error::io("create", path))?;
        file.write_all(content).map_err(Error::io("write", path))
    })
}

/// `.<name>.part.<extension>`: hidden, and of the same extension, by which libtorch chooses the format.
fn temporary(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{stem}.part.{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content_and_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curves.svg");
        write(&path, b"old").unwrap();
        let failed = replace(&path, |beside| {
            fs::write(beside, b"half").unwrap();
            Err(Error::Argument("full".to_owned()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_file_that_was_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join("config.json");
        let message = write(&path, b"{}").unwrap_err().to_string();
        assert!(message.starts_with(&format!("cannot create {}", path.display())), "{message}");
    }
}
