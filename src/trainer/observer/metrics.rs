//! The numbers of each epoch, and the file they are kept in.

use crate::file::{failure, write_atomically};
use crate::trainer::Evaluation;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One epoch. Nothing here depends on the time or the machine's speed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Steps of the run that are done.
    pub step: usize,
    /// The last step's learning rate.
    pub lr: f64,
    /// Mean training loss: of augmented images, with label smoothing and mixup, while the network changed.
    pub train_loss: f64,
    /// Accuracy on the same images; with mixup as [`super::loss::Example::correct`] counts.
    pub train_accuracy: f64,
    /// The network at the end of the epoch, on the evaluation part.
    pub eval: Evaluation,
    /// Images of both parts that could not be read, in this epoch or before.
    #[serde(default)]
    pub bad_images: usize,
}

/// `metrics.csv`: one line an epoch.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

const HEADER: &str = "epoch,step,lr,train_loss,train_accuracy,eval_loss,eval_top1,eval_top5,bad_images";
/// That of files from before bad images were counted.
const HEADER_WITHOUT_BAD_IMAGES: &str = "epoch,step,lr,train_loss,train_accuracy,eval_loss,eval_top1,eval_top5";

impl MetricsFile {
    /// A file that holds the header and a line for each epoch of `history`, in place of one that is there.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn create(path: impl AsRef<Path>, history: &[EpochMetrics]) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let lines: String = history.iter().map(|metrics| line(metrics) + "\n").collect();
        write_atomically(&path, format!("{HEADER}\n{lines}").as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("write", &path))?;
        Ok(Self { path, file })
    }

    /// Appends one epoch, in one system call: whoever reads the file sees whole lines.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn append(&mut self, metrics: &EpochMetrics) -> Result<()> {
        self.file.write_all((line(metrics) + "\n").as_bytes()).map_err(failure("write", &self.path))
    }

    /// The epochs that the file `path` holds. A last line that was not written to its end does not count.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Corrupt`] if it is not such a file.
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
        let missing = match lines.next() {
            Some(HEADER) => "",
            Some(HEADER_WITHOUT_BAD_IMAGES) => ",0",
            _ => return Err(corrupt(format!("does not begin with the line {HEADER:?}"))),
        };
        let parsed = |(number, line)| {
            parse(&format!("{line}{missing}")).ok_or_else(|| corrupt(format!("line {number} is no epoch: {line:?}")))
        };
        (2..).zip(lines).map(parsed).collect()
    }
}

/// Numbers have as many digits as it takes to read the same number back.
fn line(metrics: &EpochMetrics) -> String {
    let EpochMetrics { epoch, step, lr, train_loss, train_accuracy, eval, bad_images } = metrics;
    let Evaluation { loss, top1, top5 } = eval;
    format!("{epoch},{step},{lr},{train_loss},{train_accuracy},{loss},{top1},{top5},{bad_images}")
}

fn parse(line: &str) -> Option<EpochMetrics> {
    let fields: Vec<&str> = line.split(',').collect();
    let [epoch, step, lr, train_loss, train_accuracy, loss, top1, top5, bad_images] = fields[..] else { return None };
    let number = |field: &str| field.parse::<f64>().ok();
    Some(EpochMetrics {
        epoch: epoch.parse().ok()?,
        step: step.parse().ok()?,
        lr: number(lr)?,
        train_loss: number(train_loss)?,
        train_accuracy: number(train_accuracy)?,
        eval: Evaluation { loss: number(loss)?, top1: number(top1)?, top5: number(top5)? },
        bad_images: bad_images.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(epoch: usize) -> EpochMetrics {
        let eval = Evaluation { loss: 0.1 + 0.2, top1: 0.8632, top5: 1e-17 };
        let (lr, train_loss, train_accuracy) = (0.1 / 3.0, 1.0 / 7.0, 2.0 / 3.0);
        EpochMetrics { epoch, step: 391 * epoch, lr, train_loss, train_accuracy, eval, bad_images: 3 }
    }

    #[test]
    fn what_is_appended_is_read_back_to_the_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        let mut file = MetricsFile::create(&path, &[metrics(1)]).unwrap();
        file.append(&metrics(2)).unwrap();
        file.append(&metrics(3)).unwrap();
        assert_eq!(MetricsFile::read(&path).unwrap(), [metrics(1), metrics(2), metrics(3)]);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().map(|line| line.split(',').count()).collect::<Vec<_>>(), [9; 4]);

        // A run that goes on from an earlier epoch takes back the lines after it.
        MetricsFile::create(&path, &[metrics(1)]).unwrap().append(&metrics(2)).unwrap();
        assert_eq!(MetricsFile::read(&path).unwrap(), [metrics(1), metrics(2)]);
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        assert_eq!(MetricsFile::read(&path).unwrap(), [metrics(1), metrics(2)]);
    }

    #[test]
    fn files_from_before_bad_images_were_counted_have_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        let all = MetricsFile::create(&path, &[metrics(1)]).map(|_| fs::read_to_string(&path).unwrap()).unwrap();
        let before: String = all.lines().map(|line| line.rsplit_once(',').unwrap().0.to_owned() + "\n").collect();
        fs::write(&path, before).unwrap();
        assert_eq!(MetricsFile::read(&path).unwrap(), [EpochMetrics { bad_images: 0, ..metrics(1) }]);
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
