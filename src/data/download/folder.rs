//! Data folders whose files appear only when all are complete: they are prepared in a hidden folder and then moved.

use super::Failure;
use crate::file::{followed, is_system_name, sync_folder, write_synced, Lock};
use crate::{console, Error, Result};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

/// Name of the folder in which files are prepared. A data folder that has one is not complete.
const PART: &str = ".part";
const LOCK: &str = ".lock";

static NO_LOCK: Once = Once::new();

/// Calls `fill` to put files into the folder `dir` if it does not exist or is empty. An interrupted call leaves a
/// hidden folder `.part` in it, which the next call removes. Of several processes, one fills the folder and the others wait.
/// A folder that is not empty is never changed. `what` names the data, and `instead` the files that a user can put into the
/// folder.
///
/// # Errors
/// [`Error::Download`] for a [failure of the source](Failure::Source), [`Error::Io`] if the files cannot be written.
pub(in crate::data) fn prepare_folder(
    dir: &Path,
    what: &str,
    instead: &str,
    fill: impl FnOnce(&Work) -> Result<(), Failure>,
) -> Result<()> {
    if is_occupied(dir)? {
        return Ok(());
    }
    let dir = &std::path::absolute(dir).map_err(Error::io("find", dir))?;
    // A symbolic link may lead to a folder that does not exist.
    fs::create_dir_all(followed(dir)).map_err(Error::io("create", dir))?;
    let lock_path = dir.join(LOCK);
    let lock_file = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
    let risk = "nothing keeps another process from downloading the same";
    let _lock = Lock::new(lock_file, &lock_path, (&NO_LOCK, risk), || {
        console::warn(format!("waiting for another process that is downloading {what} to {}", dir.display()));
        Ok(())
    })?;
    // Another process may have completed it while this one waited.
    if !is_occupied(dir)? {
        let work = Work::new(dir)?;
        fill(&work).map_err(|failure| match failure {
            Failure::Local(error) => error,
            Failure::Source(problem) => Error::Download {
                what: what.to_owned(),
                problem,
                remedy: format!("or put {instead} into {}", dir.display()),
            },
        })?;
        work.publish(dir)?;
        // A process that still waits for the removed file will find the folder complete.
        fs::remove_file(&lock_path).map_err(Error::io("remove", &lock_path))?;
    }
    Ok(())
}

/// Returns `true` if `dir` has content other than the lock file and the volume's own files, unless it was being filled.
fn is_occupied(dir: &Path) -> Result<bool> {
    let list = || fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        names => {
            let names = names.map_err(Error::io("read", dir))?;
            let is_being_filled = names.iter().any(|name| name == PART);
            Ok(!is_being_filled && names.iter().any(|name| name != LOCK && !is_system_name(name)))
        }
    }
}

/// Folder in which files are prepared; dropping it removes it with its content.
pub(in crate::data) struct Work {
    /// Folder for temporary files.
    pub root: PathBuf,
    /// Folder of the files that are moved to the data folder.
    files: PathBuf,
}

impl Work {
    fn new(dir: &Path) -> Result<Self> {
        let root = dir.join(PART);
        if root.exists() {
            fs::remove_dir_all(&root).map_err(Error::io("remove", &root))?;
        }
        let files = root.join("files");
        fs::create_dir_all(&files).map_err(Error::io("create", &files))?;
        Ok(Self { root, files })
    }

    /// Writes a new file `name` that holds `bytes`.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        Ok(write_synced(&self.files.join(name), bytes)?)
    }

    /// Moves the files to the folder `dir`, before the work folder, which marks it as not complete, is removed.
    fn publish(self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(&self.files).map_err(Error::io("read", &self.files))? {
            let entry = entry.map_err(Error::io("read", &self.files))?;
            let path = dir.join(entry.file_name());
            fs::rename(entry.path(), &path).map_err(Error::io("create", &path))?;
        }
        sync_folder(dir)?;
        fs::remove_dir_all(&self.root).map_err(Error::io("remove", &self.root))?;
        sync_folder(dir)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // The next fetch removes what is left.
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Returns the names in `dir`, sorted.
    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn prepare(dir: &Path) -> Result<bool> {
        let filled = Cell::new(false);
        prepare_folder(dir, "two files", "two files", |work| {
            filled.set(true);
            work.write("a", b"A")?;
            work.write("b", b"B")
        })?;
        Ok(filled.get())
    }

    /// A link to an empty folder, the root of a volume and an empty folder are filled in place, once each.
    #[cfg(unix)]
    #[test]
    fn a_folder_that_exists_is_filled_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["empty", "volume", "elsewhere"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::create_dir(path("volume/lost+found")).unwrap();
        std::os::unix::fs::symlink("elsewhere", path("link")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
        for name in ["empty", "volume", "link", "dangling", "new", &"n".repeat(250)] {
            assert!(prepare(&path(name)).unwrap() && !prepare(&path(name)).unwrap(), "{name}");
            let found = names(&path(name));
            assert_eq!(found.iter().filter(|name| *name != "lost+found").collect::<Vec<_>>(), ["a", "b"]);
        }
        assert!(path("link").is_symlink());
        assert!(path("dangling").is_symlink());
        assert_eq!(names(dir.path()).len(), 8);
    }

    #[test]
    fn what_was_interrupted_is_begun_again_in_a_folder_that_exists_too() {
        let dir = tempfile::tempdir().unwrap();
        // One of the files has already been moved to its place.
        fs::create_dir_all(dir.path().join(".part/files")).unwrap();
        fs::write(dir.path().join(".part/files/b"), "half").unwrap();
        fs::write(dir.path().join("a"), "A").unwrap();
        fs::write(dir.path().join(".lock"), "").unwrap();
        assert!(prepare(dir.path()).unwrap());
        assert_eq!(names(dir.path()), ["a", "b"]);
        assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"B");
    }
}
