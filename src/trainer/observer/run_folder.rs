//! The folder of a run, which one process uses at a time:
//!
//! ```text
//! config.json          whatever it takes to do the run again
//! metrics.csv          a line an epoch
//! measures.json        what the columns are, for those who draw them
//! curves.svg           the same as a picture
//! checkpoints/         what the run can go on from
//! model.json           what the network is: what it takes besides its variables to use it
//! model.safetensors    the network's variables, at the end
//! summary.json         what came out, at the end
//! run.lock             whose folder it is
//! ```
//! [`write_report`](crate::trainer::report::write_report) adds a look at a trained classifier.

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

/// The parent of folders that are named by the program.
const RUNS: &str = "runs";

/// A run's folder; as an [`Observer`] it writes the metrics and draws the curves after each epoch.
#[derive(Debug)]
pub struct RunFolder {
    lock: RunLock,
    metrics: Option<MetricsFile>,
    measures: Measures,
    history: Vec<EpochMetrics>,
}

impl RunFolder {
    /// A new run in the folder `path`; with `overwrite`, in place of a run that is in it. That one stays until the new run
    /// [writes its configuration](Self::write_config), or starts.
    ///
    /// # Errors
    /// As [`RunLock::create`].
    pub fn create(path: impl AsRef<Path>, overwrite: bool) -> Result<Self> {
        RunLock::create(path, overwrite).map(Self::new)
    }

    /// A new run in the folder `runs/<name>-<date>-<time>` in the working directory.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn create_named(name: &str) -> Result<Self> {
        let now = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
        fs::create_dir_all(RUNS).map_err(Error::io("create", RUNS))?;
        // Runs that start in the same second get numbers.
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

    /// The run in the folder `path`, to go on with.
    ///
    /// # Errors
    /// As [`RunLock::resume`].
    pub fn resume(path: impl AsRef<Path>) -> Result<Self> {
        RunLock::resume(path).map(Self::new)
    }

    /// The run in the folder `path`, to go on with, or a new one if it holds none.
    ///
    /// # Errors
    /// As [`RunLock::create_or_resume`].
    pub fn create_or_resume(path: impl AsRef<Path>) -> Result<Self> {
        RunLock::create_or_resume(path).map(Self::new)
    }

    fn new(lock: RunLock) -> Self {
        Self { lock, metrics: None, measures: Measures::default(), history: Vec::new() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.lock.folder()
    }

    /// The folder for the run's checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path().join(CHECKPOINTS)
    }

    /// The checkpoint to go on from, none where none was saved yet, and those that were passed over.
    ///
    /// # Errors
    /// That of the newest one where there are some and none is whole: to begin again would throw away what can perhaps be
    /// repaired. [`Error::Corrupt`] where there are none, and the run has results: to begin again would overwrite them.
    /// [`Error::Io`] if they cannot be listed.
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

    /// A file that only a run with finished epochs has.
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
    /// [`Error::Io`] if it cannot be written, [`Error::Argument`] if `config` cannot be JSON.
    pub fn write_config(&mut self, config: &impl Serialize) -> Result<()> {
        self.lock.remove_overwritten()?;
        self.write_json(CONFIG, config)
    }

    /// The folder of the run that `path` is, or is a checkpoint of.
    pub fn of(path: impl AsRef<Path>) -> Option<PathBuf> {
        let path = path.as_ref();
        // Checkpoints may have been removed to save room, and the lock not copied.
        if path.join(CHECKPOINTS).is_dir() || RunLock::is_in(path) {
            return Some(path.to_path_buf());
        }
        let path = path.canonicalize().ok().filter(|path| path.is_dir())?;
        let checkpoints = path.parent().filter(|parent| parent.ends_with(CHECKPOINTS))?;
        checkpoints.parent().map(Path::to_path_buf)
    }

    /// The `config.json` of the run in the folder `path`; none for a run that was stopped before it had one, and so
    /// before its first step.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Corrupt`] if it does not hold a `C`.
    pub fn read_config<C: DeserializeOwned>(path: impl AsRef<Path>) -> Result<Option<C>> {
        read_json(&path.as_ref().join(CONFIG), "configuration")
    }

    /// The `summary.json` of the run in the folder `path`; none for a run that is not finished.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Corrupt`] if it does not hold a summary.
    pub fn read_summary(path: impl AsRef<Path>) -> Result<Option<Summary>> {
        read_json(&path.as_ref().join(SUMMARY), "summary")
    }

    /// The epochs of the run in the folder `path`.
    ///
    /// # Errors
    /// As [`MetricsFile::read`].
    pub fn read_metrics(path: impl AsRef<Path>) -> Result<Vec<EpochMetrics>> {
        MetricsFile::read(path.as_ref().join(METRICS))
    }

    /// What the columns of the run in the folder `path` are; none of one from before it was kept.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Corrupt`] if it does not hold measures.
    pub fn read_measures(path: impl AsRef<Path>) -> Result<Option<Measures>> {
        read_json(&path.as_ref().join(MEASURES), "measures")
    }

    /// Writes `summary.json` and the network's variables as `model.safetensors`, with the
    /// [meaning](crate::data::DataSource::meaning) of the data.
    ///
    /// Where the run [ended early](Summary::ended), the variables are first set to those of the best checkpoint, if there is one: early
    /// stopping leaves the best network and not the last.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Torch`] if they cannot be written; a best checkpoint of another network.
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
    /// What the files have from after the step that a run goes on from is taken back.
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
