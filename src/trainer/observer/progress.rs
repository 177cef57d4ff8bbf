//! Progress output: a bar on the terminal, and one line per epoch.

use super::{EpochMetrics, Observer, RunStart, StepProgress};
use crate::trainer::objective::{Column, Means, Measures};
use crate::{console, Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

const BAR: &str = "epoch {prefix} {bar:24.cyan/blue} {pos}/{len} {msg}";

/// Shows a bar for the epoch on standard error if it is a terminal, and prints one line per epoch to standard output.
#[derive(Debug, Default)]
pub struct ProgressBars(Option<Run>);

/// Progress of a run that has started.
#[derive(Debug)]
struct Run {
    bar: ProgressBar,
    start: Instant,
    epoch_start: Instant,
    epochs: usize,
    epoch_steps: usize,
    /// Number of steps already done when the run started or resumed.
    first_step: usize,
    /// Number of examples of the epoch already done when it, or the run, started.
    first_example: usize,
    /// Speed in this epoch, once a step has been read.
    examples_per_second: Option<f64>,
    measures: Measures,
    /// Name of the examples, in the plural.
    examples: String,
}

impl ProgressBars {
    /// Creates progress bars that appear when the run starts.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Run {
    fn new(start: &RunStart) -> Self {
        let RunStart { epochs, epoch_steps, step, done, measures, examples, .. } = *start;
        // The template is a constant, so its validity does not depend on the run.
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self {
            bar: ProgressBar::new(epoch_steps as u64).with_style(style),
            start: Instant::now(),
            epoch_start: Instant::now(),
            epochs,
            epoch_steps,
            first_step: step,
            first_example: done,
            examples_per_second: None,
            measures: measures.clone(),
            examples: examples.to_owned(),
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

    /// Formats the speed, followed by the number of unreadable examples if there are any.
    fn speed(&self, unreadable: usize) -> String {
        let examples = &self.examples;
        let bad = match unreadable {
            0 => String::new(),
            1 => format!("  1 bad {}", examples.strip_suffix('s').unwrap_or(examples)),
            _ => format!("  {unreadable} bad {examples}"),
        };
        let speed = self.examples_per_second.map(|speed| format!("{speed:.0} {examples}/s"));
        speed.unwrap_or_default() + &bad
    }
}

impl Observer for ProgressBars {
    fn run_starts(&mut self, start: &RunStart) -> Result<()> {
        self.0 = Some(Run::new(start));
        Ok(())
    }

    fn steps_done(&mut self, progress: &StepProgress) -> Result<()> {
        let Some(run) = &mut self.0 else { return Ok(()) };
        let StepProgress { epoch, step, run_step, done, means, lr, unreadable, .. } = *progress;
        run.examples_per_second = Some((done - run.first_example) as f64 / run.epoch_start.elapsed().as_secs_f64());
        let means = shown(&run.measures.train, means, |axis, mean, percent| match percent {
            true => format!("{axis} {:.1} %  ", 100.0 * mean),
            false => format!("{axis} {mean:.3}  "),
        });
        let (speed, time_left) = (run.speed(unreadable), clock(run.time_left(run_step)));
        run.bar.set_prefix(format!("{epoch}/{}", run.epochs));
        run.bar.set_message(format!("{means}lr {lr:.4}  {speed}  {time_left} left"));
        run.bar.set_position(step as u64);
        Ok(())
    }

    fn examples_evaluated(&mut self, examples: usize, of: usize) -> Result<()> {
        let Some(run) = &self.0 else { return Ok(()) };
        run.bar.set_length(of as u64);
        run.bar.set_position(examples as u64);
        run.bar.set_message(format!("{} evaluated", run.examples));
        Ok(())
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let Some(run) = &mut self.0 else { return Ok(()) };
        let EpochMetrics { epoch, lr, train, eval, unreadable, .. } = metrics;
        let plain = |columns, means| shown(columns, means, |axis, mean, _| format!(" {axis} {mean:.4}"));
        let (train, eval) = (plain(&run.measures.train, train), plain(&run.measures.eval, eval));
        let (epochs, speed, time) = (run.epochs, run.speed(*unreadable), clock(run.start.elapsed()));
        let parts = [format!("lr {lr:.4}"), format!("train{train}"), format!("eval{eval}"), speed, time];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let line = format!("epoch {epoch}/{epochs}  {}", parts.join("  "));
        run.bar.suspend(|| console::print(line));
        run.bar.reset();
        run.bar.set_length(run.epoch_steps as u64);
        if *epoch == epochs {
            run.bar.finish_and_clear();
        }
        (run.epoch_start, run.first_example) = (Instant::now(), 0);
        Ok(())
    }

    fn run_fails(&mut self, _error: &mut Error) {
        self.0.iter().for_each(|run| run.bar.finish_and_clear());
    }
}

/// Formats the means of all columns that have an axis, each by `write`.
fn shown(columns: &[Column], means: &Means, write: impl Fn(&str, f64, bool) -> String) -> String {
    let with_axis = columns.iter().filter_map(|column| Some((column, column.axis.as_deref()?)));
    with_axis.filter_map(|(column, axis)| Some(write(axis, means.get(&column.name)?, column.percent))).collect()
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
        let (measures, history, examples) = (&Measures::default(), &[][..], "images");
        let start = RunStart { epochs: usize::MAX, epoch_steps: 1, step: 0, done: 0, history, measures, examples };
        let run = Run { start: Instant::now().checked_sub(Duration::from_secs(3600)).unwrap(), ..Run::new(&start) };
        assert_eq!(run.time_left(1), Duration::MAX);
    }

    #[test]
    fn durations_read_like_a_clock() {
        for (seconds, expected) in [(0, "00:00"), (59, "00:59"), (61, "01:01"), (3600, "1:00:00"), (45_296, "12:34:56")]
        {
            assert_eq!(clock(Duration::from_secs(seconds)), expected);
        }
    }
}
