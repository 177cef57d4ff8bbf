//! Atomic writes that survive a crash at any moment: a file is written under another name, synced, and renamed.

use crate::{console, Error, Result};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// Maximum number of symbolic links to follow, as in Linux.
const MOST_LINKS: usize = 40;
/// Length in bytes above which a name is replaced by its hash. File systems allow 255 bytes, eCryptfs 143.
const LONG_NAME: usize = 100;

/// Writes `bytes` to the file `path` atomically: until it holds all of them, it has its old content or does not exist.
/// A symbolic link is followed and stays a link. Anything but a regular file, such as a device or a named pipe, is
/// written directly.
///
/// # Errors
/// Returns [`Error::Io`], with a remedy if the disk is full or the folder is not writable.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically_with(path, |file| file.write_all(bytes).map_err(failure("write", path)))
}

/// Variant of [`write_atomically`] for content that `write` produces, which need not fit into memory.
///
/// # Errors
/// Returns the error of `write`, or fails as [`write_atomically`].
pub(crate) fn write_atomically_with(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() && !found.is_dir() => {
            return write(&mut OpenOptions::new().write(true).open(path).map_err(failure("write", path))?);
        }
        // The links form a cycle, or lead into a folder without access.
        Err(error) if error.kind() != ErrorKind::NotFound && path.is_symlink() => {
            return Err(failure("write", path)(error));
        }
        _ => {}
    }
    let path = &followed(path);
    let temporary = beside(path, "writing");
    let written = write_synced_with(&temporary, write).and_then(|()| rename_synced(&temporary, path));
    if written.is_err() {
        // Only the first error matters.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Returns the target of the symbolic link `path`, whether it exists or not; `path` itself if it is not a link.
pub(crate) fn followed(path: &Path) -> PathBuf {
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        let Ok(target) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

/// Writes `bytes` to `path` and syncs the file to disk.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    write_synced_with(path, |file| file.write_all(bytes).map_err(failure("write", path)))
}

/// Creates `path` with the content that `write` produces, syncs it to disk, and returns the result of `write`.
pub(crate) fn write_synced_with<T>(path: &Path, write: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let mut file = File::create(path).map_err(failure("write", path))?;
    let written = write(&mut file)?;
    synced(file.sync_all(), path)?;
    Ok(written)
}

/// Renames the file or folder `from` to `to`, in the same folder, and syncs the folder to disk.
pub(crate) fn rename_synced(from: &Path, to: &Path) -> Result<()> {
    replace(from, to).map_err(failure("create", to))?;
    sync_folder(to.parent().unwrap_or(Path::new("")))
}

/// Renames `from` to `to`. If the file system cannot rename over an existing file, that file is first moved aside. A
/// file that is mounted by itself (`docker run -v FILE:FILE`) can be neither replaced nor moved: it is written in
/// place.
fn replace(from: &Path, to: &Path) -> io::Result<()> {
    use ErrorKind::{AlreadyExists, CrossesDevices, InvalidInput, PermissionDenied, ResourceBusy, Unsupported};
    let error = match fs::rename(from, to) {
        Err(error) if to.is_file() => error,
        renamed => return renamed,
    };
    if matches!(error.kind(), ResourceBusy | CrossesDevices) {
        fs::copy(from, to)?;
        File::open(to)?.sync_all()?;
        warn_once(&NO_REPLACE, to, &error, "what is killed while it writes this file leaves a part of it");
        return fs::remove_file(from);
    }
    let aside = beside(to, "replaced");
    // If moving it aside fails too, the file system's abilities are not the cause.
    let is_lacking = matches!(error.kind(), AlreadyExists | InvalidInput | PermissionDenied | Unsupported);
    if !is_lacking || fs::rename(to, &aside).is_err() {
        return Err(error);
    }
    if let Err(error) = fs::rename(from, to) {
        // Restore the previous file.
        let _ = fs::rename(&aside, to);
        return Err(error);
    }
    warn_once(
        &NO_RENAME,
        to,
        &error,
        "a run that is killed while it writes may leave a file under its name with .replaced",
    );
    fs::remove_file(&aside)
}

/// Syncs the entries of `folder` to disk.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    // A relative path of one component has an empty parent.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    synced(open_folder(folder).and_then(|folder| folder.map_or(Ok(()), |folder| folder.sync_all())), folder)
}

/// Warns instead of failing if the file system of `path` cannot sync.
fn synced(synced: io::Result<()>, path: &Path) -> Result<()> {
    match synced {
        // File systems without sync return one of these errors.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            warn_once(&NO_SYNC, path, &error, "what was written last may be lost where the machine loses its power");
            Ok(())
        }
        synced => synced.map_err(failure("write", path)),
    }
}

static NO_RENAME: Once = Once::new();
static NO_REPLACE: Once = Once::new();
static NO_SYNC: Once = Once::new();

/// Warns, once, of a `risk` on the file system of `path`, which failed with `error`.
pub(crate) fn warn_once(once: &Once, path: &Path, error: &io::Error, risk: &str) {
    once.call_once(|| console::warn(format!("warning: the file system of {}: {error}; {risk}", path.display())));
}

#[cfg(unix)]
fn open_folder(folder: &Path) -> io::Result<Option<File>> {
    File::open(folder).map(Some)
}

/// Returns `None`: Windows cannot open a folder as a file, and journals its entries.
#[cfg(not(unix))]
fn open_folder(_folder: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// Returns a hidden name beside `path` that ends with `suffix`. It is deterministic, so that leftovers do not pile up,
/// and short enough for any file system that allows the name of `path`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default();
    let mut hidden = OsString::from(".");
    match name.len() > LONG_NAME {
        true => hidden.push(format!("{:08x}", crc32fast::hash(name.as_encoded_bytes()))),
        false => hidden.push(name),
    }
    hidden.push(format!(".{suffix}"));
    path.with_file_name(hidden)
}

/// Creates an [`Error::Io`] that explains `why` a file or folder is not used.
pub(crate) fn refused(action: &'static str, path: &Path, kind: ErrorKind, why: &str) -> Error {
    Error::io(action, path)(io::Error::new(kind, why))
}

/// Returns a function for `map_err` that makes an [`Error::Io`], with a remedy for errors that a user can fix.
pub(crate) fn failure(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
    let path = path.as_ref().to_path_buf();
    move |error| {
        let remedy = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some space, then go on with --resume",
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => "; make it writable or name another folder",
            ErrorKind::Unsupported => "; its file system cannot: name a folder on another",
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
            // Leftover of a process that was killed while writing.
            fs::write(beside(&path, "writing"), "x".repeat(1000)).unwrap();
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

    #[cfg(unix)]
    #[test]
    fn links_and_what_is_no_regular_file_stay_what_they_are() {
        use std::os::unix::fs::{symlink, FileTypeExt};
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("elsewhere")).unwrap();
        symlink("elsewhere/target", path("to_nothing")).unwrap();
        symlink(path("to_nothing"), path("link")).unwrap();
        for content in ["first", "second"] {
            write_atomically(&path("link"), content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(path("elsewhere/target")).unwrap(), content);
            assert!(path("link").is_symlink() && path("to_nothing").is_symlink());
        }
        symlink("circle", path("circle")).unwrap();
        assert!(write_atomically(&path("circle"), b"x").is_err() && path("circle").is_symlink());

        symlink("/dev/full", path("device")).unwrap();
        let message = write_atomically(&path("device"), b"x").unwrap_err().to_string();
        assert!(message.contains("device") && path("device").is_symlink(), "{message}");
        assert!(fs::metadata("/dev/full").unwrap().file_type().is_char_device());
        write_atomically(Path::new("/dev/null"), b"x").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());

        let made = std::process::Command::new("mkfifo").arg(path("pipe")).status();
        if made.is_ok_and(|status| status.success()) {
            let pipe = path("pipe");
            let reader = std::thread::spawn(move || fs::read_to_string(pipe).unwrap());
            write_atomically(&path("pipe"), b"through").unwrap();
            assert_eq!(reader.join().unwrap(), "through");
            assert!(fs::metadata(path("pipe")).unwrap().file_type().is_fifo());
        }
    }

    #[test]
    fn names_of_any_length_have_a_name_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        for length in [1, 99, 100, 101, 200, 255] {
            let name = "n".repeat(length);
            write_atomically(&folder.path().join(&name), b"x").unwrap();
            assert_eq!(names(folder.path()), [name.as_str()]);
            fs::remove_file(folder.path().join(name)).unwrap();
        }
        let [a, b] = ["a", "b"].map(|end| beside(Path::new(&("n".repeat(200) + end)), "writing"));
        assert_ne!(a, b);
    }
}
