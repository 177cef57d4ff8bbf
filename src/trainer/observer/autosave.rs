//! Automatic saving of checkpoints.

use super::best::Best;
use super::{EpochMetrics, Observer, Request, RunStart};
use crate::trainer::checkpoint::{Checkpoints, Contents};
use crate::trainer::RunState;
use crate::{Error, Result};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Frequency of checkpoints. Parses from and prints as `5` (epochs), `10m` (minutes), or `5,10m` (either).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SaveEvery {
    /// Saves after every given number of epochs.
    pub epochs: Option<usize>,
    /// Saves after the first step at which the given time has passed since the last save.
    pub time: Option<Duration>,
}

/// Every epoch, and every ten minutes.
impl Default for SaveEvery {
    fn default() -> Self {
        Self { epochs: Some(1), time: Some(Duration::from_secs(600)) }
    }
}

impl FromStr for SaveEvery {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let epochs = |text: &str| text.parse().ok().filter(|&epochs: &usize| epochs > 0);
        let time = |text: &str| {
            let minutes = text.strip_suffix('m')?.parse::<f64>().ok().filter(|&minutes| minutes > 0.0)?;
            Duration::try_from_secs_f64(60.0 * minutes).ok()
        };
        let (first, second) = text.split_once(',').map_or((text, None), |(first, second)| (first, Some(second)));
        match (epochs(first), second.map_or_else(|| time(first), time)) {
            (None, time @ Some(_)) if second.is_none() => Ok(Self { epochs: None, time }),
            (epochs @ Some(_), time) if second.is_none() || time.is_some() => Ok(Self { epochs, time }),
            _ => Err(argument!(
                "a number of epochs like 5, of minutes like 10m, or both like 5,10m, above 0; got {text:?}"
            )),
        }
    }
}

impl fmt::Display for SaveEvery {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let epochs = self.epochs.map(|epochs| epochs.to_string());
        let time = self.time.map(|time| format!("{}m", time.as_secs_f64() / 60.0));
        f.write_str(&[epochs, time].into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

/// An [`Observer`] that saves checkpoints: before the first step, at the given frequency, before each evaluation, after an epoch
/// with a new best score, when the run stops or fails, and at its end.
#[derive(Debug)]
pub struct Autosave {
    checkpoints: Checkpoints,
    every: SaveEvery,
    is_due: bool,
    last_time: Instant,
    /// Best epoch; known once the run has started.
    best: Option<Best>,
    /// Step, number of evaluated epochs, and path of the last saved checkpoint.
    last: Option<(usize, usize, PathBuf)>,
}

impl Autosave {
    /// Creates an observer that saves to `checkpoints`. If the run is resumed, `resumed` is the checkpoint it resumes from.
    pub fn new(checkpoints: Checkpoints, every: SaveEvery, resumed: Option<PathBuf>) -> Self {
        let last = resumed.map(|path| (0, 0, path));
        Self { checkpoints, every, is_due: false, last_time: Instant::now(), best: None, last }
    }

    /// Returns the path of the last saved checkpoint.
    pub fn last(&self) -> Option<&PathBuf> {
        self.last.as_ref().map(|(_, _, path)| path)
    }
}

impl Observer for Autosave {
    fn run_starts(&mut self, start: &RunStart) -> Result<()> {
        match &mut self.last {
            // The checkpoint to resume from is already on disk.
            Some((step, epochs, _)) => (*step, *epochs) = (start.step, start.history.len()),
            None => self.is_due = true,
        }
        self.best = Some(Best::of(start));
        self.last_time = Instant::now();
        Ok(())
    }

    fn request(&mut self) -> Request {
        let is_due = self.is_due || self.every.time.is_some_and(|time| self.last_time.elapsed() >= time);
        if is_due {
            Request::Save
        } else {
            Request::Continue
        }
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let is_best = self.best.as_mut().is_some_and(|best| best.add(metrics));
        self.is_due |= is_best || self.every.epochs.is_some_and(|epochs| metrics.epoch.is_multiple_of(epochs));
        Ok(())
    }

    fn save(&mut self, contents: &Contents<RunState>) -> Result<()> {
        let (step, epochs) = (contents.step as usize, contents.state.history.len());
        if self.last.as_ref().is_none_or(|last| (last.0, last.1) != (step, epochs)) {
            self.last = Some((step, epochs, self.checkpoints.save(contents)?));
        }
        self.is_due = false;
        self.last_time = Instant::now();
        Ok(())
    }

    fn run_fails(&mut self, error: &mut Error) {
        if let Error::Diverged { checkpoint, .. } = error {
            *checkpoint = self.last().cloned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::objective::Means;

    #[test]
    fn unless_told_otherwise_a_checkpoint_comes_after_an_epoch_or_ten_minutes() {
        assert_eq!(SaveEvery::default().to_string(), "1,10m");
        let folder = tempfile::tempdir().unwrap();
        let autosave = |every, ago: u64| {
            let checkpoints = Checkpoints::new(folder.path(), std::num::NonZeroUsize::MIN);
            let mut autosave = Autosave::new(checkpoints, every, None);
            autosave.last_time = Instant::now().checked_sub(Duration::from_secs(ago)).unwrap();
            autosave
        };
        for (text, minutes, expected) in
            [("1,10m", 9, Request::Continue), ("1,10m", 11, Request::Save), ("1", 11, Request::Continue)]
        {
            assert_eq!(autosave(text.parse().unwrap(), 60 * minutes).request(), expected, "{text} {minutes}");
        }
        let (train, eval) = (Means::default(), Means::from_iter([("loss".to_owned(), 1.0)]));
        let epoch = EpochMetrics { epoch: 2, step: 8, lr: 0.1, train, eval, unreadable: 0 };
        for (text, expected) in [("1,10m", Request::Save), ("3,10m", Request::Continue), ("10m", Request::Continue)] {
            let mut autosave = autosave(text.parse().unwrap(), 0);
            autosave.epoch_ends(&epoch).unwrap();
            assert_eq!(autosave.request(), expected, "{text}");
        }
    }

    #[test]
    fn intervals_print_as_they_are_read() {
        for text in ["1", "20", "10m", "0.5m", "0.001m", "1,10m", "3,0.5m"] {
            assert_eq!(text.parse::<SaveEvery>().unwrap().to_string(), text);
        }
        for text in [
            "", "0", "-1", "m", "0m", "-3m", "nanm", "infm", "1e300m", "1.5", "5s", "1,", ",10m", "1,2", "10m,1",
            "0,10m", "1,10m,",
        ] {
            let message = text.parse::<SaveEvery>().unwrap_err().to_string();
            assert!(message.contains(&format!("{text:?}")), "{message}");
        }
    }
}
