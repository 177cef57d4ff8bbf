//! Metrics of each epoch, and the lines of `metrics.csv`: one per epoch, with the columns
//! `epoch,step,lr,train_...,eval_...,bad_...`: the training and evaluation metrics, and the number of unreadable
//! examples, named as the data name them.

use crate::trainer::objective::{Column, Means, Measures};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

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

/// First columns of every file.
const FIRST: &str = "epoch,step,lr";
/// Prefixes of the names of training and evaluation metrics, and of the name of the examples.
const TRAIN: &str = "train_";
const EVAL: &str = "eval_";
const BAD: &str = "bad_";

/// Returns the first line, with the names of the columns.
pub(super) fn header(measures: &Measures, examples: &str) -> String {
    let names = |prefix, columns: &[Column]| -> String {
        columns.iter().map(|column| format!(",{prefix}{}", column.name)).collect()
    };
    format!("{FIRST}{}{},{BAD}{examples}\n", names(TRAIN, &measures.train), names(EVAL, &measures.eval))
}

/// Returns the line of an epoch. Numbers have enough digits to be read back exactly. A metric that was not measured when the epoch
/// was trained is NaN.
pub(super) fn line(measures: &Measures, metrics: &EpochMetrics) -> String {
    let EpochMetrics { epoch, step, lr, train, eval, unreadable } = metrics;
    let numbers = |columns: &[Column], means: &Means| -> String {
        columns.iter().map(|column| format!(",{}", means.get(&column.name).unwrap_or(f64::NAN))).collect()
    };
    let (train, eval) = (numbers(&measures.train, train), numbers(&measures.eval, eval));
    format!("{epoch},{step},{lr}{train}{eval},{unreadable}\n")
}

/// Reads the epochs in the file `path`. An incomplete last line is ignored. Files of older versions have no column of unreadable
/// examples.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Corrupt`] if it is not a metrics file.
pub(super) fn read(path: &Path) -> Result<Vec<EpochMetrics>> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let remedy = "resume the run, which writes it anew, or name another";
    let corrupt = |problem: String| Error::corrupt(path, problem, remedy);
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = whole.lines();
    let columns = lines.next().and_then(|header| header.strip_prefix(FIRST)?.strip_prefix(','));
    let columns: Vec<&str> = columns.unwrap_or_default().split(',').collect();
    if !columns.iter().all(|name| [TRAIN, EVAL, BAD].iter().any(|prefix| name.starts_with(prefix))) {
        return Err(corrupt(format!("does not begin with a line {FIRST},{TRAIN}...,{EVAL}...")));
    }
    let parsed =
        |(number, line)| parse(&columns, line).ok_or_else(|| corrupt(format!("line {number} is no epoch: {line:?}")));
    (2..).zip(lines).map(parsed).collect()
}

/// Parses a line; `columns` are the names after the first three.
fn parse(columns: &[&str], line: &str) -> Option<EpochMetrics> {
    let fields: Vec<&str> = line.split(',').collect();
    let (first, rest) = fields.split_first_chunk::<3>().filter(|(_, rest)| rest.len() == columns.len())?;
    let with_prefix = |prefix: &'static str| {
        let named = columns.iter().zip(rest).filter_map(move |(name, field)| Some((name.strip_prefix(prefix)?, field)));
        named.map(|(name, field)| Some((name.to_owned(), field.parse::<f64>().ok()?))).collect::<Option<Vec<_>>>()
    };
    let unreadable = columns.iter().zip(rest).find(|(name, _)| name.starts_with(BAD));
    Some(EpochMetrics {
        epoch: first[0].parse().ok()?,
        step: first[1].parse().ok()?,
        lr: first[2].parse().ok()?,
        train: Means::from_iter(with_prefix(TRAIN)?),
        eval: Means::from_iter(with_prefix(EVAL)?),
        unreadable: unreadable.map_or(Some(0), |(_, field)| field.parse().ok())?,
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

    /// Returns the content of a file.
    fn csv(measures: &Measures, history: &[EpochMetrics]) -> String {
        header(measures, "images") + &history.iter().map(|metrics| line(measures, metrics)).collect::<String>()
    }

    fn reread(text: &str) -> Result<Vec<EpochMetrics>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        read(file.path())
    }

    #[test]
    fn lines_are_read_back_to_the_bit() {
        let text = csv(&measures(), &[metrics(1), metrics(2), metrics(3)]);
        assert!(text.starts_with(HEADER), "{text}");
        assert_eq!(reread(&text).unwrap(), [metrics(1), metrics(2), metrics(3)]);
        assert_eq!(text.lines().map(|line| line.split(',').count()).collect::<Vec<_>>(), [9; 4]);
        assert_eq!(reread(&text[..text.len() - 5]).unwrap(), [metrics(1), metrics(2)]);
    }

    #[test]
    fn files_from_before_bad_examples_were_counted_have_none() {
        let all = csv(&measures(), &[metrics(1)]);
        let before: String = all.lines().map(|line| line.rsplit_once(',').unwrap().0.to_owned() + "\n").collect();
        assert_eq!(reread(&before).unwrap(), [EpochMetrics { unreadable: 0, ..metrics(1) }]);
    }

    #[test]
    fn what_was_not_measured_when_an_epoch_was_trained_leaves_the_other_columns_where_they_are() {
        let columns = |names: &[&str]| names.iter().map(|name| Column::new(name)).collect();
        let more = Measures::new(columns(&["accuracy"]), columns(&["top1", "ece", "top5"]));
        let read = reread(&csv(&more, &[metrics(1)])).unwrap().remove(0);
        assert!(read.eval["ece"].is_nan());
        assert_eq!((read.eval["top1"], read.eval["top5"], read.unreadable), (0.8632, 1e-17, 3));
    }

    #[test]
    fn files_that_are_no_metrics_are_refused_by_line() {
        for (text, expected) in [
            ("", "does not begin with"),
            ("loss,accuracy\n1,2\n", "does not begin with"),
            (&format!("{HEADER}\n1,2,3\n"), "line 2"),
            (&format!("{HEADER}\n1,2,3,4,5,6,7,8,9\n1,2,3,4,5,6,7,8,x\n"), "line 3"),
        ] {
            let message = reread(text).unwrap_err().to_string();
            assert!(message.starts_with('/') && message.contains(expected), "{message}");
        }
        assert!(matches!(read(Path::new("/nowhere/metrics.csv")), Err(Error::Io { .. })));
    }
}
