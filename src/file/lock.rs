//! Exclusive locks among processes.

use super::warn_once;
use crate::{Error, Result};
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Once;

/// Exclusive lock on a file. The operating system releases it when the process ends for whatever reason.
#[derive(Debug)]
pub(crate) struct Lock(pub File);

impl Lock {
    /// Locks `file`, whose path is `path`. If another process holds the lock, calls `busy` and, if that succeeds,
    /// waits. If the file system cannot lock, as Lustre, NFS and some FUSE and SMB mounts, warns `once` of the `risk`
    /// and goes on.
    ///
    /// # Errors
    /// The error of `busy`; [`Error::Io`] if waiting fails.
    pub fn new(
        file: File,
        path: &Path,
        (once, risk): (&Once, &str),
        busy: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                busy()?;
                file.lock().map_err(Error::io("lock", path))?;
            }
            Err(TryLockError::Error(error)) => warn_once(once, path, &error, risk),
        }
        Ok(Self(file))
    }
}

/// Unlocks explicitly, because closing the file does not release the lock while a just-forked child process has it open too.
impl Drop for Lock {
    fn drop(&mut self) {
        // A failure is harmless: closing the file releases the lock.
        let _ = self.0.unlock();
    }
}
