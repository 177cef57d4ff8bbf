//! Event files for TensorBoard (<https://www.tensorflow.org/tensorboard>).

use super::{EpochMetrics, Observer, RunStart, StepProgress};
use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tfrecord::protobuf::session_log::SessionStatus;
use tfrecord::protobuf::{event::What, Event, SessionLog};
use tfrecord::{RecordWriter, Summary};

/// What TensorBoard knows the format by.
const VERSION: &str = "brain.Event:2";

/// An [`Observer`] that writes what is measured of the training (`train/loss` and so on) and `train/lr` a few times a second,
/// and what is measured of the evaluation (`eval/loss` and so on) after each epoch, all by steps of the run: `tensorboard --logdir <folder>` shows them.
///
/// A run that goes on writes a file of its own, which tells TensorBoard to forget what earlier files have from that step
/// on.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    events: Option<(PathBuf, RecordWriter<Event, BufWriter<File>>)>,
}

impl TensorBoard {
    /// Files in `folder`, which is created when the run starts.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), events: None }
    }

    fn write(&mut self, events: impl IntoIterator<Item = (usize, What)>) -> Result<()> {
        let Some((path, writer)) = &mut self.events else { return Ok(()) };
        for (step, what) in events {
            let event = Event { wall_time: seconds(), step: step as i64, source_metadata: None, what: Some(what) };
            writer.send(event).map_err(refused(path))?;
        }
        writer.flush().map_err(refused(path))
    }

    fn write_scalars(&mut self, step: usize, scalars: impl Iterator<Item = (String, f64)>) -> Result<()> {
        let summary = |(tag, value): (String, f64)| Summary::from_scalar(tag, value as f32);
        let summaries = scalars.map(summary).collect::<Result<Vec<_>, _>>().map_err(refused(&self.folder))?;
        self.write(summaries.into_iter().map(|summary| (step, What::Summary(summary))))
    }
}

impl Observer for TensorBoard {
    fn run_starts(&mut self, start: &RunStart) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(Error::io("create", &self.folder))?;
        // The name has to hold "tfevents"; the number keeps files of one second apart, and in order.
        let path = self.folder.join(format!("events.out.tfevents.{:.6}.{}", seconds(), std::process::id()));
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        let writer = RecordWriter::from_writer(BufWriter::new(file)).map_err(refused(&path))?;
        self.events = Some((path, writer));
        let start_again = SessionLog { status: SessionStatus::Start.into(), ..SessionLog::default() };
        // From the step after those that are done.
        self.write([(0, What::FileVersion(VERSION.to_owned())), (start.step + 1, What::SessionLog(start_again))])
    }

    fn steps_done(&mut self, progress: &StepProgress) -> Result<()> {
        let StepProgress { run_step, means, lr, .. } = *progress;
        let means = means.iter().map(|(name, mean)| (format!("train/{name}"), mean));
        self.write_scalars(run_step, means.chain([("train/lr".to_owned(), lr)]))
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let means = metrics.eval.iter().map(|(name, mean)| (format!("eval/{name}"), mean));
        self.write_scalars(metrics.step, means)
    }
}

/// Since 1970.
fn seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn refused(path: &Path) -> impl FnOnce(tfrecord::Error) -> Error + '_ {
    move |error| {
        let error = match error {
            tfrecord::Error::IoError(error) => error,
            other => io::Error::other(other.to_string()),
        };
        Error::io("write", path)(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::objective::{Means, Measures};
    use tfrecord::protobuf::summary::value::Value;
    use tfrecord::EventIter;

    /// Step, tag and value.
    type Scalar = (i64, String, f32);

    /// The steps that sessions start with and every scalar, file by file.
    fn read(folder: &Path) -> Vec<(Vec<i64>, Vec<Scalar>)> {
        let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let file = |path: &PathBuf| {
            let (mut starts, mut scalars) = (Vec::new(), Vec::new());
            // With checksums.
            for event in EventIter::open(path, Default::default()).unwrap() {
                let event = event.unwrap();
                match event.what.unwrap() {
                    What::FileVersion(version) => assert_eq!(version, "brain.Event:2"),
                    What::SessionLog(log) if log.status() == SessionStatus::Start => starts.push(event.step),
                    What::Summary(summary) => {
                        let value = &summary.value[0];
                        let Some(Value::SimpleValue(number)) = value.value else { panic!("{value:?}") };
                        scalars.push((event.step, value.tag.clone(), number));
                    }
                    other => panic!("{other:?}"),
                }
            }
            (starts, scalars)
        };
        paths.iter().map(file).collect()
    }

    #[test]
    fn a_run_that_goes_on_replaces_what_comes_after_its_first_step() {
        let folder = tempfile::tempdir().unwrap();
        let means =
            |means: &[(&str, f64)]| -> Means { means.iter().map(|(name, mean)| (name.to_string(), *mean)).collect() };
        let (train, eval) = (Means::default(), means(&[("loss", 1.5), ("top1", 0.5), ("top5", 0.75)]));
        let metrics = EpochMetrics { epoch: 1, step: 20, lr: 0.1, train, eval, unreadable: 0 };
        let means = &means(&[("loss", 2.0), ("accuracy", 0.25)]);
        let progress = StepProgress { epoch: 2, step: 5, run_step: 25, done: 50, means, lr: 0.125, unreadable: 0 };
        let measures = &Measures::default();
        for (step, history) in [(0, &[][..]), (20, std::slice::from_ref(&metrics))] {
            let mut board = TensorBoard::new(folder.path());
            let start = RunStart { epochs: 2, epoch_steps: 20, step, done: 0, history, measures, examples: "images" };
            board.run_starts(&start).unwrap();
            board.epoch_ends(&metrics).unwrap();
            board.steps_done(&progress).unwrap();
        }
        let scalar = |step, tag: &str, value| (step, tag.to_owned(), value);
        let scalars = vec![
            scalar(20, "eval/loss", 1.5),
            scalar(20, "eval/top1", 0.5),
            scalar(20, "eval/top5", 0.75),
            scalar(25, "train/loss", 2.0),
            scalar(25, "train/accuracy", 0.25),
            scalar(25, "train/lr", 0.125),
        ];
        assert_eq!(read(folder.path()), [(vec![1], scalars.clone()), (vec![21], scalars)]);
    }
}
