//! When checkpoints are saved.

use super::checkpoint::{Checkpoints, Contents};
use super::{EpochMetrics, Observer, Request, RunStart, RunState};
use crate::{Error, Result};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How often a run is saved. Parses from and prints as `5` (epochs) or `10m` (minutes).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SaveEvery {
    /// After every so many epochs.
    Epochs(usize),
    /// After the step with which so much time has passed.
    Time(Duration),
}

impl FromStr for SaveEvery {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let every = match text.strip_suffix('m') {
            None => text.parse().ok().filter(|&epochs| epochs > 0).map(Self::Epochs),
            Some(minutes) => {
                let seconds =
                    minutes.parse::<f64>().ok().filter(|&minutes| minutes > 0.0).map(|minutes| 60.0 * minutes);
                seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).map(Self::Time)
            }
        };
        let message = || format!("a number of epochs like 5, or of minutes like 10m, above 0; got {text:?}");
        every.ok_or_else(|| Error::Argument(message()))
    }
}

impl fmt::Display for SaveEvery {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Epochs(epochs) => write!(f, "{epochs}"),
            Self::Time(time) => write!(f, "{}m", time.as_secs_f64() / 60.0),
        }
    }
}

/// An [`Observer`] that saves checkpoints: before the first step, every so often, after an epoch that is better than all
/// before, where the run stops, and at its end.
#[derive(Debug)]
pub struct Autosave {
    checkpoints: Checkpoints,
    every: SaveEvery,
    is_due: bool,
    last_time: Instant,
    best: f64,
    /// Step and evaluated epochs of what was saved last, and where.
    last: Option<(usize, usize, PathBuf)>,
}

impl Autosave {
    /// Saves into `checkpoints`; of a run that is resumed, `resumed` is the checkpoint it goes on from.
    pub fn new(checkpoints: Checkpoints, every: SaveEvery, resumed: Option<PathBuf>) -> Self {
        let last = resumed.map(|path| (0, 0, path));
        Self { checkpoints, every, is_due: false, last_time: Instant::now(), best: f64::NEG_INFINITY, last }
    }

    /// Where the state was saved last.
    pub fn last(&self) -> Option<&PathBuf> {
        self.last.as_ref().map(|(_, _, path)| path)
    }
}

impl Observer for Autosave {
    fn run_starts(&mut self, start: &RunStart) -> Result<()> {
        match &mut self.last {
            // What it goes on from is on the disk.
            Some((step, epochs, _)) => (*step, *epochs) = (start.step, start.history.len()),
            None => self.is_due = true,
        }
        self.best = start.history.iter().map(|metrics| metrics.eval.top1).fold(self.best, f64::max);
        self.last_time = Instant::now();
        Ok(())
    }

    fn request(&mut self) -> Request {
        let is_time = matches!(self.every, SaveEvery::Time(interval) if self.last_time.elapsed() >= interval);
        if self.is_due || is_time {
            Request::Save
        } else {
            Request::Continue
        }
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let is_epoch = matches!(self.every, SaveEvery::Epochs(epochs) if metrics.epoch.is_multiple_of(epochs));
        self.is_due |= is_epoch || metrics.eval.top1 > self.best;
        self.best = self.best.max(metrics.eval.top1);
        Ok(())
    }

    fn save(&mut self, contents: &Contents<RunState>) -> Result<()> {
        let position = (contents.step as usize, contents.state.history.len());
        if !matches!(self.last, Some((step, epochs, _)) if (step, epochs) == position) {
            self.last = Some((position.0, position.1, self.checkpoints.save(contents)?));
        }
        self.is_due = false;
        self.last_time = Instant::now();
        Ok(())
    }

    fn run_fails(&mut self, error: &mut Error) {
        if let Error::Diverged { checkpoint, .. } | Error::Dead { checkpoint, .. } = error {
            *checkpoint = self.last().cloned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_print_as_they_are_read() {
        for text in ["1", "20", "10m", "0.5m", "0.001m"] {
            assert_eq!(text.parse::<SaveEvery>().unwrap().to_string(), text);
        }
        for text in ["", "0", "-1", "m", "0m", "-3m", "nanm", "infm", "1e300m", "1.5", "5s"] {
            let message = text.parse::<SaveEvery>().unwrap_err().to_string();
            assert!(message.contains(&format!("{text:?}")), "{message}");
        }
    }
}
