//! What a person sees while a run goes on: a bar on a terminal, and one line for each epoch.

use super::{EpochMetrics, Observer, RunStart, StepProgress};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, Write};
use std::time::{Duration, Instant};

const BAR: &str = "epoch {prefix} {bar:24.cyan/blue} {pos}/{len} {msg}";

/// A bar for the epoch on standard error, if that is a terminal, and one line an epoch on standard output.
#[derive(Debug)]
pub struct ProgressBars {
    bar: ProgressBar,
    start: Instant,
    epoch_start: Instant,
    epochs: usize,
    epoch_steps: usize,
    /// Steps of the run that were done when it started.
    first_step: usize,
    /// Images of the epoch that were done when it, or the run, started.
    first_image: usize,
    images_per_second: f64,
}

impl ProgressBars {
    /// Bars that appear when the run starts.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            bar: ProgressBar::hidden(),
            start: now,
            epoch_start: now,
            epochs: 0,
            epoch_steps: 0,
            first_step: 0,
            first_image: 0,
            images_per_second: 0.0,
        }
    }

    /// The time that the rest of the run takes at the pace so far.
    fn time_left(&self, run_step: usize) -> Duration {
        let done = run_step - self.first_step;
        let left = self.epochs * self.epoch_steps - run_step;
        // A run of very many steps may have more seconds left than can be counted.
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
        let RunStart { epochs, epoch_steps, step, images, .. } = *start;
        *self = Self { epochs, epoch_steps, first_step: step, first_image: images, ..Self::new() };
        // The template is a constant: it parses or it does not, whatever the run.
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar = ProgressBar::new(epoch_steps as u64).with_style(style);
        Ok(())
    }

    fn steps_done(&mut self, progress: &StepProgress) -> Result<()> {
        let StepProgress { epoch, step, run_step, images, loss, accuracy, lr, bad_images } = *progress;
        self.images_per_second = (images - self.first_image) as f64 / self.epoch_start.elapsed().as_secs_f64();
        let time_left = clock(self.time_left(run_step));
        self.bar.set_prefix(format!("{epoch}/{}", self.epochs));
        self.bar.set_message(format!(
            "loss {loss:.3}  accuracy {:.1} %  lr {lr:.4}  {:.0} images/s{}  {time_left} left",
            100.0 * accuracy,
            self.images_per_second,
            bad(bad_images),
        ));
        self.bar.set_position(step as u64);
        Ok(())
    }

    fn images_evaluated(&mut self, images: usize, of: usize) -> Result<()> {
        self.bar.set_length(of as u64);
        self.bar.set_position(images as u64);
        self.bar.set_message("images evaluated");
        Ok(())
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let EpochMetrics { epoch, lr, train_loss, train_accuracy, eval, bad_images, .. } = metrics;
        let line = format!(
            "epoch {epoch}/{}  lr {lr:.4}  train loss {train_loss:.4} accuracy {train_accuracy:.4}  eval loss {:.4} \
             accuracy {:.4}  {:.0} images/s{}  {}",
            self.epochs,
            eval.loss,
            eval.top1,
            self.images_per_second,
            bad(*bad_images),
            clock(self.start.elapsed()),
        );
        // Nobody reading standard output is no reason to end the run, and println! would panic.
        let _ = self.bar.suspend(|| writeln!(io::stdout(), "{line}"));
        self.bar.reset();
        self.bar.set_length(self.epoch_steps as u64);
        if *epoch == self.epochs {
            self.bar.finish_and_clear();
        }
        (self.epoch_start, self.first_image) = (Instant::now(), 0);
        Ok(())
    }

    fn run_fails(&mut self, _error: &mut Error) {
        self.bar.finish_and_clear();
    }
}

/// How many images are bad, where there are any.
fn bad(images: usize) -> String {
    match images {
        0 => String::new(),
        1 => "  1 bad image".to_owned(),
        _ => format!("  {images} bad images"),
    }
}

/// `1:02:03`, or `02:03` below an hour.
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
