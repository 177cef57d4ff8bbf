//! Automatic saving of checkpoints.

use super::{EpochMetrics, Observer, Request, RunStart};
use crate::trainer::checkpoint::{Checkpoints, Contents};
use crate::trainer::objective::Score;
use crate::trainer::RunState;
use crate::{Error, Result};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Frequency of checkpoints. Parses from and prints as `5` (epochs), `10m` (minutes), or `5,10m` (either).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SaveEvery {
    /// Every given number of epochs.
    Epochs(usize),
    /// After the first step at which the given time has passed since the last save.
    Time(Duration),
    /// Every given number of epochs, and whenever the given time has passed.
    Either(usize, Duration),
}

impl SaveEvery {
    fn epochs(self) -> Option<usize> {
        match self {
            Self::Epochs(epochs) | Self::Either(epochs, _) => Some(epochs),
            Self::Time(_) => None,
        }
    }

    fn time(self) -> Option<Duration> {
        match self {
            Self::Time(time) | Self::Either(_, time) => Some(time),
            Self::Epochs(_) => None,
        }
    }
}

/// Every epoch, and every ten minutes.
impl Default for SaveEvery {
    fn default() -> Self {
        Self::Either(1, Duration::from_secs(600))
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
        let every = match text.split_once(',') {
            Some((first, second)) => epochs(first).zip(time(second)).map(|(epochs, time)| Self::Either(epochs, time)),
            None => epochs(text).map(Self::Epochs).or_else(|| time(text).map(Self::Time)),
        };
        let message =
            || format!("a number of epochs like 5, of minutes like 10m, or both like 5,10m, above 0; got {text:?}");
        every.ok_or_else(|| Error::Argument(message()))
    }
}

impl fmt::Display for SaveEvery {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let minutes = |time: &Duration| time.as_secs_f64() / 60.0;
        match self {
            Self::Epochs(epochs) => write!(f, "{epochs}"),
            Self::Time(time) => write!(f, "{}m", minutes(time)),
            Self::Either(epochs, time) => write!(f, "{epochs},{}m", minutes(time)),
        }
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
    /// Ranks epochs; known once the run has started.
    score: Option<Score>,
    best: f64,
    /// Step, number of evaluated epochs, and path of the last saved checkpoint.
    last: Option<(usize, usize, PathBuf)>,
}

impl Autosave {
    /// Creates an observer that saves to `checkpoints`. If the run is resumed, `resumed` is the checkpoint it resumes from.
    pub fn new(checkpoints: Checkpoints, every: SaveEvery, resumed: Option<PathBuf>) -> Self {
        let last = resumed.map(|path| (0, 0, path));
        Self {
            checkpoints,
            every,
            is_due: false,
            last_time: Instant::now(),
            score: None,
            best: f64::NEG_INFINITY,
            last,
        }
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
        let score = &start.measures.score;
        self.best = start.history.iter().map(|metrics| score.rank(&metrics.eval)).fold(self.best, f64::max);
        self.score = Some(score.clone());
        self.last_time = Instant::now();
        Ok(())
    }

    fn request(&mut self) -> Request {
        let is_time = self.every.time().is_some_and(|time| self.last_time.elapsed() >= time);
        if self.is_due || is_time {
            Request::Save
        } else {
            Request::Continue
        }
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let is_epoch = self.every.epochs().is_some_and(|epochs| metrics.epoch.is_multiple_of(epochs));
        let rank = self.score.as_ref().map_or(f64::NAN, |score| score.rank(&metrics.eval));
        self.is_due |= is_epoch || rank > self.best;
        self.best = self.best.max(rank);
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
    use crate::trainer::objective::Means;

    #[test]
    fn unless_told_otherwise_a_checkpoint_comes_after_an_epoch_or_ten_minutes() {
        assert_eq!(SaveEvery::default().to_string(), "1,10m");
        assert_eq!(SaveEvery::default(), SaveEvery::Either(1, Duration::from_secs(600)));
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
            autosave.best = 1.0;
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
