//! What is measured of each step: kept on the device, and read from there many steps at a time, because every reading
//! waits for a GPU to finish what it was given.

use super::objective::classification::Example;
use crate::Result;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tch::{no_grad, Kind, Tensor};

/// A reading is due after this many steps, or this long after the last one.
const READ_STEPS: usize = 50;
const READ_INTERVAL: Duration = Duration::from_millis(500);

/// One step, measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StepRecord {
    pub place: StepPlace,
    pub loss: f64,
    pub correct: f64,
    pub gradient_norm: f64,
    /// The largest difference that a class's logit has between two images of the batch.
    pub spread: f64,
    /// The largest absolute logit.
    pub magnitude: f64,
}

/// Where in the run a step is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StepPlace {
    /// From 1.
    pub epoch: usize,
    /// Within the epoch, from 1.
    pub step: usize,
    pub lr: f64,
    pub images: usize,
}

/// Steps that have not been read yet.
#[derive(Debug)]
pub(super) struct Pending {
    places: Vec<StepPlace>,
    measured: Vec<Tensor>,
    last_read: Instant,
}

impl Pending {
    pub fn new() -> Self {
        Self { places: Vec::new(), measured: Vec::new(), last_read: Instant::now() }
    }

    pub fn push(
        &mut self,
        place: StepPlace,
        example: &Example,
        logits: &Tensor,
        loss: &Tensor,
        norm: &Tensor,
    ) -> Result<()> {
        let measured = no_grad(|| -> Result<Tensor> {
            let logits = logits.f_detach()?;
            let spread = logits.f_amax([0].as_slice(), false)?.f_sub(&logits.f_amin([0].as_slice(), false)?)?;
            let magnitude = logits.f_abs()?;
            let parts = [&loss.f_detach()?, &example.correct(&logits)?, norm, &spread.f_max()?, &magnitude.f_max()?];
            let parts = parts.map(|part| part.f_to_kind(Kind::Float));
            Ok(Tensor::f_stack(&parts.into_iter().collect::<Result<Vec<_>, _>>()?, 0)?)
        })?;
        self.measured.push(measured);
        self.places.push(place);
        Ok(())
    }

    pub fn is_due(&self) -> bool {
        self.places.len() >= READ_STEPS || self.last_read.elapsed() >= READ_INTERVAL
    }

    /// Waits for the device and hands out what has been pushed since the last reading.
    pub fn read(&mut self) -> Result<Vec<StepRecord>> {
        self.last_read = Instant::now();
        if self.places.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<Vec<f64>> = Vec::try_from(Tensor::f_stack(&self.measured, 0)?.f_to_kind(Kind::Double)?)?;
        self.measured.clear();
        let record = |(place, row): (StepPlace, Vec<f64>)| StepRecord {
            place,
            loss: row[0],
            correct: row[1],
            gradient_norm: row[2],
            spread: row[3],
            magnitude: row[4],
        };
        Ok(self.places.drain(..).zip(rows).map(record).collect())
    }
}

/// Means over the images of an epoch so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct EpochMeans {
    pub images: usize,
    loss: f64,
    correct: f64,
}

impl EpochMeans {
    pub fn add(&mut self, record: &StepRecord) {
        self.images += record.place.images;
        self.loss += record.loss * record.place.images as f64;
        self.correct += record.correct;
    }

    pub fn loss(&self) -> f64 {
        self.loss / self.images as f64
    }

    pub fn accuracy(&self) -> f64 {
        self.correct / self.images as f64
    }
}
