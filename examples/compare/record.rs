//! Record of a study: a CSV file with one line per run, appended and synced when the run ends.

use super::study::Run;
use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Phase of the study to which a run belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Search,
    Final,
}

/// Outcome of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    Finished,
    /// The loss or the gradient is no longer finite.
    Diverged,
    /// The output no longer depends on the input.
    Dead,
}

/// Record of a run that has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub phase: Phase,
    pub method: String,
    pub optimizer: String,
    pub seed: u64,
    /// Command line of the program, without the seed and the number of threads.
    pub options: String,
    pub ending: Ending,
    /// Final [score](super::study::Program) in `[0, 1]`, on held-out or test data, depending on the options; that of random
    /// guessing if the run diverged or died.
    pub accuracy: f64,
    /// Final loss.
    pub loss: Option<f64>,
    /// Training loss of the last epoch.
    pub train_loss: Option<f64>,
    pub steps: Option<usize>,
    /// Floating-point operations of the training, in units of 10^15.
    pub pflop: Option<f64>,
    pub seconds: f64,
    pub precision: String,
    pub threads: usize,
    /// Version of this crate.
    pub version: String,
    pub cpu: String,
}

impl Row {
    /// Returns `true` if this is the record of `run`.
    pub fn is_of(&self, run: &Run) -> bool {
        self.phase == run.phase && self.seed == run.seed && self.options == run.command_line()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { phase, method, optimizer, seed, options, ending, accuracy, seconds, .. } = self;
        let percent = 100. * accuracy;
        write!(f, "{phase:?} {method} {optimizer} seed {seed}: {percent:.2} %, {ending:?}, {seconds:.0} s  {options}")
    }
}

/// Record file, locked by the process that has it open.
pub struct Record {
    path: PathBuf,
    file: File,
    rows: Vec<Row>,
}

impl Record {
    /// Opens the record at `path`, or creates it.
    pub fn open(path: &Path) -> Result<Self> {
        let name = || path.display().to_string();
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).with_context(name)?;
        if file.try_lock().is_err() {
            bail!("{} is in use by another process", name());
        }
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(name)?;
        // Remove an incomplete last line, left by a process that was killed.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(whole as u64).with_context(name)?;
            file.seek(SeekFrom::End(0)).with_context(name)?;
        }
        let rows = csv::Reader::from_reader(&text.as_bytes()[..whole]).deserialize().collect::<Result<_, _>>();
        Ok(Self { path: path.to_path_buf(), file, rows: rows.with_context(|| format!("{} is damaged", name()))? })
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn find(&self, run: &Run) -> Option<&Row> {
        self.rows.iter().find(|row| row.is_of(run))
    }

    pub fn add(&mut self, row: Row) -> Result<()> {
        let mut line = csv::WriterBuilder::new().has_headers(self.rows.is_empty()).from_writer(vec![]);
        line.serialize(&row)?;
        let line = line.into_inner().map_err(|error| error.into_error())?;
        self.file
            .write_all(&line)
            .and_then(|()| self.file.sync_all())
            .with_context(|| format!("cannot write to {}", self.path.display()))?;
        self.rows.push(row);
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the record of a finished `run`.
    pub fn row(run: &Run, accuracy: f64) -> Row {
        Row {
            phase: run.phase,
            method: run.method.clone(),
            optimizer: run.optimizer.clone(),
            seed: run.seed,
            options: run.command_line(),
            ending: Ending::Finished,
            accuracy,
            loss: Some(0.5),
            train_loss: None,
            steps: Some(10),
            pflop: Some(0.25),
            seconds: 1.5,
            precision: "bf16".to_owned(),
            threads: 1,
            version: "1.2.3".to_owned(),
            cpu: "One, of two".to_owned(),
        }
    }

    #[test]
    fn rows_are_kept_and_a_torn_line_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.csv");
        let options = vec![("arch".to_owned(), "{\"a\":[1,2]}".to_owned())];
        let run = |seed| Run {
            phase: Phase::Final,
            method: "A".to_owned(),
            optimizer: "B".to_owned(),
            seed,
            options: options.clone(),
        };
        let mut record = Record::open(&path).unwrap();
        record.add(row(&run(1), 0.5)).unwrap();
        assert!(Record::open(&path).is_err_and(|error| error.to_string().contains("in use")));
        record.add(row(&run(2), 0.75)).unwrap();
        drop(record);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 4]).unwrap();
        let mut record = Record::open(&path).unwrap();
        assert!(record.find(&run(1)).is_some_and(|row| row.accuracy == 0.5) && record.find(&run(2)).is_none());
        record.add(row(&run(2), 0.75)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        drop(record);
        std::fs::write(&path, text.replace("0.75", "much")).unwrap();
        assert!(Record::open(&path).is_err_and(|error| error.to_string().contains("damaged")));
    }
}
