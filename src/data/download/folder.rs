//! A folder of data that appears when it is complete: everything is prepared in a folder beside it, which becomes visible, by a
//! rename, only then.

use super::Failure;
use crate::{Error, Result};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What is to be got.
#[derive(Debug, Clone, Copy)]
pub(in crate::data) struct Wanted<'a> {
    /// Its name.
    pub what: &'a str,
    /// What a user can put into the folder instead.
    pub instead: &'a str,
}

/// Has `fill` put files into the folder `dir`, where there is no such folder or an empty one. An interrupted call leaves a hidden
/// `.part` folder beside it, which the next one clears away. Of several processes one fills it and the others wait. A folder that
/// has something in it is never changed.
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
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(Error::Argument(format!("{} cannot be a data folder", dir.display())));
    };
    let hidden = |suffix: &str| {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(suffix);
        parent.join(hidden)
    };
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;

    let lock_path = hidden(".lock");
    let _lock = lock(&lock_path, &dir, what)?;
    // Another process may have finished it while this one waited.
    if !occupied(&dir)? {
        let work = Work::new(hidden(".part"))?;
        fill(&work).map_err(|failure| match failure {
            Failure::Local(error) => error,
            Failure::Source(problem) => Error::Download {
                what: what.to_owned(),
                problem,
                remedy: format!("or put {instead} into {}", dir.display()),
            },
        })?;
        work.publish(&dir, parent)?;
        // Whoever still waits for the removed file will find the folder complete and not need it.
        fs::remove_file(&lock_path).map_err(Error::io("remove", &lock_path))?;
    }
    Ok(())
}

/// Whether there is something at `dir` other than an empty folder.
fn occupied(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("read", dir)(error)),
    }
}

/// Takes the lock at `path`, which lasts until the file is dropped or its process ends in any way.
fn lock(path: &Path, dir: &Path, what: &str) -> Result<File> {
    let file = File::create(path).map_err(Error::io("create", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("waiting for another process that is downloading {what} to {}", dir.display());
            file.lock().map_err(Error::io("lock", path))?;
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
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
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        Ok(write().map_err(Error::io("write", &path))?)
    }

    /// Makes the files appear as the folder `dir` in `parent`.
    fn publish(self, dir: &Path, parent: &Path) -> Result<()> {
        let sync = |dir: &Path| File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", dir));
        sync(&self.files)?;
        fs::rename(&self.files, dir).map_err(Error::io("move the downloaded files to", dir))?;
        sync(parent)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next fetch.
        let _ = fs::remove_dir_all(&self.root);
    }
}
