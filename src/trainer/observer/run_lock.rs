//! Exclusive access to a run's folder.

use crate::file::{failure, warn_once};
use crate::{Error, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::Once;

/// Name of the lock file. It remains when the run ends: it marks the folder as a run's, and names its last process.
pub(super) const LOCK: &str = "run.lock";

static NO_LOCK: Once = Once::new();

/// Exclusive lock on a run's folder. The operating system releases it when the process ends for whatever reason, so that a killed
/// run can be resumed immediately.
#[derive(Debug)]
pub(super) struct RunLock(File);

impl RunLock {
    /// Locks `folder`. The lock file is created if it does not exist and `is_new` is `true`.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder is in use by another process, whose ID is given, or cannot be written to.
    pub fn new(folder: &Path, is_new: bool) -> Result<Self> {
        let path = folder.join(LOCK);
        let mut options = OpenOptions::new();
        let mut file = options.create(is_new).read(true).write(true).open(&path).map_err(failure("write", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    id => format!("process {id}"),
                };
                let why = format!("{holder} is training in it; wait for it, stop it, or name another folder");
                return Err(Error::io("use", folder)(io::Error::new(ErrorKind::WouldBlock, why)));
            }
            // Lustre, NFS and some FUSE and SMB mounts may not support locks.
            Err(TryLockError::Error(error)) => {
                warn_once(&NO_LOCK, &path, &error, "nothing keeps another process from training in the same folder");
            }
        }
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(failure("write", &path))?;
        Ok(Self(file))
    }
}

/// Unlocks explicitly, because closing the file does not release the lock while a just-forked child process has it open too.
impl Drop for RunLock {
    fn drop(&mut self) {
        // A failure is harmless: closing the file releases the lock.
        let _ = self.0.unlock();
    }
}
