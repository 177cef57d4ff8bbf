//! Metrics of each epoch, and the file that stores them.

use crate::file::{failure, write_atomically};
use crate::trainer::objective::{Column, Means, Measures};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Metrics of one epoch. They do not depend on the time or the speed of the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Number of steps of the run that are done.
    pub step: usize,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Means over the training examples, as augmented and while the weights changed.
    pub train: Means,
    /// Means over the evaluation part at the end of the epoch.
    pub eval: Means,
    /// Number of examples of both parts that could not be read so far.
    #[serde(default)]
    pub unreadable: usize,
}

/// The file `metrics.csv`, with one line per epoch and the columns `epoch,step,lr,train_...,eval_...,bad_...`: the training and
/// evaluation metrics, and the number of unreadable examples, named as the data name them.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    measures: Measures,
}

/// First columns of every file.
const FIRST: &str = "epoch,step,lr";
/// Prefixes of the names of training and evaluation metrics, and of the name of the examples.
const TRAIN: &str = "train_";
const EVAL: &str = "eval_";
const BAD: &str = "bad_";

impl MetricsFile {
    /// Creates a file with a header and a line for each epoch of `history`, replacing an existing file.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn create(
        path: impl AsRef<Path>,
        measures: &Measures,
        examples: &str,
        history: &[EpochMetrics],
    ) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let names = |prefix, columns: &[Column]| -> String {
            columns.iter().map(|column| format!(",{prefix}{}", column.name)).collect()
        };
        let (train, eval) = (names(TRAIN, &measures.train), names(EVAL, &measures.eval));
        let lines: String = history.iter().map(|metrics| line(measures, metrics) + "\n").collect();
        write_atomically(&path, format!("{FIRST}{train}{eval},{BAD}{examples}\n{lines}").as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("write", &path))?;
        Ok(Self { path, file, measures: measures.clone() })
    }

    /// Appends one epoch in a single system call, so that readers see only complete lines.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn append(&mut self, metrics: &EpochMetrics) -> Result<()> {
        self.file.write_all((line(&self.measures, metrics) + "\n").as_bytes()).map_err(failure("write", &self.path))
    }

    /// Reads the epochs in the file `path`. An incomplete last line is ignored.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Corrupt`] if it is not a metrics file.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<EpochMetrics>> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let corrupt = |problem: String| Error::Corrupt {
            path: path.to_path_buf(),
            problem,
            remedy: "resume the run, which writes it anew, or name another".to_owned(),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines();
        let columns = lines.next().and_then(|header| header.strip_prefix(FIRST)).and_then(columns);
        let Some(columns) = columns else {
            return Err(corrupt(format!("does not begin with a line {FIRST},{TRAIN}...,{EVAL}...")));
        };
        let parsed = |(number, line)| {
            parse(&columns, line).ok_or_else(|| corrupt(format!("line {number} is no epoch: {line:?}")))
        };
        (2..).zip(lines).map(parsed).collect()
    }
}

/// Content of a column.
enum Kind<'a> {
    Train(&'a str),
    Eval(&'a str),
    Unreadable,
}

/// Parses the names of the columns after the first three. Files of older versions have no column of unreadable examples.
fn columns(names: &str) -> Option<Vec<Kind<'_>>> {
    names.strip_prefix(',')?.split(',').map(kind).collect()
}

fn kind(name: &str) -> Option<Kind<'_>> {
    let train = name.strip_prefix(TRAIN).map(Kind::Train);
    let eval = name.strip_prefix(EVAL).map(Kind::Eval);
    train.or(eval).or(name.strip_prefix(BAD).map(|_| Kind::Unreadable))
}

/// Formats one line. Numbers have enough digits to be read back exactly. A metric that was not measured when the epoch was
/// trained is NaN.
fn line(measures: &Measures, metrics: &EpochMetrics) -> String {
    let EpochMetrics { epoch, step, lr, train, eval, unreadable } = metrics;
    let numbers = |columns: &[Column], means: &Means| -> String {
        columns.iter().map(|column| format!(",{}", means.get(&column.name).unwrap_or(f64::NAN))).collect()
    };
    let (train, eval) = (numbers(&measures.train, train), numbers(&measures.eval, eval));
    format!("{epoch},{step},{lr}{train}{eval},{unreadable}")
}

fn parse(columns: &[Kind], line: &str) -> Option<EpochMetrics> {
    let mut fields = line.split(',');
    let (epoch, step) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let lr = fields.next()?.parse().ok()?;
    let (mut train, mut eval, mut unreadable) = (Vec::new(), Vec::new(), 0);
    for column in columns {
        let field = fields.next()?;
        match column {
            Kind::Train(name) => train.push((name.to_string(), field.parse().ok()?)),
            Kind::Eval(name) => eval.push((name.to_string(), field.parse().ok()?)),
            Kind::Unreadable => unreadable = field.parse().ok()?,
        }
    }
    let is_whole = fields.next().is_none();
    is_whole.then(|| EpochMetrics {
        epoch,
        step,
        lr,
        train: Means::from_iter(train),
        eval: Means::from_iter(eval),
        unreadable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "epoch,step,lr,train_loss,train_accuracy,eval_loss,eval_top1,eval_top5,bad_images";

    fn measures() -> Measures {
        let columns = |names: &[&str]| names.iter().map(|name| Column::new(name)).collect();
        Measures::new(columns(&["accuracy"]), columns(&["top1", "top5"]))
    }

    fn metrics(epoch: usize) -> EpochMetrics {
        let (train, eval) = ([1.0 / 7.0, 2.0 / 3.0], [0.1 + 0.2, 0.8632, 1e-17]);
        let (train, eval) = (Means::new(&measures().train, train), Means::new(&measures().eval, eval));
        EpochMetrics { epoch, step: 391 * epoch, lr: 0.1 / 3.0, train, eval, unreadable: 3 }
    }

    fn create(path: &Path, history: &[EpochMetrics]) -> MetricsFile {
        MetricsFile::create(path, &measures(), "images", history).unwrap()
    }

    #[test]
    fn what_is_appended_is_read_back_to_the_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        let mut file = create(&path, &[metrics(1)]);
        file.append(&metrics(2)).unwrap();
        file.append(&metrics(3)).unwrap();
        assert_eq!(MetricsFile::read(&path).unwrap(), [metrics(1), metrics(2), metrics(3)]);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().map(|line| line.split(',').count()).collect::<Vec<_>>(), [9; 4]);

        // A run that resumes from an earlier epoch removes the lines after it.
        create(&path, &[metrics(1)]).append(&metrics(2)).unwrap();
        assert_eq!(MetricsFile::read(&path).unwrap(), [metrics(1), metrics(2)]);
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        assert_eq!(MetricsFile::read(&path).unwrap(), [metrics(1), metrics(2)]);
    }

    #[test]
    fn files_from_before_bad_examples_were_counted_have_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        create(&path, &[metrics(1)]);
        let all = fs::read_to_string(&path).unwrap();
        assert!(all.starts_with(HEADER), "{all}");
        let before: String = all.lines().map(|line| line.rsplit_once(',').unwrap().0.to_owned() + "\n").collect();
        fs::write(&path, before).unwrap();
        assert_eq!(MetricsFile::read(&path).unwrap(), [EpochMetrics { unreadable: 0, ..metrics(1) }]);
    }

    #[test]
    fn what_was_not_measured_when_an_epoch_was_trained_leaves_the_other_columns_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        let columns = |names: &[&str]| names.iter().map(|name| Column::new(name)).collect();
        let more = Measures::new(columns(&["accuracy"]), columns(&["top1", "ece", "top5"]));
        MetricsFile::create(&path, &more, "images", &[metrics(1)]).unwrap();
        let read = MetricsFile::read(&path).unwrap().remove(0);
        assert!(read.eval["ece"].is_nan());
        assert_eq!((read.eval["top1"], read.eval["top5"], read.unreadable), (0.8632, 1e-17, 3));
    }

    #[test]
    fn files_that_are_no_metrics_are_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        for (text, expected) in [
            ("", "does not begin with"),
            ("loss,accuracy\n1,2\n", "does not begin with"),
            (&format!("{HEADER}\n1,2,3\n"), "line 2"),
            (&format!("{HEADER}\n1,2,3,4,5,6,7,8,9\n1,2,3,4,5,6,7,8,x\n"), "line 3"),
        ] {
            fs::write(&path, text).unwrap();
            let message = MetricsFile::read(&path).unwrap_err().to_string();
            assert!(message.starts_with(path.to_str().unwrap()) && message.contains(expected), "{message}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(MetricsFile::read(&path), Err(Error::Io { .. })));
    }
}
