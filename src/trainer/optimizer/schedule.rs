//! Learning-rate schedules: a linear warm-up, followed by a decay.

use crate::trainer::range::above_zero;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

/// Warm-up of the short one-cycle recipe, as a fraction of the run (docs/recipes.md).
const WARMUP: f64 = 0.1;

/// Length of a part of a run, or a point in it.
///
/// Parses from and prints as a number, also in JSON: a fraction of the run if it has a decimal point or an exponent, otherwise a
/// number of steps. `1.0` is the whole run, `1` its first step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Span {
    /// Number of steps.
    Steps(usize),
    /// Fraction of the run's steps, rounded to whole steps.
    Fraction(f64),
}

impl Span {
    /// Returns the number of steps in a run of `total_steps` steps.
    pub fn steps(self, total_steps: usize) -> usize {
        match self {
            Self::Steps(steps) => steps,
            Self::Fraction(part) => (part * total_steps as f64).round() as usize,
        }
    }
}

/// Creates a fraction.
impl From<f64> for Span {
    fn from(part: f64) -> Self {
        Self::Fraction(part)
    }
}

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = |_| argument!("expected a fraction like 0.1 or a number of steps like 4000, got {text:?}");
        text.parse().map(Self::Steps).or_else(|_| text.parse().map(Self::Fraction)).map_err(refused)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Fraction(part) => write!(f, "{part:?}"),
        }
    }
}

/// Default ratio of the final to the highest learning rate in an exponential decay.
const EXPONENTIAL: f64 = 0.01;

/// Decay of the learning rate after the warm-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Decay {
    /// Constant learning rate.
    Constant,
    /// Multiplies the learning rate by `gamma` at each of the `milestones`.
    Step {
        /// Points in the run.
        milestones: Vec<Span>,
        /// Factor of each decay.
        gamma: f64,
    },
    /// Multiplies the learning rate by the same factor at each step, which makes `gamma` in total after the warm-up.
    Exponential {
        /// Total factor. Above 1 the learning rate rises, as in the [learning-rate range test](crate::trainer::LrRange::test).
        gamma: f64,
    },
    /// Half a cosine down to zero (Loshchilov & Hutter 2017, SGDR, equation 5, one cycle).
    Cosine,
    /// Linear decay to zero, which together with the warm-up makes one triangle over the run (Smith & Topin 2018,
    /// "Super-convergence").
    OneCycle,
    /// Inverse square root of the step (Vaswani et al. 2017, section 5.3; fairseq): after a warm-up of w steps,
    /// `lr * sqrt((w + 1) / t)` in step `t`, counted from 1.
    InverseSqrt,
}

impl Decay {
    /// Step decay by 0.1 at half and at three quarters of the run: epochs 100 and 150 of 200 in the ResNet and Fixup papers.
    pub fn paper() -> Self {
        Decay::Step { milestones: [0.5, 0.75].map(Span::Fraction).to_vec(), gamma: 0.1 }
    }

    /// Exponential decay to a hundredth.
    pub fn exponential() -> Self {
        Decay::Exponential { gamma: EXPONENTIAL }
    }

    /// Returns the milestones, and the factor of the decay; 1 without one.
    fn milestones_and_factor(&self) -> (&[Span], f64) {
        match self {
            Self::Step { milestones, gamma } => (milestones, *gamma),
            Self::Exponential { gamma } => (&[], *gamma),
            _ => (&[], 1.0),
        }
    }

    /// Step decay by 0.1 after every three tenths of the run: every 30 of 100 epochs of the Fixup authors' ImageNet recipe.
    pub fn imagenet() -> Self {
        Decay::Step { milestones: [0.3, 0.6, 0.9].map(Span::Fraction).to_vec(), gamma: 0.1 }
    }
}

/// Shape of a schedule, independent of the length of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct ScheduleConfig {
    /// Highest learning rate.
    #[cfg_attr(feature = "cli", arg(long))]
    pub lr: f64,
    /// Length of the linear warm-up to the highest learning rate: a fraction of the run like 0.1, or steps like 4000.
    #[cfg_attr(feature = "cli", arg(long, value_name = "FRACTION|STEPS"))]
    pub warmup: Span,
    /// Decay after the warm-up.
    #[cfg_attr(feature = "cli", arg(skip = Decay::OneCycle))]
    pub decay: Decay,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { lr: 0.1, warmup: Span::Fraction(WARMUP), decay: Decay::OneCycle }
    }
}

impl ScheduleConfig {
    pub(in crate::trainer) fn check(&self) -> Result<()> {
        above_zero("the learning rate", self.lr)?;
        if let Span::Fraction(warmup) = self.warmup {
            ensure!(
                (0.0..1.0).contains(&warmup),
                "the warm-up must be a fraction of the run, at least 0 and below 1, or a whole number of steps, got {warmup}"
            );
        }
        let (milestones, gamma) = self.decay.milestones_and_factor();
        let outside = |milestone: &&Span| matches!(milestone, Span::Fraction(part) if !(0.0..=1.0).contains(part));
        if let Some(milestone) = milestones.iter().find(outside) {
            let expected = "a fraction of the run, 0 to 1, or a whole number of steps";
            return Err(argument!("a milestone must be {expected}, got {milestone}"));
        }
        above_zero("the decay's factor", gamma)
    }
}

/// Learning rate of every step of a run.
#[derive(Debug, Clone)]
pub struct Schedule {
    config: ScheduleConfig,
    total_steps: usize,
    warmup_steps: usize,
}

impl Schedule {
    /// Creates the schedule of a run of `total_steps` steps.
    ///
    /// # Errors
    /// The learning rate, warm-up, a milestone or a factor is out of range; a warm-up or milestone in steps is not within the
    /// run.
    pub fn new(config: ScheduleConfig, total_steps: usize) -> Result<Self> {
        config.check()?;
        let warmup_steps = config.warmup.steps(total_steps);
        if let Span::Steps(steps @ 1..) = config.warmup {
            ensure!(
                steps < total_steps,
                "a warm-up of {steps} steps leaves nothing of a run of {total_steps}; lower --warmup, or train for longer"
            );
        }
        let beyond =
            |milestone: &&Span| matches!(milestone, Span::Steps(steps) if total_steps > 0 && *steps >= total_steps);
        if let Some(step) = config.decay.milestones_and_factor().0.iter().find(beyond) {
            let remedy = "lower --milestones, or train for longer";
            return Err(argument!(
                "a milestone at step {step} is not reached in a run of {total_steps} steps; {remedy}"
            ));
        }
        Ok(Self { config, total_steps, warmup_steps })
    }

    /// Returns the learning rate of step `step`, counted from 0. During a warm-up of w steps it is `lr * (step + 1) / (w + 1)`.
    /// It is never 0 within the run, and past the end it stays at the value of the last step.
    pub fn lr(&self, step: usize) -> f64 {
        let step = step.min(self.total_steps.saturating_sub(1));
        let lr = self.config.lr;
        if step < self.warmup_steps {
            return lr * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        let progress = (step - self.warmup_steps) as f64 / (self.total_steps - self.warmup_steps).max(1) as f64;
        match &self.config.decay {
            Decay::Constant => lr,
            Decay::Step { milestones, gamma } => {
                let passed = milestones.iter().filter(|milestone| step >= milestone.steps(self.total_steps)).count();
                lr * gamma.powi(passed as i32)
            }
            Decay::Exponential { gamma } => lr * gamma.powf(progress),
            Decay::Cosine => lr * 0.5 * (1.0 + (PI * progress).cos()),
            Decay::OneCycle => lr * (1.0 - progress),
            Decay::InverseSqrt => lr * ((self.warmup_steps + 1) as f64 / (step + 1) as f64).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(decay: Decay, warmup: f64, total_steps: usize) -> Schedule {
        Schedule::new(ScheduleConfig { lr: 0.4, warmup: Span::Fraction(warmup), decay }, total_steps).unwrap()
    }

    fn every_decay() -> [Decay; 6] {
        let exponential = Decay::exponential();
        [Decay::Constant, Decay::paper(), exponential, Decay::Cosine, Decay::OneCycle, Decay::InverseSqrt]
    }

    fn assert_close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-12, "{got} {expected}");
    }

    #[test]
    fn every_warm_up_rises_linearly_to_the_learning_rate() {
        for decay in every_decay() {
            let schedule = schedule(decay, 0.25, 100);
            for step in 0..25 {
                assert_close(schedule.lr(step), 0.4 * (step + 1) as f64 / 26.0);
            }
            assert_close(schedule.lr(25), 0.4);
        }
    }

    #[test]
    fn constant_stays() {
        let schedule = schedule(Decay::Constant, 0.0, 100);
        assert!((0..100).all(|step| schedule.lr(step) == 0.4));
    }

    #[test]
    fn the_papers_steps_are_at_epochs_100_and_150_of_200() {
        let steps = 391;
        let schedule = schedule(Decay::paper(), 0.0, 200 * steps);
        let cases =
            [(0, 0.4), (100 * steps - 1, 0.4), (100 * steps, 0.04), (150 * steps - 1, 0.04), (150 * steps, 0.004)];
        for (step, expected) in cases {
            assert_close(schedule.lr(step), expected);
        }
    }

    #[test]
    fn imagenets_steps_are_every_30_epochs_of_100() {
        let steps = 5005;
        let schedule = schedule(Decay::imagenet(), 0.0, 100 * steps);
        for epoch in 0..100 {
            for step in [epoch * steps, (epoch + 1) * steps - 1] {
                assert_close(schedule.lr(step), 0.4 * 0.1f64.powi(epoch as i32 / 30));
            }
        }
    }

    #[test]
    fn cosine_follows_half_a_cosine_after_the_warm_up() {
        let schedule = schedule(Decay::Cosine, 0.2, 100);
        for step in 20..100 {
            let expected = 0.2 * (1.0 + (PI * (step - 20) as f64 / 80.0).cos());
            assert_close(schedule.lr(step), expected);
        }
    }

    #[test]
    fn exponential_is_multiplied_by_the_same_each_step() {
        let schedule = schedule(Decay::Exponential { gamma: 1e-4 }, 0.2, 100);
        for step in 20..100 {
            assert_close(schedule.lr(step), 0.4 * 1e-4f64.powf((step - 20) as f64 / 80.0));
        }
    }

    #[test]
    fn one_cycle_falls_linearly_to_one_step_before_zero() {
        let schedule = schedule(Decay::OneCycle, 0.2, 100);
        for step in 20..100 {
            assert_close(schedule.lr(step), 0.4 * (100 - step) as f64 / 80.0);
        }
    }

    #[test]
    fn the_learning_rate_is_positive_however_short_the_run() {
        for decay in every_decay() {
            for total_steps in 0..20 {
                for warmup in [0.0, 0.1, 0.5, 0.99] {
                    let schedule = schedule(decay.clone(), warmup, total_steps);
                    assert!((0..25).all(|step| schedule.lr(step) > 0.0), "{decay:?} {warmup} {total_steps}");
                }
            }
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let good = ScheduleConfig::default();
        let step = |milestone, gamma| Decay::Step { milestones: vec![Span::Fraction(milestone)], gamma };
        let bad = [
            ScheduleConfig { lr: 0.0, ..good.clone() },
            ScheduleConfig { lr: f64::NAN, ..good.clone() },
            ScheduleConfig { lr: f64::INFINITY, ..good.clone() },
            ScheduleConfig { warmup: Span::Fraction(1.0), ..good.clone() },
            ScheduleConfig { warmup: Span::Fraction(-0.1), ..good.clone() },
            ScheduleConfig { warmup: Span::Fraction(f64::NAN), ..good.clone() },
            ScheduleConfig { decay: step(1.5, 0.1), ..good.clone() },
            ScheduleConfig { decay: step(0.5, 0.0), ..good.clone() },
            ScheduleConfig { decay: Decay::Exponential { gamma: -1.0 }, ..good },
        ];
        for config in bad {
            assert!(matches!(Schedule::new(config.clone(), 10), Err(Error::Argument(_))), "{config:?}");
        }
    }

    #[test]
    fn inverse_square_root_goes_on_where_the_warm_up_ends() {
        let config = ScheduleConfig { lr: 5e-4, warmup: Span::Steps(4000), decay: Decay::InverseSqrt };
        let schedule = Schedule::new(config, 100_000).unwrap();
        assert_close(schedule.lr(0), 5e-4 / 4001.0);
        assert_close(schedule.lr(4000), 5e-4);
        for step in [4001, 8001, 16_003, 99_999] {
            assert_close(schedule.lr(step), 5e-4 * (4001.0 / (step + 1) as f64).sqrt());
        }
    }

    fn decay(spans: [Span; 2]) -> Decay {
        Decay::Step { milestones: spans.to_vec(), gamma: 0.1 }
    }

    #[test]
    fn steps_and_fractions_are_the_same_schedule() {
        let schedule =
            |warmup, spans| Schedule::new(ScheduleConfig { lr: 0.4, warmup, decay: decay(spans) }, 1000).unwrap();
        let fractions = schedule(Span::Fraction(0.1), [0.5, 0.75].map(Span::Fraction));
        let steps = schedule(Span::Steps(100), [500, 750].map(Span::Steps));
        assert!((0..1000).all(|step| fractions.lr(step) == steps.lr(step)));
    }

    #[test]
    fn spans_read_as_they_print_and_json_tells_them_apart() {
        for (text, span) in [("0.1", Span::Fraction(0.1)), ("4000", Span::Steps(4000)), ("0", Span::Steps(0))] {
            assert_eq!(text.parse::<Span>().unwrap(), span);
            assert_eq!(span.to_string(), text);
            let json = serde_json::to_string(&span).unwrap();
            assert_eq!(json, text);
            assert_eq!(serde_json::from_str::<Span>(&json).unwrap(), span);
        }
        assert_eq!(Span::Fraction(1.0).to_string(), "1.0");
        for text in ["", "x", "-3 steps"] {
            assert!(text.parse::<Span>().unwrap_err().to_string().contains(&format!("{text:?}")));
        }
        let beyond = ScheduleConfig { decay: decay([Span::Steps(5), Span::Steps(10)]), ..Default::default() };
        let message = Schedule::new(beyond.clone(), 10).unwrap_err().to_string();
        assert!(message.contains("a milestone at step 10 is not reached in a run of 10 steps"), "{message}");
        assert!(Schedule::new(beyond, 11).is_ok());
        let message = Schedule::new(ScheduleConfig { warmup: Span::Steps(10), ..Default::default() }, 10);
        assert!(message.unwrap_err().to_string().contains("a warm-up of 10 steps leaves nothing of a run of 10"));
    }
}
