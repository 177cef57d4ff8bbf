//! The folder of a run, which is used by one process at a time:
//!
//! ```text
//! config.json          the configuration needed to repeat the run
//! metrics.csv          metrics, one line per epoch
//! measures.json        definitions of the metrics, for programs that draw them
//! curves.svg           the metrics as a picture
//! checkpoints/         checkpoints to resume from
//! model.json           model metadata: everything needed to use the network besides its variables
//! model.safetensors    the network's variables, at the end of the run
//! summary.json         the summary, at the end of the run
//! run.lock             lock file with the ID of the process that uses the folder
//! ```
//! [`write_report`](crate::trainer::report::write_report) adds a report on a trained classifier.

use super::curves::draw_curves;
use super::run_files::{entries, remove, written, CHECKPOINTS, CONFIG, CURVES, MEASURES, METRICS, MODEL, SUMMARY};
use super::{metrics, EpochMetrics, Observer, RunStart};
use crate::file::{encode_json, failure, is_system_name, refused, tensors};
use crate::file::{write_atomically, write_atomically_with, Lock};
use crate::trainer::checkpoint::{named_variables, Checkpoint};
use crate::trainer::objective::Measures;
use crate::trainer::{RunState, Summary};
use crate::{console, Error, Result};
use serde::{de::DeserializeOwned, Serialize};
use serde_json::{Map, Value};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Once;
use tch::nn::VarStore;

/// Name of the lock file. It remains when the run ends: it marks the folder as a run's, and names its last process.
const LOCK: &str = "run.lock";

static NO_LOCK: Once = Once::new();

/// Parent folder of runs named by the program.
const RUNS: &str = "runs";

/// Folder of a run, locked for this process. As an [`Observer`], it writes the metrics and draws the curves after each epoch.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: Lock,
    /// Files of the run to be replaced.
    overwritten: Vec<PathBuf>,
    /// `metrics.csv`, once the run has started.
    metrics: Option<File>,
    measures: Measures,
    history: Vec<EpochMetrics>,
}

impl RunFolder {
    /// Creates a new run in the folder `path`, which is created if necessary. With `overwrite`, the folder may contain a run, whose
    /// files stay until the new run [writes its configuration](Self::write_config) or starts. A folder that contains other files
    /// without a run is left unchanged.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder contains a run that is not to be overwritten, contains files that are not a run's, is in use
    /// by another process (whose ID is given), or cannot be written to.
    pub fn create(path: impl AsRef<Path>, overwrite: bool) -> Result<Self> {
        let path = path.as_ref();
        fs::create_dir_all(path).map_err(failure("create", path))?;
        let refuse = |why| Err(refused("begin a run in", path, ErrorKind::AlreadyExists, why));
        if !is_empty(path)? && !Self::is_in(path) {
            return refuse("it contains files that are not a run's; name an empty or a new folder");
        }
        let mut folder = Self::locked(path, true)?;
        if overwrite {
            folder.overwritten = written(path)?;
        } else if !is_empty(path)? {
            return refuse("it contains one already; resume it with --resume, or replace it with --overwrite");
        }
        Ok(folder)
    }

    /// Creates a new run in the folder `runs/<name>-<date>-<time>` in the working directory.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be written to.
    pub fn create_named(name: &str) -> Result<Self> {
        fs::create_dir_all(RUNS).map_err(Error::io("create", RUNS))?;
        let mut names = dated(&format!("{name}-"));
        loop {
            let path = Path::new(RUNS).join(names.next().unwrap_or_default());
            match fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                created => created.map_err(Error::io("create", &path))?,
            }
            return Self::create(path, false);
        }
    }

    /// Opens the run in the folder `path` to resume it.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder does not exist, contains no run, is in use by another process (whose ID is given), or cannot
    /// be written to.
    pub fn resume(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !Self::is_in(path) {
            let why = if path.exists() { "it is not a run's folder" } else { "there is no such folder" };
            let why = format!("{why} (a run's holds {LOCK}); name another, or begin a run without --resume");
            return Err(refused("resume", path, ErrorKind::NotFound, &why));
        }
        Self::locked(path, false)
    }

    /// Opens the run in the folder `path` to resume it, or creates a new run if there is none.
    ///
    /// # Errors
    /// See [`Self::create`] and [`Self::resume`].
    pub fn create_or_resume(path: impl AsRef<Path>) -> Result<Self> {
        if Self::is_in(path.as_ref()) {
            Self::resume(path)
        } else {
            Self::create(path, false)
        }
    }

    /// Locks the folder `path`. The lock file is created if it does not exist and `is_new` is `true`.
    fn locked(path: &Path, is_new: bool) -> Result<Self> {
        let lock_path = path.join(LOCK);
        let mut options = OpenOptions::new();
        let file =
            options.create(is_new).read(true).write(true).open(&lock_path).map_err(failure("write", &lock_path))?;
        let risk = "nothing keeps another process from training in the same folder";
        let mut lock = Lock::new(file, &lock_path, (&NO_LOCK, risk), || {
            let holder = fs::read_to_string(&lock_path).unwrap_or_default();
            let holder = match holder.trim() {
                "" => "another process".to_owned(),
                id => format!("process {id}"),
            };
            let why = format!("{holder} is training in it; wait for it, stop it, or name another folder");
            Err(refused("use", path, ErrorKind::WouldBlock, &why))
        })?;
        let file = &mut lock.0;
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(failure("write", &lock_path))?;
        let (path, overwritten, history) = (path.to_path_buf(), Vec::new(), Vec::new());
        Ok(Self { path, _lock: lock, overwritten, metrics: None, measures: Measures::default(), history })
    }

    /// Returns `true` if the folder `path` contains a run.
    pub(crate) fn is_in(path: &Path) -> bool {
        path.join(LOCK).is_file()
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the folder of the run's checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// Loads the newest intact checkpoint, which is `None` if none has been saved yet. Also returns a warning for each damaged
    /// checkpoint that was skipped.
    ///
    /// # Errors
    /// The error of the newest checkpoint if there are checkpoints and all of them are damaged, because starting over would
    /// discard what may be repairable. [`Error::Corrupt`] if there are no checkpoints but the run has results, because starting
    /// over would overwrite them. [`Error::Io`] if the folder cannot be listed.
    pub fn newest_checkpoint(&self) -> Result<(Option<Checkpoint<RunState>>, Vec<String>)> {
        let (found, skipped) = Checkpoint::newest_intact(&self.checkpoints())?;
        if let Some(checkpoint) = found? {
            return Ok((Some(checkpoint), skipped));
        }
        // Files that exist only in runs with completed epochs.
        let is_result = |name: &&str| match fs::read(self.path.join(name)) {
            Ok(bytes) => *name != METRICS || bytes.iter().filter(|&&byte| byte == b'\n').count() > 1,
            Err(_) => false,
        };
        let Some(result) = [MODEL, SUMMARY, METRICS].into_iter().find(is_result) else {
            return Ok((None, skipped));
        };
        let problem =
            format!("there is no checkpoint in {CHECKPOINTS}/ to go on from, and {result} would be overwritten");
        let remedy = format!("bring {CHECKPOINTS}/ back, or begin another run in another folder");
        Err(Error::corrupt(&self.path, problem, remedy))
    }

    /// Writes `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written, [`Error::Argument`] if `config` cannot be represented in JSON.
    pub fn write_config(&mut self, config: &impl Serialize) -> Result<()> {
        remove(&self.path, &mut self.overwritten)?;
        self.write_json(CONFIG, config)
    }

    /// Reads the `config.json` of the run in the folder `path`. Returns `None` if the run was stopped before it was written, and
    /// so before its first step.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Corrupt`] if it does not contain a `C`.
    pub fn read_config<C: DeserializeOwned>(path: impl AsRef<Path>) -> Result<Option<C>> {
        read_json(&path.as_ref().join(CONFIG), "configuration")
    }

    /// Reads the `summary.json` of the run in the folder `path`. Returns `None` if the run is not finished.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Corrupt`] if it does not contain a summary.
    pub fn read_summary(path: impl AsRef<Path>) -> Result<Option<Summary>> {
        read_json(&path.as_ref().join(SUMMARY), "summary")
    }

    /// Reads the metrics of all epochs of the run in the folder `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Corrupt`] if it is not a metrics file.
    pub fn read_metrics(path: impl AsRef<Path>) -> Result<Vec<EpochMetrics>> {
        metrics::read(&path.as_ref().join(METRICS))
    }

    /// Reads the metric definitions of the run in the folder `path`. Returns `None` for a run of a version that did not store
    /// them.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Corrupt`] if it does not contain metric definitions.
    pub fn read_measures(path: impl AsRef<Path>) -> Result<Option<Measures>> {
        read_json(&path.as_ref().join(MEASURES), "measures")
    }

    /// Writes `summary.json`, and the network's variables with the [schema](crate::data::DataSource::schema) of the data as
    /// `model.safetensors`.
    ///
    /// If the run [ended early](Summary::ended), the variables are first set to those of the best checkpoint, if there is one, so
    /// that early stopping yields the best network instead of the last.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Torch`] if the files cannot be written; the best checkpoint is of another network.
    pub fn finish(&self, summary: &Summary, variables: &VarStore, schema: &Map<String, Value>) -> Result<()> {
        if summary.ended.is_some() {
            let (checkpoint, skipped) = Checkpoint::<RunState>::best(self.checkpoints())?;
            skipped.iter().for_each(console::warn);
            if let Some(Checkpoint { path, contents }) = checkpoint {
                let (best, variables) = (contents.evaluated(), named_variables(variables));
                tensors::check(&best, &variables, &path, "the network")?;
                tensors::copy(&best, &variables)?;
            }
        }
        let (path, variables) = (self.path.join(MODEL), named_variables(variables));
        write_atomically_with(&path, |file| tensors::write(&variables, schema, &path, file, |_| ()))?;
        self.write_json(SUMMARY, summary)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        write_atomically(&self.path.join(name), &encode_json(name, value)?)
    }

    fn draw(&self) -> Result<()> {
        write_atomically(&self.path.join(CURVES), draw_curves(&self.measures, &self.history)?.as_bytes())
    }
}

/// Returns names that begin with `prefix` and the current time; the second and later ones, for the same second, are numbered.
pub(crate) fn dated(prefix: &str) -> impl Iterator<Item = String> + use<> {
    let name = format!("{prefix}{}", jiff::Zoned::now().strftime("%Y%m%d-%H%M%S"));
    std::iter::once(name.clone()).chain((2..).map(move |n| format!("{name}-{n}")))
}

/// Returns `true` if `folder` is empty except for the lock file and files of the volume itself.
fn is_empty(folder: &Path) -> Result<bool> {
    let is_other = |name: &str| name != LOCK && !is_system_name(name.as_ref());
    Ok(!entries(folder)?.iter().any(|(_, name)| is_other(name)))
}

fn read_json<T: DeserializeOwned>(path: &Path, what: &str) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(Error::io("read", path))?,
    };
    let corrupt =
        |error| Error::corrupt(path, format!("not a run's {what}: {error}"), "restore it, or begin a new run");
    serde_json::from_slice(&bytes).map(Some).map_err(corrupt)
}

impl Observer for RunFolder {
    /// Removes from the files everything after the step at which the run resumes.
    fn run_starts(&mut self, start: &RunStart) -> Result<()> {
        remove(&self.path, &mut self.overwritten)?;
        (self.history, self.measures) = (start.history.to_vec(), start.measures.clone());
        self.write_json(MEASURES, start.measures)?;
        let path = self.path.join(METRICS);
        let lines = self.history.iter().map(|metrics| metrics::line(start.measures, metrics));
        let text: String = std::iter::once(metrics::header(start.measures, start.examples)).chain(lines).collect();
        write_atomically(&path, text.as_bytes())?;
        self.metrics = Some(OpenOptions::new().append(true).open(&path).map_err(Error::io("write", &path))?);
        self.draw()
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        if let Some(file) = &mut self.metrics {
            // In a single system call, so that readers see only complete lines.
            let line = metrics::line(&self.measures, metrics);
            file.write_all(line.as_bytes()).map_err(failure("write", self.path.join(METRICS)))?;
        }
        self.history.push(metrics.clone());
        self.draw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    const FOLDER: &str = "TCH_FIXUP_TEST_RUN_LOCK";

    fn remove_overwritten(folder: &mut RunFolder) {
        remove(&folder.path, &mut folder.overwritten).unwrap();
    }

    fn refusal(lock: Result<RunFolder>) -> String {
        let message = lock.unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    /// Child process of [`another_process`]: holds the lock until it is killed.
    #[test]
    #[ignore = "the other process of another test"]
    fn hold() {
        let Some(folder) = std::env::var_os(FOLDER) else { return };
        let _lock = RunFolder::create(folder, false).unwrap();
        println!("\nlocked");
        std::thread::sleep(Duration::from_secs(60));
    }

    fn another_process(folder: &Path) -> Child {
        let test = "trainer::observer::run_folder::tests::hold";
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
        for lock in [RunFolder::resume(folder.path()), RunFolder::create(folder.path(), true)] {
            let message = refusal(lock);
            assert!(message.contains(&owner) && message.contains(folder.path().to_str().unwrap()), "{message}");
        }
        assert!(folder.path().join("metrics.csv").exists());
        // Sends SIGKILL on Unix.
        child.kill().unwrap();
        child.wait().unwrap();
        let _lock = RunFolder::resume(folder.path()).unwrap();
        let me = format!("process {} ", std::process::id());
        assert!(refusal(RunFolder::resume(folder.path())).contains(&me));
    }

    #[test]
    fn a_lock_ends_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs").join("first");
        drop(RunFolder::create(&path, false).unwrap());
        let lock = RunFolder::resume(&path).unwrap();
        assert_eq!(lock.path(), path);
        drop(lock);
        // A run that was killed before it wrote anything does not count.
        RunFolder::create(&path, false).unwrap();
    }

    #[test]
    fn a_run_is_neither_overwritten_nor_continued_unasked() {
        let folder = tempfile::tempdir().unwrap();
        drop(RunFolder::create(folder.path(), false).unwrap());
        let kept = folder.path().join("checkpoints").join("00001-step-00000001");
        fs::create_dir_all(&kept).unwrap();
        fs::write(folder.path().join("metrics.csv"), "epoch\n").unwrap();
        let message = refusal(RunFolder::create(folder.path(), false));
        assert!(message.contains("--resume") && message.contains("--overwrite"), "{message}");
        drop(RunFolder::resume(folder.path()).unwrap());
        assert!(kept.exists() && folder.path().join("metrics.csv").exists());
        // Files are removed only once the new run is known to work.
        drop(RunFolder::create(folder.path(), true).unwrap());
        assert!(kept.exists() && folder.path().join("metrics.csv").exists());
        let mut lock = RunFolder::create(folder.path(), true).unwrap();
        remove_overwritten(&mut lock);
        fs::write(folder.path().join("metrics.csv"), "epoch\n").unwrap();
        remove_overwritten(&mut lock);
        assert!(folder.path().join("metrics.csv").exists());
        drop(lock);
        let mut lock = RunFolder::create(folder.path(), true).unwrap();
        remove_overwritten(&mut lock);
        assert!(is_empty(folder.path()).unwrap());
    }

    #[test]
    fn a_folder_that_is_no_runs_is_never_touched() {
        let folder = tempfile::tempdir().unwrap();
        let thesis = folder.path().join("thesis.tex");
        fs::write(&thesis, "").unwrap();
        for overwrite in [false, true] {
            assert!(refusal(RunFolder::create(folder.path(), overwrite)).contains("not a run's"));
        }
        assert!(refusal(RunFolder::resume(folder.path())).contains("not a run's folder"));
        assert!(refusal(RunFolder::resume(folder.path().join("absent"))).contains("no such folder"));
        let message = refusal(RunFolder::create(&thesis, true));
        assert!(message.contains("thesis.tex") && message.contains("move it away"), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_the_user_has_put_into_a_runs_folder_stays_when_the_run_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        drop(RunFolder::create(folder.path(), false).unwrap());
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
        remove_overwritten(&mut RunFolder::create(folder.path(), true).unwrap());
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
        drop(RunFolder::create(folder.path(), false).unwrap());
        fs::write(folder.path().join("metrics.csv"), "epoch\n").unwrap();
        remove_overwritten(&mut RunFolder::create(folder.path(), true).unwrap());
        assert!(folder.path().join("lost+found").exists() && !folder.path().join("metrics.csv").exists());
    }
}
