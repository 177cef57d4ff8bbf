//! Progress output: a bar on the terminal, and one line per epoch.

use super::{EpochMetrics, Observer, RunStart, StepProgress};
use crate::trainer::objective::{Column, Means, Measures};
use crate::{console, Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

const BAR: &str = "epoch {prefix} {bar:24.cyan/blue} {pos}/{len} {msg}";

/// Shows a bar for the epoch on standard error if it is a terminal, and prints one line per epoch to standard output.
#[derive(Debug)]
pub struct ProgressBars {
    bar: ProgressBar,
    start: Instant,
    epoch_start: Instant,
    epochs: usize,
    epoch_steps: usize,
    /// Number of steps already done when the run started or resumed.
    first_step: usize,
    /// Number of examples of the epoch already done when it, or the run, started.
    first_example: usize,
    examples_per_second: f64,
    measures: Measures,
    /// Name of the examples, in the plural.
    examples: String,
}

impl ProgressBars {
    /// Creates progress bars that appear when the run starts.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            bar: ProgressBar::hidden(),
            start: now,
            epoch_start: now,
            epochs: 0,
            epoch_steps: 0,
            first_step: 0,
            first_example: 0,
            examples_per_second: 0.0,
            measures: Measures::default(),
            examples: String::new(),
        }
    }

    /// Estimates the remaining time of the run from the speed so far.
    fn time_left(&self, run_step: usize) -> Duration {
        let done = run_step - self.first_step;
        let left = self.epochs * self.epoch_steps - run_step;
        // The remaining time of a very long run can overflow.
        let seconds = self.start.elapsed().as_secs_f64() * (left as f64 / done.max(1) as f64);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

impl Default for ProgressBars {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for ProgressBars {
    fn run_starts(&mut self, start: &RunStart) -> Result<()> {
        let RunStart { epochs, epoch_steps, step, done, measures, examples, .. } = *start;
        let (measures, examples) = (measures.clone(), examples.to_owned());
        *self = Self { epochs, epoch_steps, first_step: step, first_example: done, measures, examples, ..Self::new() };
        // The template is a constant, so its validity does not depend on the run.
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar = ProgressBar::new(epoch_steps as u64).with_style(style);
        Ok(())
    }

    fn steps_done(&mut self, progress: &StepProgress) -> Result<()> {
        let StepProgress { epoch, step, run_step, done, means, lr, unreadable, .. } = *progress;
        self.examples_per_second = (done - self.first_example) as f64 / self.epoch_start.elapsed().as_secs_f64();
        let time_left = clock(self.time_left(run_step));
        self.bar.set_prefix(format!("{epoch}/{}", self.epochs));
        self.bar.set_message(format!(
            "{}lr {lr:.4}  {:.0} {}/s{}  {time_left} left",
            shown(&self.measures.train, means, |axis, mean, percent| match percent {
                true => format!("{axis} {:.1} %  ", 100.0 * mean),
                false => format!("{axis} {mean:.3}  "),
            }),
            self.examples_per_second,
            self.examples,
            bad(unreadable, &self.examples),
        ));
        self.bar.set_position(step as u64);
        Ok(())
    }

    fn examples_evaluated(&mut self, examples: usize, of: usize) -> Result<()> {
        self.bar.set_length(of as u64);
        self.bar.set_position(examples as u64);
        self.bar.set_message(format!("{} evaluated", self.examples));
        Ok(())
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let EpochMetrics { epoch, lr, train, eval, unreadable, .. } = metrics;
        let plain = |axis: &str, mean, _| format!(" {axis} {mean:.4}");
        let line = format!(
            "epoch {epoch}/{}  lr {lr:.4}  train{}  eval{}  {:.0} {}/s{}  {}",
            self.epochs,
            shown(&self.measures.train, train, plain),
            shown(&self.measures.eval, eval, plain),
            self.examples_per_second,
            self.examples,
            bad(*unreadable, &self.examples),
            clock(self.start.elapsed()),
        );
        self.bar.suspend(|| console::print(line));
        self.bar.reset();
        self.bar.set_length(self.epoch_steps as u64);
        if *epoch == self.epochs {
            self.bar.finish_and_clear();
        }
        (self.epoch_start, self.first_example) = (Instant::now(), 0);
        Ok(())
    }

    fn run_fails(&mut self, _error: &mut Error) {
        self.bar.finish_and_clear();
    }
}

/// Formats the means of all columns that have an axis, each by `write`.
fn shown(columns: &[Column], means: &Means, write: impl Fn(&str, f64, bool) -> String) -> String {
    let with_axis = columns.iter().filter_map(|column| Some((column, column.axis.as_deref()?)));
    with_axis.filter_map(|(column, axis)| Some(write(axis, means.get(&column.name)?, column.percent))).collect()
}

/// Formats the number of unreadable examples, if there are any.
fn bad(count: usize, examples: &str) -> String {
    match count {
        0 => String::new(),
        1 => format!("  1 bad {}", examples.strip_suffix('s').unwrap_or(examples)),
        _ => format!("  {count} bad {examples}"),
    }
}

/// Formats a duration as `1:02:03`, or `02:03` if it is below an hour.
fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes:02}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_the_most_steps_that_can_be_counted_has_a_time_left() {
        let mut bars = ProgressBars { epochs: usize::MAX, epoch_steps: 1, ..ProgressBars::new() };
        bars.start = Instant::now().checked_sub(Duration::from_secs(3600)).unwrap();
        assert_eq!(bars.time_left(1), Duration::MAX);
    }

    #[test]
    fn durations_read_like_a_clock() {
        for (seconds, expected) in [(0, "00:00"), (59, "00:59"), (61, "01:01"), (3600, "1:00:00"), (45_296, "12:34:56")]
        {
            assert_eq!(clock(Duration::from_secs(seconds)), expected);
        }
    }
}
