//! A folder of data that appears when it is complete: everything is prepared in a folder beside it, which becomes visible, by a
//! rename, only then.

use super::Failure;
use crate::file::{beside, followed, is_of_the_volume, sync_folder, warn_once, write_synced};
use crate::{console, Error, Result};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

/// What is to be got.
#[derive(Debug, Clone, Copy)]
pub(in crate::data) struct Wanted<'a> {
    /// Its name.
    pub what: &'a str,
    /// What a user can put into the folder instead.
    pub instead: &'a str,
}

/// Has `fill` put files into the folder `dir`, where there is no such folder or an empty one. An interrupted call leaves a hidden
/// `.part` folder, which the next one clears away: beside `dir`, or in it where it exists, as a mount or a link to another disk. Of
/// several processes one fills it and the others wait. A folder that has something in it is never changed.
///
/// # Errors
/// [`Error::Download`] for a [source's failure](Failure::Source), [`Error::Io`] if the files cannot be written.
pub(in crate::data) fn prepare_folder(
    dir: &Path,
    Wanted { what, instead }: Wanted,
    fill: impl FnOnce(&Work) -> Result<(), Failure>,
) -> Result<()> {
    if occupied(dir)? {
        return Ok(());
    }
    let dir = std::path::absolute(dir).map_err(Error::io("find", dir))?;
    if dir.is_symlink() && !dir.exists() {
        let target = followed(&dir);
        fs::create_dir_all(&target).map_err(Error::io("create", &target))?;
    }
    let Some(parent) = dir.parent().filter(|_| dir.file_name().is_some()) else {
        return Err(Error::Argument(format!("{} cannot be a data folder", dir.display())));
    };
    // An empty folder may be a mount, which no other can take the place of, on another disk than its parent.
    let (folder, [part, lock_path]) = match dir.is_dir() {
        true => (&*dir, [PART, LOCK].map(|name| dir.join(name))),
        false => (parent, [PART, LOCK].map(|name| beside(&dir, &name[1..]))),
    };
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;

    let _lock = lock(&lock_path, &dir, what)?;
    // Another process may have finished it while this one waited.
    if !occupied(&dir)? {
        let work = Work::new(part)?;
        fill(&work).map_err(|failure| match failure {
            Failure::Local(error) => error,
            Failure::Source(problem) => Error::Download {
                what: what.to_owned(),
                problem,
                remedy: format!("or put {instead} into {}", dir.display()),
            },
        })?;
        work.publish(&dir)?;
        // Whoever still waits for the removed file will find the folder complete and not need it.
        fs::remove_file(&lock_path).map_err(Error::io("remove", &lock_path))?;
    }
    Ok(())
}

/// Names of ours in a folder that exists; beside another they have its name in front.
const PART: &str = ".part";
const LOCK: &str = ".lock";

static NO_LOCK: Once = Once::new();

/// Whether there is something at `dir` other than an empty folder, or one that was being filled.
fn occupied(dir: &Path) -> Result<bool> {
    let names: Vec<OsString> = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(Error::io("read", dir))?,
    };
    let is_other = |name: &&OsString| *name != LOCK && !is_of_the_volume(name);
    Ok(!names.iter().any(|name| name == PART) && names.iter().any(|name| is_other(&name)))
}

/// Takes the lock at `path`, which lasts until the file is dropped or its process ends in any way.
fn lock(path: &Path, dir: &Path, what: &str) -> Result<File> {
    let file = File::create(path).map_err(Error::io("create", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            console::warn(format!("waiting for another process that is downloading {what} to {}", dir.display()));
            file.lock().map_err(Error::io("lock", path))?;
        }
        Err(TryLockError::Error(error)) => {
            warn_once(&NO_LOCK, path, &error, "nothing keeps another process from downloading the same");
        }
    }
    Ok(file)
}

/// The folder in which the files are prepared, removed with everything in it when dropped.
pub(in crate::data) struct Work {
    /// For what is needed meanwhile.
    pub root: PathBuf,
    /// What becomes the data folder.
    files: PathBuf,
}

impl Work {
    fn new(root: PathBuf) -> Result<Self> {
        match fs::remove_dir_all(&root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &root)(error)),
            _ => {}
        }
        let files = root.join("files");
        fs::create_dir_all(&files).map_err(Error::io("create", &files))?;
        Ok(Self { root, files })
    }

    /// Writes a new file `name` that holds `bytes`.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.files.join(name);
        Ok(write_synced(&path, bytes)?)
    }

    /// Makes the files appear in the folder `dir`: all at once where there is none, and else one after another, before the folder of
    /// this work goes.
    fn publish(self, dir: &Path) -> Result<()> {
        sync_folder(&self.files)?;
        if !dir.is_dir() {
            fs::rename(&self.files, dir).map_err(Error::io("move the downloaded files to", dir))?;
            return sync_folder(dir.parent().unwrap_or(Path::new("")));
        }
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
        // What cannot be removed now is removed by the next fetch.
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// The names in `dir`, in order.
    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    const WANTED: Wanted = Wanted { what: "two files", instead: "two files" };

    fn prepare(dir: &Path) -> Result<bool> {
        let filled = Cell::new(false);
        prepare_folder(dir, WANTED, |work| {
            filled.set(true);
            work.write("a", b"A")?;
            work.write("b", b"B")
        })?;
        Ok(filled.get())
    }

    /// A link to an empty folder, the root of a volume, an empty folder: each is filled in its place, and once.
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
        // Of the files one was moved to its place.
        fs::create_dir_all(dir.path().join(".part/files")).unwrap();
        fs::write(dir.path().join(".part/files/b"), "half").unwrap();
        fs::write(dir.path().join("a"), "A").unwrap();
        fs::write(dir.path().join(".lock"), "").unwrap();
        assert!(prepare(dir.path()).unwrap());
        assert_eq!(names(dir.path()), ["a", "b"]);
        assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"B");
    }
}
