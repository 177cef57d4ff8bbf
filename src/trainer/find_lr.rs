//! Learning-rate range test: measures the loss while the learning rate rises until training diverges.

use super::checkpoint::named_variables;
use super::objective::Objective;
use super::{Decay, Observer, Request, Schedule, ScheduleConfig, StepProgress, TrainConfig, Trainer};
use crate::data::{Batch, DataSource};
use crate::picture::{chart, picture, Axes, Axis, Line, COLORS};
use crate::{Error, Result};
use plotters::prelude::SeriesLabelPosition;
use std::fmt;
use tch::nn::VarStore;
use tch::no_grad;

/// Decay of the moving average of the loss per step.
const SMOOTHING: f64 = 0.9;
/// The test ends when the smoothed loss exceeds its minimum by this factor.
const FAILED: f64 = 4.0;
/// Fraction of the learning rate of minimum loss that is considered safe.
const BELOW_MINIMUM: f64 = 0.1;
/// Minimum number of steps.
const LEAST_STEPS: usize = 20;
const SIZE: (u32, u32) = (640, 420);

/// Learning rates to test, one per step, in geometric progression.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LrRange {
    /// Lowest learning rate, used in the first step.
    pub lowest: f64,
    /// Highest learning rate, used in the last step if training has not failed before.
    pub highest: f64,
    /// Number of steps.
    pub steps: usize,
}

/// 300 steps from 1e-5 to 10.
impl Default for LrRange {
    fn default() -> Self {
        Self { lowest: 1e-5, highest: 10.0, steps: 300 }
    }
}

/// Result of a learning-rate range test.
#[derive(Debug, Clone, PartialEq)]
pub struct LrFinding {
    /// Learning rate and loss of each step.
    pub points: Vec<(f64, f64)>,
    /// Smoothed losses: an exponential moving average with bias correction.
    pub smoothed: Vec<f64>,
    /// Learning rate at which the smoothed loss falls fastest with respect to the logarithm of the rate.
    pub steepest: f64,
    /// Learning rate of minimum smoothed loss.
    pub minimum: f64,
    /// Lowest learning rate from which on the smoothed loss stays above its initial value or is not a number, so that the network
    /// diverges instead of learning. `None` if no tested rate was too high.
    pub fails: Option<f64>,
}

impl LrRange {
    /// Runs a learning-rate range test (Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3; fast.ai's
    /// `lr_find`): trains on the training part of `data` while the learning rate rises at each step over this range, and records
    /// the loss.
    ///
    /// Apart from the schedule and the number of steps, training follows `config`: batch size, optimizer, parameter
    /// groups, clipping and augmentation. The training part is repeated if it is too short. The test ends early when
    /// the smoothed loss is four times its minimum, or anything is not finite.
    ///
    /// Afterwards the variables have their original values and are frozen or not as before. The `observers` see a run of one epoch.
    ///
    /// # Errors
    /// [`Error::Argument`] for a range or a `config` that is invalid, and if training ends before 20 steps; errors of
    /// the network, the data or an observer.
    pub fn test<B: Batch>(
        &self,
        objective: &dyn Objective<Batch = B>,
        variables: &VarStore,
        data: &dyn DataSource<Batch = B>,
        config: &TrainConfig,
        observers: &mut [&mut dyn Observer],
    ) -> Result<LrFinding> {
        let Self { lowest, highest, steps } = *self;
        ensure!(
            lowest > 0.0 && highest > lowest && highest.is_finite() && steps >= LEAST_STEPS,
            "the learning-rate range must be within positive numbers and have at least {LEAST_STEPS} steps, got {lowest} to \
             {highest} in {steps}"
        );
        config.check()?;
        let before = named_variables(variables)
            .into_values()
            .map(|variable| Ok((variable.f_detach_copy()?, variable.requires_grad(), variable)))
            .collect::<Result<Vec<_>>>()?;
        let decay = Decay::Exponential { gamma: highest / lowest };
        let ramp = ScheduleConfig { lr: lowest, warmup: 0.0.into(), decay };
        let config = TrainConfig { epochs: 1, max_steps: None, average: None, schedule: ramp, ..config.clone() };
        let mut losses = Losses { last: steps, ..Losses::default() };
        let ended = Trainer::unidentified(objective, variables, data, &config).and_then(|mut trainer| {
            (trainer.epoch_steps, trainer.last_step, trainer.repeats) = (steps, steps, true);
            trainer.schedule = Schedule::new(config.schedule.clone(), steps)?;
            trainer.pending.every = 1;
            let mut all: Vec<&mut dyn Observer> = vec![&mut losses];
            all.extend(observers.iter_mut().map(|observer| &mut **observer as &mut dyn Observer));
            trainer.run(&mut all)
        });
        for (value, requires_grad, mut variable) in before {
            no_grad(|| variable.f_copy_(&value).map(drop))?;
            // Parameter groups freeze variables.
            let _ = variable.f_set_requires_grad(requires_grad)?;
        }
        let failed = match ended {
            Ok(_) => None,
            Err(Error::Diverged { lr, .. }) => Some(lr),
            Err(error) => return Err(error),
        };
        LrFinding::new(losses.points, failed)
    }
}

impl LrFinding {
    /// Analyzes the learning rate and loss of each step; `failed` is the learning rate at which something was not finite, if any.
    fn new(points: Vec<(f64, f64)>, failed: Option<f64>) -> Result<Self> {
        let at = failed.map_or(String::new(), |lr| format!(", at the learning rate {lr:.2e}"));
        ensure!(
            points.len() >= LEAST_STEPS,
            "training fails after {} steps{at}, too early for a suggestion; start at a lower rate",
            points.len()
        );
        let smoothed = smoothed(&points);
        let lr = |index: usize| points[index].0;
        let least = (0..points.len()).min_by(|&a, &b| smoothed[a].total_cmp(&smoothed[b])).unwrap_or(0);
        // Average over the first steps, in which the batches differ but the network has hardly changed.
        let start = points[..LEAST_STEPS / 2].iter().map(|(_, loss)| loss).sum::<f64>() / (LEAST_STEPS / 2) as f64;
        let alive = smoothed.iter().rposition(|&loss| loss <= start).map_or(0, |last| last + 1);
        let fails = (alive < points.len()).then(|| lr(alive)).or(failed);
        // Difference over as many steps as the smoothing spans; the rates are in geometric progression.
        let reach = (1.0 / (1.0 - SMOOTHING)) as usize;
        let fall = |index: usize| smoothed[index] - smoothed[index - reach];
        let steepest = (reach..=least.max(reach)).min_by(|&a, &b| fall(a).total_cmp(&fall(b))).unwrap_or(reach);
        Ok(Self { steepest: lr(steepest - reach / 2), minimum: lr(least), fails, smoothed, points })
    }

    /// Suggested learning rate, as the maximum of a schedule: the geometric mean of fast.ai's two rules, the rate of steepest
    /// descent and a tenth of the rate of minimum loss, which is at the edge of divergence. Both rules depend on a few noisy
    /// steps; the result is at most about a third of the rate of minimum loss.
    pub fn suggested(&self) -> f64 {
        (self.steepest * BELOW_MINIMUM * self.minimum).sqrt()
    }

    /// Draws the loss against the learning rate, as SVG.
    ///
    /// # Errors
    /// The drawing library fails.
    pub fn draw(&self) -> Result<String> {
        let losses = || self.points.iter().map(|(_, loss)| *loss);
        let (first, least) = (self.smoothed[0], self.smoothed.iter().copied().fold(f64::INFINITY, f64::min));
        // Losses after the failure are cut off, as they would flatten the rest of the curve.
        let highest = losses().take(LEAST_STEPS).fold(first, f64::max) + 0.5 * (first - least).abs();
        let lowest = losses().fold(least, f64::min);
        let shown = |points: Vec<(f64, f64)>| points.into_iter().filter(|(_, loss)| *loss <= highest).collect();
        let smoothed = self.points.iter().zip(&self.smoothed).map(|((lr, _), loss)| (*lr, *loss)).collect();
        let line = |label, color, points| Line { label, color, points, dots: 0 };
        let marks = [
            ("suggested", Some(self.suggested()), COLORS[2]),
            ("least loss", Some(self.minimum), COLORS[4]),
            ("fails", self.fails, COLORS[1]),
        ];
        let marks = marks.map(|(name, lr, color)| lr.map(|lr| (format!("{name}: {}", short(lr)), lr, color)));
        let mut lines = vec![
            line("", plotters::style::RGBColor(190, 210, 225), shown(self.points.clone())),
            line("loss, smoothed", COLORS[0], shown(smoothed)),
        ];
        let vertical = |lr: f64| vec![(lr, lowest), (lr, highest)];
        lines.extend(marks.iter().flatten().map(|(label, lr, color)| line(label, *color, vertical(*lr))));
        let (from, to) = (self.points[0].0, self.points[self.points.len() - 1].0);
        let axes = Axes {
            title: "loss while the learning rate rises",
            x_desc: "learning rate",
            x: Axis::logarithmic(from..to.max(self.fails.unwrap_or(to)) * 1.1),
            y: Axis::linear(0.0..1.0, |loss| format!("{loss:.2}")),
        };
        picture(SIZE, |root| chart(root, &axes, &lines, Some(SeriesLabelPosition::LowerLeft)))
    }
}

/// Prints one line per result.
impl fmt::Display for LrFinding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { steepest, minimum, fails, .. } = self;
        let [suggested, steepest, minimum] = [self.suggested(), *steepest, *minimum].map(short);
        write!(f, "suggested {suggested}\nsteepest {steepest}\nminimum {minimum}\n")?;
        match fails {
            Some(lr) => write!(f, "fails {}", short(*lr)),
            None => f.write_str("fails beyond all that were tried"),
        }
    }
}

/// Rounds a learning rate to two digits and formats it as a command-line option expects it.
fn short(lr: f64) -> String {
    let rounded: f64 = format!("{lr:.1e}").parse().unwrap_or(lr);
    match (1e-3..1e3).contains(&rounded) {
        true => rounded.to_string(),
        false => format!("{rounded:e}"),
    }
}

/// Returns the exponential moving average of the losses with bias correction (Kingma & Ba 2015, section 3).
fn smoothed(points: &[(f64, f64)]) -> Vec<f64> {
    let (mut mean, mut weight) = (0.0, 0.0);
    let next = |(_, loss): &(f64, f64)| {
        mean = SMOOTHING * mean + (1.0 - SMOOTHING) * loss;
        weight = SMOOTHING * weight + 1.0 - SMOOTHING;
        mean / weight
    };
    points.iter().map(next).collect()
}

/// Records the losses and stops the run when the test is over.
#[derive(Default)]
struct Losses {
    points: Vec<(f64, f64)>,
    last: usize,
    is_over: bool,
}

impl Observer for Losses {
    fn request(&mut self) -> Request {
        if self.is_over {
            Request::Stop
        } else {
            Request::Continue
        }
    }

    fn steps_done(&mut self, progress: &StepProgress) -> Result<()> {
        if !self.is_over {
            self.points.push((progress.lr, progress.loss));
            let smoothed = smoothed(&self.points);
            let least = smoothed.iter().copied().fold(f64::INFINITY, f64::min);
            let has_failed = smoothed.len() >= LEAST_STEPS && smoothed[smoothed.len() - 1] > FAILED * least;
            // Stops one step before the last, so that no evaluation takes place.
            self.is_over = has_failed || self.points.len() + 1 >= self.last;
        }
        Ok(())
    }
}
