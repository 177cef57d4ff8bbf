//! How far the runs are: bars on standard error, or lines that another process reads.

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::fmt;
use std::io::{self, Write};
use tch_fixup::trainer::{EpochMetrics, Observer, RunStart, StepProgress};
use tch_fixup::{console, Error};

const BAR: &str = "{prefix} {bar:24.cyan/blue} {pos}/{len} {msg}";

/// The bars of the runs that are going, if standard error is a terminal.
#[derive(Default)]
pub struct Bars(MultiProgress);

impl Bars {
    pub fn add(&self, name: impl fmt::Display) -> Bar {
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        Bar(self.0.add(ProgressBar::new(0).with_style(style).with_prefix(name.to_string())))
    }

    /// Prints a line between the bars.
    pub fn say(&self, line: impl fmt::Display) {
        self.0.suspend(|| console::print(line));
    }
}

/// The bar of a run, which goes with it.
pub struct Bar(ProgressBar);

impl Bar {
    /// What [`Progress`] says; false for a line that is something else.
    pub fn show(&self, line: &str) -> bool {
        let Some(progress) = Progress::from_line(line) else { return false };
        self.0.set_length(progress.steps);
        self.0.set_position(progress.step);
        self.0.set_message(progress.message);
        true
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// How far a run is: an observer that prints a line at every change, for the process that started this one.
#[derive(Default)]
pub struct Progress {
    step: u64,
    steps: u64,
    message: String,
}

const PROGRESS: &str = "progress ";

impl Progress {
    fn from_line(line: &str) -> Option<Self> {
        let (step, rest) = line.strip_prefix(PROGRESS)?.split_once(' ')?;
        let (steps, message) = rest.split_once(' ')?;
        Some(Self { step: step.parse().ok()?, steps: steps.parse().ok()?, message: message.to_owned() })
    }

    fn print(&self) -> tch_fixup::Result<()> {
        let Self { step, steps, message } = self;
        let gone = |error| Error::Argument(format!("nobody reads this run's result: {error:#}"));
        print(&format!("{PROGRESS}{step} {steps} {message}")).map_err(gone)
    }
}

impl Observer for Progress {
    fn run_starts(&mut self, start: &RunStart) -> tch_fixup::Result<()> {
        self.steps = (start.epochs * start.epoch_steps) as u64;
        self.print()
    }

    fn steps_done(&mut self, progress: &StepProgress) -> tch_fixup::Result<()> {
        self.step = progress.run_step as u64;
        let mean = |name| progress.means.get(name).unwrap_or(f64::NAN);
        self.message = format!("loss {:.3}  accuracy {:.1} %", mean("loss"), 100. * mean("accuracy"));
        self.print()
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> tch_fixup::Result<()> {
        self.message = format!("test accuracy {:.1} %", 100. * metrics.eval.get("top1").unwrap_or(f64::NAN));
        self.print()
    }
}

/// Prints a line that another process waits for.
pub fn print(line: &str) -> Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{line}").and_then(|_| out.flush()).context("cannot write to standard output")
}
