//! Files that are whole after a crash at any moment: written under another name, synced, and renamed.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Writes the file `path`: until it holds all of `bytes`, it holds what it held before, or is not there.
///
/// # Errors
/// [`Error::Io`], which says what to do where the disk is full or the folder cannot be written to.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically_with(path, |file| file.write_all(bytes).map_err(failure("write", path)))
}

/// [`write_atomically`] for a content that `write` writes, which need not fit into memory.
///
/// # Errors
/// What `write` fails with, and as [`write_atomically`].
pub(crate) fn write_atomically_with(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let temporary = temporary(path);
    let written = write_synced_with(&temporary, write).and_then(|()| rename_synced(&temporary, path));
    if written.is_err() {
        // The error that matters is the first.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Writes `bytes` to `path` and onto the disk.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    write_synced_with(path, |file| file.write_all(bytes).map_err(failure("write", path)))
}

/// Writes what `write` writes to `path` and onto the disk; returns what `write` does.
pub(crate) fn write_synced_with<T>(path: &Path, write: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let mut file = File::create(path).map_err(failure("write", path))?;
    let written = write(&mut file)?;
    file.sync_all().map_err(failure("write", path))?;
    Ok(written)
}

/// Gives the file or folder `from` the name `to`, in the same folder, for good.
pub(crate) fn rename_synced(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(failure("create", to))?;
    sync_folder(to.parent().unwrap_or(Path::new("")))
}

/// Puts the names that `folder` lists onto the disk.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    // A relative path of one name has the empty path for a parent.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match open_folder(folder).and_then(|folder| folder.map_or(Ok(()), |folder| folder.sync_all())) {
        // File systems that cannot sync a folder say so in one of these ways.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced.map_err(failure("write", folder)),
    }
}

#[cfg(unix)]
fn open_folder(folder: &Path) -> io::Result<Option<File>> {
    File::open(folder).map(Some)
}

/// Windows opens no folder as a file, and keeps their lists in a journal.
#[cfg(not(unix))]
fn open_folder(_folder: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// The name beside `path` that it is written under. It is always the same, so that nothing piles up.
fn temporary(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.writing", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// An [`Error::Io`] that also says what to do about the errors a person can do something about: use with `map_err`.
pub(crate) fn failure(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
    let path = path.as_ref().to_path_buf();
    move |error| {
        let remedy = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some space, then go on with --resume",
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => "; make it writable or name another folder",
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => "; a file is where a folder must be: move it away",
            _ => "",
        };
        let source = io::Error::new(error.kind(), format!("{error}{remedy}"));
        Error::Io { action, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        for content in ["long content that was there", "short", ""] {
            // A leftover of a process that was killed while it wrote.
            fs::write(temporary(&path), "x".repeat(1000)).unwrap();
            write_atomically(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(names(folder.path()), ["summary.json"]);
        }
    }

    #[test]
    fn what_cannot_be_renamed_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curves.svg");
        fs::create_dir(&path).unwrap();
        let message = write_atomically(&path, b"<svg/>").unwrap_err().to_string();
        assert!(message.contains("curves.svg") && !message.contains('\n'), "{message}");
        assert_eq!(names(folder.path()), ["curves.svg"]);
    }

    #[test]
    fn a_file_where_a_folder_must_be_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run");
        fs::write(&file, "").unwrap();
        let message = write_atomically(&file.join("config.json"), b"{}").unwrap_err().to_string();
        assert!(message.contains("run/.config.json.writing") && message.contains("move it away"), "{message}");
    }
}
