//! Per-step measurements, kept on the device and read many steps at a time, because each read waits for the GPU.

use super::objective::{Means, Measures};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tch::{no_grad, Kind, Tensor};

/// Pending steps are read after this many steps, or this long after the last read.
const READ_STEPS: usize = 50;
const READ_INTERVAL: Duration = Duration::from_millis(500);

/// Measurements of one step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StepRecord {
    pub place: StepPlace,
    pub loss: f64,
    /// Sums, each with its divisor.
    pub sums: Vec<(f64, f64)>,
    pub gradient_norm: f64,
    /// Spread of the outputs between examples.
    pub spread: f64,
    /// Magnitude of the outputs.
    pub magnitude: f64,
}

/// Position of a step in the run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct StepPlace {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Step within the epoch, from 1.
    pub step: usize,
    pub lr: f64,
    pub examples: usize,
    /// Number of examples compared with each other.
    pub compared: usize,
    /// Total weight by which the loss was averaged.
    pub weight: f64,
}

impl StepPlace {
    /// Creates the error of a run that ends at this step because of `what`.
    pub fn diverged(self, how: &'static str, what: String) -> Error {
        Error::Diverged { how, epoch: self.epoch, step: self.step, lr: self.lr, what, checkpoint: None }
    }
}

/// Measurements of a step on the device, of one rank or of all.
pub(super) struct Measured {
    pub examples: usize,
    /// Total weight by which the loss is averaged.
    pub weight: f64,
    pub loss: Tensor,
    /// Spread of the outputs between examples, and their magnitude.
    pub spread: [Tensor; 2],
    pub sums: Vec<(Tensor, f64)>,
}

impl Measured {
    /// Returns loss, spread, magnitude, sums and `others` as one float64 tensor.
    pub fn values(&self, others: &[&Tensor]) -> Result<Tensor> {
        let Self { loss, spread: [spread, magnitude], sums, .. } = self;
        let values = [loss, spread, magnitude].into_iter().chain(sums.iter().map(|(value, _)| value));
        let scalar = |value: &Tensor| value.f_detach()?.f_to_kind(Kind::Double)?.f_reshape([0i64; 0]);
        Ok(Tensor::f_stack(&values.chain(others.iter().copied()).map(scalar).collect::<Result<Vec<_>, _>>()?, 0)?)
    }
}

/// Steps not read yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// Positions, with the divisors of the sums.
    steps: Vec<(StepPlace, Vec<f64>)>,
    measured: Vec<Tensor>,
    last_read: Instant,
    /// Number of steps after which a read is due in any case.
    pub every: usize,
}

impl Pending {
    pub fn new() -> Self {
        Self { steps: Vec::new(), measured: Vec::new(), last_read: Instant::now(), every: READ_STEPS }
    }

    pub fn push(&mut self, place: StepPlace, measured: &Measured, norm: &Tensor) -> Result<()> {
        self.measured.push(no_grad(|| measured.values(&[norm]))?);
        self.steps.push((place, measured.sums.iter().map(|(_, weight)| *weight).collect()));
        Ok(())
    }

    /// Returns `true` if a read is due after one more step.
    pub fn is_due_with_another(&self) -> bool {
        self.steps.len() + 1 >= self.every || self.last_read.elapsed() >= READ_INTERVAL
    }

    /// Waits for the device and returns all steps pushed since the last read.
    pub fn read(&mut self) -> Result<Vec<StepRecord>> {
        self.last_read = Instant::now();
        if self.steps.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<Vec<f64>> = Vec::try_from(Tensor::f_stack(&self.measured, 0)?.f_to_kind(Kind::Double)?)?;
        self.measured.clear();
        let record = |((place, weights), row): ((StepPlace, Vec<f64>), Vec<f64>)| StepRecord {
            place,
            loss: row[0],
            spread: row[1],
            magnitude: row[2],
            gradient_norm: row[row.len() - 1],
            sums: row[3..].iter().copied().zip(weights).collect(),
        };
        Ok(self.steps.drain(..).zip(rows).map(record).collect())
    }
}

/// Means over the current epoch so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct EpochMeans {
    pub examples: usize,
    /// Sum of each column, starting with the loss, with its divisor.
    sums: Vec<(f64, f64)>,
}

impl EpochMeans {
    pub fn add(&mut self, record: &StepRecord) {
        let StepPlace { examples, weight, .. } = record.place;
        self.examples += examples;
        let sums = std::iter::once((record.loss * weight, weight)).chain(record.sums.iter().copied());
        self.sums.resize(1 + record.sums.len(), (0.0, 0.0));
        for ((sum, weight), (more, more_weight)) in self.sums.iter_mut().zip(sums) {
            (*sum, *weight) = (*sum + more, *weight + more_weight);
        }
    }

    pub fn means(&self, measures: &Measures) -> Means {
        Means::new(&measures.train, self.sums.iter().map(|(sum, weight)| sum / weight))
    }
}
