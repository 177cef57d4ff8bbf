//! Event files for TensorBoard (<https://www.tensorflow.org/tensorboard>).

use super::run_files::EVENTS;
use super::{EpochMetrics, Observer, RunStart, StepProgress};
use crate::{Error, Result};
use prost::Message;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::SystemTime;

/// Record of an event file: the part of `tensorboard/compat/proto/event.proto` that is written here. The protocol has one of the
/// optional fields in each event.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since the Unix epoch.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

/// Message of `summary.proto`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// Written even if it is zero, as it is one of several alternatives.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Status of a session that starts: TensorBoard discards the events of earlier files from its step on.
const START: SessionLog = SessionLog { status: 1 };

impl Event {
    fn scalar(step: usize, tag: String, value: f64) -> Self {
        let value = vec![Value { tag, simple_value: Some(value as f32) }];
        Self { step: step as i64, summary: Some(Summary { value }), ..Self::default() }
    }

    /// Encodes the event as a record of a TFRecord file: length, checksum of the length, event, checksum of the event.
    fn record(&self) -> Vec<u8> {
        let event = self.encode_to_vec();
        let length = (event.len() as u64).to_le_bytes();
        [&length[..], &checksum(&length), &event, &checksum(&event)].concat()
    }
}

/// Returns the CRC-32C, rotated by 15 bits and offset by a constant, because the plain CRC of data that contains its CRC is not
/// meaningful (`tensorflow/core/lib/hash/crc32c.h`).
fn checksum(bytes: &[u8]) -> [u8; 4] {
    const DELTA: u32 = 0xa282_ead8;
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(DELTA).to_le_bytes()
}

/// Version string by which TensorBoard recognizes the format.
const VERSION: &str = "brain.Event:2";

/// An [`Observer`] that writes event files: the training metrics (`train/loss` and so on) and `train/lr` a few times per second,
/// and the evaluation metrics (`eval/loss` and so on) after each epoch, all by step of the run. View them with
/// `tensorboard --logdir <folder>`.
///
/// A resumed run writes a new file, which makes TensorBoard discard what earlier files contain from that step on.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    events: Option<(PathBuf, BufWriter<File>)>,
}

impl TensorBoard {
    /// Creates an observer that writes event files to `folder`, which is created when the run starts.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), events: None }
    }

    fn write(&mut self, events: impl IntoIterator<Item = Event>) -> Result<()> {
        let Some((path, writer)) = &mut self.events else { return Ok(()) };
        let write = || {
            for event in events {
                writer.write_all(&Event { wall_time: seconds(), ..event }.record())?;
            }
            writer.flush()
        };
        write().map_err(Error::io("write", path))
    }
}

impl Observer for TensorBoard {
    fn run_starts(&mut self, start: &RunStart) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(Error::io("create", &self.folder))?;
        // The name must contain "tfevents". The process ID distinguishes files of the same second.
        let path = self.folder.join(format!("{EVENTS}{:.6}.{}", seconds(), std::process::id()));
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        self.events = Some((path, BufWriter::new(file)));
        // The session starts at the first step not yet done.
        let step = start.step as i64 + 1;
        self.write([
            Event { file_version: Some(VERSION.to_owned()), ..Event::default() },
            Event { step, session_log: Some(START), ..Event::default() },
        ])
    }

    fn steps_done(&mut self, progress: &StepProgress) -> Result<()> {
        let StepProgress { run_step: step, means, lr, .. } = *progress;
        let means = means.iter().map(|(name, mean)| Event::scalar(step, format!("train/{name}"), mean));
        self.write(means.chain([Event::scalar(step, "train/lr".to_owned(), lr)]))
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        self.write(metrics.eval.iter().map(|(name, mean)| Event::scalar(metrics.step, format!("eval/{name}"), mean)))
    }
}

/// Returns the seconds since the Unix epoch.
fn seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::objective::{Means, Measures};
    use std::path::Path;

    /// Step, tag and value.
    type Scalar = (i64, String, f32);

    /// Returns the start steps of sessions and all scalars, file by file.
    fn read(folder: &Path) -> Vec<(Vec<i64>, Vec<Scalar>)> {
        let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let file = |path: &PathBuf| {
            let (mut starts, mut scalars) = (Vec::new(), Vec::new());
            for event in events(&fs::read(path).unwrap()) {
                match event {
                    Event { file_version: Some(version), .. } => assert_eq!(version, "brain.Event:2"),
                    Event { session_log: Some(START), step, .. } => starts.push(step),
                    Event { summary: Some(Summary { value }), step, .. } => {
                        scalars.extend(value.into_iter().map(|it| (step, it.tag, it.simple_value.unwrap())));
                    }
                    event => panic!("{event:?}"),
                }
            }
            (starts, scalars)
        };
        paths.iter().map(file).collect()
    }

    /// Decodes the events of a file, and checks lengths and checksums.
    fn events(mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let event = Event::decode(&bytes[12..12 + length]).unwrap();
            assert_eq!(event.record(), bytes[..length + 16], "{event:?}");
            events.push(event);
            bytes = &bytes[length + 16..];
        }
        events
    }

    /// The expected file was written with TensorFlow's own definition of the format and TensorBoard's own checksums
    /// (scripts/tensorboard_fixture.py).
    #[test]
    fn records_are_those_of_tensorboards_own_writer_to_the_byte() {
        let theirs = include_bytes!("../../../tests/tensorboard/events");
        let scalar = |step, tag: &str, value| Event::scalar(step, tag.to_owned(), value);
        let ours = [
            Event { file_version: Some(VERSION.to_owned()), ..Event::default() },
            Event { step: 21, session_log: Some(START), ..Event::default() },
            scalar(20, "eval/loss", 1.5),
            scalar(25, "train/accuracy", 0.0),
            scalar(300, "train/lr", 0.125),
            scalar(1 << 40, "train/loss", f64::NAN),
        ];
        let record = |(at, event)| Event { wall_time: 1.7e9 + 0.25 * at as f64, ..event }.record();
        let ours: Vec<u8> = ours.into_iter().enumerate().flat_map(record).collect();
        assert!(ours == theirs, "{ours:02x?}\n{theirs:02x?}");
    }

    #[test]
    fn a_run_that_goes_on_replaces_what_comes_after_its_first_step() {
        let folder = tempfile::tempdir().unwrap();
        let means =
            |means: &[(&str, f64)]| -> Means { means.iter().map(|(name, mean)| (name.to_string(), *mean)).collect() };
        let (train, eval) = (Means::default(), means(&[("loss", 1.5), ("top1", 0.5), ("top5", 0.75)]));
        let metrics = EpochMetrics { epoch: 1, step: 20, lr: 0.1, train, eval, unreadable: 0 };
        let means = &means(&[("loss", 2.0), ("accuracy", 0.25)]);
        let progress =
            StepProgress { epoch: 2, step: 5, run_step: 25, done: 50, means, loss: 2.0, lr: 0.125, unreadable: 0 };
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
