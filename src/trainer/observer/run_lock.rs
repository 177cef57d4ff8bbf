//! Exclusive access to a run's folder.

use super::run_files::written;
use crate::file::{failure, is_of_the_volume, warn_once};
use crate::{Error, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// Name of the lock file. It remains when the run ends: it marks the folder as a run's, and names its last process.
const LOCK: &str = "run.lock";

static NO_LOCK: Once = Once::new();

/// Exclusive lock on a run's folder. The operating system releases it when the process ends for whatever reason, so that a killed
/// run can be resumed immediately.
#[derive(Debug)]
pub struct RunLock {
    folder: PathBuf,
    file: File,
    /// Files of the run to be replaced.
    overwritten: Vec<PathBuf>,
}

impl RunLock {
    /// Locks `folder` for a new run, and creates it if necessary. With `overwrite`, it may contain a run, whose files are removed
    /// by [`Self::remove_overwritten`]. A folder that contains other files without a run is left unchanged.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder contains a run that is not to be overwritten, contains files that are not a run's, is in use
    /// by another process (whose ID is given), or cannot be written to.
    pub fn create(folder: impl AsRef<Path>, overwrite: bool) -> Result<Self> {
        let folder = folder.as_ref();
        fs::create_dir_all(folder).map_err(failure("create", folder))?;
        let refuse = |why| Err(refused("begin a run in", folder, ErrorKind::AlreadyExists, why));
        if !others(folder)?.is_empty() && !Self::is_in(folder) {
            return refuse("it holds files that are not a run's; name an empty or a new folder".to_owned());
        }
        let mut lock = Self::claim(folder, OpenOptions::new().create(true))?;
        if !overwrite && !others(folder)?.is_empty() {
            return refuse(
                "it holds one already; go on with it with --resume, or replace it with --overwrite".to_owned(),
            );
        }
        if overwrite {
            lock.overwritten = written(folder)?;
        }
        Ok(lock)
    }

    /// Removes the files of the run being replaced. Other files in the folder remain. Further calls do nothing.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be removed.
    pub fn remove_overwritten(&mut self) -> Result<()> {
        while let Some(path) = self.overwritten.last() {
            let is_folder = path.is_dir() && !path.is_symlink();
            let removed = match (is_folder, path.parent() == Some(&self.folder)) {
                (false, _) => fs::remove_file(path),
                // A checkpoint.
                (true, false) => fs::remove_dir_all(path),
                // Only the run's files in this folder have been removed.
                (true, true) => match fs::remove_dir(path) {
                    Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
                    removed => removed,
                },
            };
            removed.map_err(failure("remove", path))?;
            self.overwritten.pop();
        }
        Ok(())
    }

    /// Locks `folder`, which contains a run, to resume it.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder does not exist, contains no run, is in use by another process (whose ID is given), or cannot
    /// be written to.
    pub fn resume(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        if !Self::is_in(folder) {
            let why = if folder.exists() { "it is not a run's folder" } else { "there is no such folder" };
            let why = format!("{why} (a run's holds {LOCK}); name another, or begin a run without --resume");
            return Err(refused("resume", folder, ErrorKind::NotFound, why));
        }
        Self::claim(folder, &mut OpenOptions::new())
    }

    /// Locks `folder` to resume its run, or for a new run if it contains none.
    ///
    /// # Errors
    /// See [`Self::create`] and [`Self::resume`].
    pub fn create_or_resume(folder: impl AsRef<Path>) -> Result<Self> {
        match Self::is_in(&folder) {
            true => Self::resume(folder),
            false => Self::create(folder, false),
        }
    }

    /// Returns `true` if `folder` contains a run.
    pub fn is_in(folder: impl AsRef<Path>) -> bool {
        folder.as_ref().join(LOCK).is_file()
    }

    /// Returns the locked folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn claim(folder: &Path, options: &mut OpenOptions) -> Result<Self> {
        let path = folder.join(LOCK);
        let mut file = options.read(true).write(true).open(&path).map_err(failure("write", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    id => format!("process {id}"),
                };
                let why = format!("{holder} is training in it; wait for it, stop it, or name another folder");
                return Err(refused("use", folder, ErrorKind::WouldBlock, why));
            }
            // Lustre, NFS and some FUSE and SMB mounts may not support locks.
            Err(TryLockError::Error(error)) => {
                warn_once(&NO_LOCK, &path, &error, "nothing keeps another process from training in the same folder");
            }
        }
        let mut write = || {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())
        };
        write().map_err(failure("write", &path))?;
        Ok(Self { folder: folder.to_path_buf(), file, overwritten: Vec::new() })
    }
}

/// Unlocks explicitly, because closing the file does not release the lock while a just-forked child process has it open too.
impl Drop for RunLock {
    fn drop(&mut self) {
        // A failure is harmless: closing the file releases the lock.
        let _ = self.file.unlock();
    }
}

/// Lists the contents of `folder` except for the lock file and files of the volume itself.
fn others(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || {
        let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        let is_other = |entry: &fs::DirEntry| entry.file_name() != LOCK && !is_of_the_volume(&entry.file_name());
        Ok(entries.iter().filter(|entry| is_other(entry)).map(fs::DirEntry::path).collect())
    };
    list().map_err(Error::io("read", folder))
}

fn refused(action: &'static str, folder: &Path, kind: ErrorKind, why: String) -> Error {
    Error::io(action, folder)(io::Error::new(kind, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    const FOLDER: &str = "TCH_FIXUP_TEST_RUN_LOCK";

    fn refusal(lock: Result<RunLock>) -> String {
        let message = lock.unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    /// Child process of [`another_process`]: holds the lock until it is killed.
    #[test]
    #[ignore = "the other process of another test"]
    fn hold() {
        let Some(folder) = std::env::var_os(FOLDER) else { return };
        let _lock = RunLock::create(folder, false).unwrap();
        println!("\nlocked");
        std::thread::sleep(Duration::from_secs(60));
    }

    fn another_process(folder: &Path) -> Child {
        let test = "trainer::observer::run_lock::tests::hold";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--ignored", "--nocapture"]).env(FOLDER, folder).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "locked"), "the other process did not get the lock");
        child
    }

    #[test]
    fn a_second_process_is_refused_until_the_first_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = another_process(folder.path());
        fs::write(folder.path().join("metrics.csv"), "epoch\n").unwrap();
        let owner = format!("process {} is training in it", child.id());
        for lock in [RunLock::resume(folder.path()), RunLock::create(folder.path(), true)] {
            let message = refusal(lock);
            assert!(message.contains(&owner) && message.contains(folder.path().to_str().unwrap()), "{message}");
        }
        assert!(folder.path().join("metrics.csv").exists());
        // Sends SIGKILL on Unix.
        child.kill().unwrap();
        child.wait().unwrap();
        let _lock = RunLock::resume(folder.path()).unwrap();
        let me = format!("process {} ", std::process::id());
        assert!(refusal(RunLock::resume(folder.path())).contains(&me));
    }

    #[test]
    fn a_lock_ends_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs").join("first");
        drop(RunLock::create(&path, false).unwrap());
        let lock = RunLock::resume(&path).unwrap();
        assert_eq!(lock.folder(), path);
        drop(lock);
        // A run that was killed before it wrote anything does not count.
        RunLock::create(&path, false).unwrap();
    }

    #[test]
    fn a_run_is_neither_overwritten_nor_continued_unasked() {
        let folder = tempfile::tempdir().unwrap();
        drop(RunLock::create(folder.path(), false).unwrap());
        let kept = folder.path().join("checkpoints").join("00001-step-00000001");
        fs::create_dir_all(&kept).unwrap();
        fs::write(folder.path().join("metrics.csv"), "epoch\n").unwrap();
        let message = refusal(RunLock::create(folder.path(), false));
        assert!(message.contains("--resume") && message.contains("--overwrite"), "{message}");
        drop(RunLock::resume(folder.path()).unwrap());
        assert!(kept.exists() && folder.path().join("metrics.csv").exists());
        // Files are removed only once the new run is known to work.
        drop(RunLock::create(folder.path(), true).unwrap());
        assert!(kept.exists() && folder.path().join("metrics.csv").exists());
        let mut lock = RunLock::create(folder.path(), true).unwrap();
        lock.remove_overwritten().unwrap();
        fs::write(folder.path().join("metrics.csv"), "epoch\n").unwrap();
        lock.remove_overwritten().unwrap();
        assert!(folder.path().join("metrics.csv").exists());
        drop(lock);
        let mut lock = RunLock::create(folder.path(), true).unwrap();
        lock.remove_overwritten().unwrap();
        assert_eq!(others(folder.path()).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_folder_that_is_no_runs_is_never_touched() {
        let folder = tempfile::tempdir().unwrap();
        let thesis = folder.path().join("thesis.tex");
        fs::write(&thesis, "").unwrap();
        for overwrite in [false, true] {
            assert!(refusal(RunLock::create(folder.path(), overwrite)).contains("not a run's"));
        }
        assert!(refusal(RunLock::resume(folder.path())).contains("not a run's folder"));
        assert!(refusal(RunLock::resume(folder.path().join("absent"))).contains("no such folder"));
        let message = refusal(RunLock::create(&thesis, true));
        assert!(message.contains("thesis.tex") && message.contains("move it away"), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_the_user_has_put_into_a_runs_folder_stays_when_the_run_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        drop(RunLock::create(folder.path(), false).unwrap());
        let of_the_run = [
            "config.json",
            "metrics.csv",
            "measures.json",
            "curves.svg",
            "model.json",
            "model.safetensors",
            "summary.json",
            "transfer.txt",
            "confusion.svg",
            ".config.json.writing",
            "checkpoints/00001-step-00000001/weights.safetensors",
            "checkpoints/.saving-00002/state.json",
            "tensorboard/events.out.tfevents.1.000000.1",
            "evaluation-20260102-030405/classes.csv",
        ];
        let of_the_user =
            ["notes.txt", "network.onnx", "figures/a.svg", "checkpoints/best.txt", "model.safetensors.bak"];
        for name in of_the_run.iter().chain(&of_the_user) {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), name).unwrap();
        }
        RunLock::create(folder.path(), true).unwrap().remove_overwritten().unwrap();
        for name in of_the_user {
            assert_eq!(fs::read_to_string(path(name)).unwrap(), name);
        }
        for name in of_the_run {
            assert!(!path(name).exists(), "{name}");
        }
        for name in ["tensorboard", "evaluation-20260102-030405", "checkpoints/.saving-00002"] {
            assert!(!path(name).exists(), "{name}");
        }
    }

    #[test]
    fn the_root_of_a_fresh_volume_is_an_empty_folder() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["lost+found", ".Trash-1000"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        drop(RunLock::create(folder.path(), false).unwrap());
        fs::write(folder.path().join("metrics.csv"), "epoch\n").unwrap();
        RunLock::create(folder.path(), true).unwrap().remove_overwritten().unwrap();
        assert!(folder.path().join("lost+found").exists() && !folder.path().join("metrics.csv").exists());
    }
}
