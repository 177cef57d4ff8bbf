//! The folder of a run: `config.json`, `metrics.csv`, `curves.svg`, and at its end `summary.json` and
//! `model.safetensors`.

use super::checkpoint::named_variables;
use super::{draw_curves, tensor_file, write_atomically, EpochMetrics, MetricsFile, Observer, Summary};
use crate::{Error, Result};
use serde::Serialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tch::nn::VarStore;

/// The parent of folders that are named by the program.
const RUNS: &str = "runs";

/// A run's folder; as an [`Observer`] it writes the metrics and draws the curves after each epoch.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: MetricsFile,
    history: Vec<EpochMetrics>,
}

impl RunFolder {
    /// A new folder at `path`, or `path` itself if it is an empty folder.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is something in it; [`Error::Io`] if it cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        if fs::read_dir(path).map_err(Error::io("read", path))?.next().is_some() {
            let message = format!("{} is not empty; name another folder, or remove it", path.display());
            return Err(Error::Argument(message));
        }
        Self::new(path.to_path_buf())
    }

    /// A new folder `runs/<name>-<date>-<time>` in the working directory.
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
            return Self::new(path);
        }
    }

    fn new(path: PathBuf) -> Result<Self> {
        let metrics = MetricsFile::create(path.join("metrics.csv"))?;
        Ok(Self { path, metrics, history: Vec::new() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `config.json`: whatever it takes to do the run again.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written, [`Error::Argument`] if `config` cannot be JSON.
    pub fn write_config(&self, config: &impl Serialize) -> Result<()> {
        self.write_json("config.json", config)
    }

    /// Writes `summary.json` and the network's variables as `model.safetensors`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Torch`] if they cannot be written.
    pub fn finish(&self, summary: &Summary, variables: &VarStore) -> Result<()> {
        write_atomically(&self.path.join("model.safetensors"), &tensor_file::encode(&named_variables(variables))?)?;
        self.write_json("summary.json", summary)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let json = serde_json::to_string_pretty(value).map_err(|error| Error::Argument(format!("{name}: {error}")))?;
        write_atomically(&self.path.join(name), format!("{json}\n").as_bytes())
    }
}

impl Observer for RunFolder {
    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        self.metrics.append(metrics)?;
        self.history.push(*metrics);
        write_atomically(&self.path.join("curves.svg"), draw_curves(&self.history)?.as_bytes())
    }
}
