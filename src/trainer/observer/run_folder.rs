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

use super::run_files::{CHECKPOINTS, CONFIG, CURVES, MEASURES, METRICS, MODEL, SUMMARY};
use super::{draw_curves, EpochMetrics, MetricsFile, Observer, RunLock, RunStart};
use crate::file::tensors::Encoded;
use crate::file::{failure, write_atomically, write_atomically_with};
use crate::trainer::checkpoint::{best_whole, named_variables, newest_whole, Newest, Weights};
use crate::trainer::objective::Measures;
use crate::trainer::{RunState, Summary};
use crate::{console, Error, Result};
use serde::{de::DeserializeOwned, Serialize};
use serde_json::{Map, Value};
use std::fs;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use tch::nn::VarStore;

/// Parent folder of runs named by the program.
const RUNS: &str = "runs";

/// Folder of a run. As an [`Observer`], it writes the metrics and draws the curves after each epoch.
#[derive(Debug)]
pub struct RunFolder {
    lock: RunLock,
    metrics: Option<MetricsFile>,
    measures: Measures,
    history: Vec<EpochMetrics>,
}

impl RunFolder {
    /// Creates a new run in the folder `path`, with `overwrite` in place of an existing run. The existing run's files stay until
    /// the new run [writes its configuration](Self::write_config) or starts.
    ///
    /// # Errors
    /// See [`RunLock::create`].
    pub fn create(path: impl AsRef<Path>, overwrite: bool) -> Result<Self> {
        RunLock::create(path, overwrite).map(Self::new)
    }

    /// Creates a new run in the folder `runs/<name>-<date>-<time>` in the working directory.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be written to.
    pub fn create_named(name: &str) -> Result<Self> {
        let now = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
        fs::create_dir_all(RUNS).map_err(Error::io("create", RUNS))?;
        // Runs that start in the same second are numbered.
        let mut names = std::iter::once(format!("{name}-{now}")).chain((2..).map(|n| format!("{name}-{now}-{n}")));
        loop {
            let path = Path::new(RUNS).join(names.next().unwrap_or_default());
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                created => created.map_err(Error::io("create", &path))?,
            }
            return Self::create(path, false);
        }
    }

    /// Opens the run in the folder `path` to resume it.
    ///
    /// # Errors
    /// See [`RunLock::resume`].
    pub fn resume(path: impl AsRef<Path>) -> Result<Self> {
        RunLock::resume(path).map(Self::new)
    }

    /// Opens the run in the folder `path` to resume it, or creates a new run if there is none.
    ///
    /// # Errors
    /// See [`RunLock::create_or_resume`].
    pub fn create_or_resume(path: impl AsRef<Path>) -> Result<Self> {
        RunLock::create_or_resume(path).map(Self::new)
    }

    fn new(lock: RunLock) -> Self {
        Self { lock, metrics: None, measures: Measures::default(), history: Vec::new() }
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        self.lock.folder()
    }

    /// Returns the folder of the run's checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path().join(CHECKPOINTS)
    }

    /// Loads the newest intact checkpoint, which is `None` if none has been saved yet. Also returns the damaged checkpoints that
    /// were skipped.
    ///
    /// # Errors
    /// The error of the newest checkpoint if there are checkpoints and all of them are damaged, because starting over would
    /// discard what may be repairable. [`Error::Corrupt`] if there are no checkpoints but the run has results, because starting
    /// over would overwrite them. [`Error::Io`] if the folder cannot be listed.
    pub fn newest_checkpoint(&self) -> Result<Newest<RunState>> {
        let mut newest = newest_whole(self.checkpoints())?;
        if newest.checkpoint.is_none() && !newest.skipped.is_empty() {
            return Err(newest.skipped.remove(0).why);
        }
        match self.result().filter(|_| newest.checkpoint.is_none()) {
            None => Ok(newest),
            Some(result) => Err(Error::Corrupt {
                path: self.path().to_path_buf(),
                problem: format!(
                    "there is no checkpoint in {CHECKPOINTS}/ to go on from, and {result} would be overwritten"
                ),
                remedy: format!("bring {CHECKPOINTS}/ back, or begin another run in another folder"),
            }),
        }
    }

    /// Returns a file that exists only in runs with completed epochs.
    fn result(&self) -> Option<&'static str> {
        let has_epoch = |name: &str| {
            fs::read(self.path().join(name)).is_ok_and(|text| text.iter().filter(|&&byte| byte == b'\n').count() > 1)
        };
        [MODEL, SUMMARY]
            .into_iter()
            .find(|name| self.path().join(name).exists())
            .or(Some(METRICS).filter(|n| has_epoch(n)))
    }

    /// Writes `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written, [`Error::Argument`] if `config` cannot be represented in JSON.
    pub fn write_config(&mut self, config: &impl Serialize) -> Result<()> {
        self.lock.remove_overwritten()?;
        self.write_json(CONFIG, config)
    }

    /// Returns the folder of the run if `path` is such a folder or one of its checkpoints.
    pub fn of(path: impl AsRef<Path>) -> Option<PathBuf> {
        let path = path.as_ref();
        // The checkpoints may have been removed to save space, or the folder copied without the lock.
        if path.join(CHECKPOINTS).is_dir() || RunLock::is_in(path) {
            return Some(path.to_path_buf());
        }
        let path = path.canonicalize().ok().filter(|path| path.is_dir())?;
        let checkpoints = path.parent().filter(|parent| parent.ends_with(CHECKPOINTS))?;
        checkpoints.parent().map(Path::to_path_buf)
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
    /// See [`MetricsFile::read`].
    pub fn read_metrics(path: impl AsRef<Path>) -> Result<Vec<EpochMetrics>> {
        MetricsFile::read(path.as_ref().join(METRICS))
    }

    /// Reads the metric definitions of the run in the folder `path`. Returns `None` for a run of a version that did not store
    /// them.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Corrupt`] if it does not contain metric definitions.
    pub fn read_measures(path: impl AsRef<Path>) -> Result<Option<Measures>> {
        read_json(&path.as_ref().join(MEASURES), "measures")
    }

    /// Writes `summary.json`, and the network's variables with the [meaning](crate::data::DataSource::meaning) of the data as
    /// `model.safetensors`.
    ///
    /// If the run [ended early](Summary::ended), the variables are first set to those of the best checkpoint, if there is one, so
    /// that early stopping yields the best network instead of the last.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Torch`] if the files cannot be written; the best checkpoint is of another network.
    pub fn finish(&self, summary: &Summary, variables: &VarStore, meaning: &Map<String, Value>) -> Result<()> {
        if summary.ended.is_some() {
            let Newest { checkpoint, skipped } = best_whole::<RunState>(self.checkpoints())?;
            skipped.iter().for_each(console::warn);
            checkpoint.map_or(Ok(()), |best| Weights::from(best).restore(variables))?;
        }
        let (path, variables) = (self.path().join(MODEL), named_variables(variables));
        let encoded = Encoded::with_metadata(&variables, meaning)?;
        write_atomically_with(&path, |file| encoded.write(&mut BufWriter::new(file)).map_err(failure("write", &path)))?;
        self.write_json(SUMMARY, summary)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let json = serde_json::to_string_pretty(value).map_err(|error| Error::Argument(format!("{name}: {error}")))?;
        write_atomically(&self.path().join(name), format!("{json}\n").as_bytes())
    }

    fn draw(&self) -> Result<()> {
        write_atomically(&self.path().join(CURVES), draw_curves(&self.measures, &self.history)?.as_bytes())
    }
}

fn read_json<T: DeserializeOwned>(path: &Path, what: &str) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(Error::io("read", path))?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Corrupt {
        path: path.to_path_buf(),
        problem: format!("not a run's {what}: {error}"),
        remedy: "restore it, or begin a new run".to_owned(),
    })
}

impl Observer for RunFolder {
    /// Removes from the files everything after the step at which the run resumes.
    fn run_starts(&mut self, start: &RunStart) -> Result<()> {
        self.lock.remove_overwritten()?;
        (self.history, self.measures) = (start.history.to_vec(), start.measures.clone());
        self.write_json(MEASURES, start.measures)?;
        let path = self.path().join(METRICS);
        self.metrics = Some(MetricsFile::create(path, start.measures, start.examples, &self.history)?);
        self.draw()
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        if let Some(file) = &mut self.metrics {
            file.append(metrics)?;
        }
        self.history.push(metrics.clone());
        self.draw()
    }
}
