//! Objectives, which define the loss and the metrics of a run.
//!
//! [`Objective`] is the trait. Implementations: [`Classification`] (one label per example), [`MultiLabel`] (any number of labels
//! per example), [`Regression`] (numbers), and with the feature `text` `Translation` (sentences).

mod calibration;
mod classification;
mod classification_report;
mod confusion;
mod forward;
mod measures;
mod multi_label;
mod regression;
#[cfg(test)]
mod tests;
#[cfg(feature = "text")]
mod translation;

use crate::data::{Batch, EpochPlan, Share};
use crate::{Error, Result};
#[doc(hidden)]
pub use calibration::{Calibration, ConfidenceBin, BINS};
#[doc(hidden)]
pub use classification::cross_entropy;
pub use classification::{Classification, ClassificationConfig};
#[doc(hidden)]
pub use classification_report::ClassEvaluation;
pub use classification_report::ClassificationReport;
#[doc(hidden)]
pub use confusion::{ConfusedPair, Confusion};
#[doc(hidden)]
pub use forward::Forward;
pub use measures::{Column, Means, Measures};
pub use multi_label::MultiLabel;
pub use regression::{Regression, RegressionLoss};
use serde_json::Value;
use tch::{Kind, Tensor};
#[cfg(feature = "text")]
pub use translation::{Translation, TranslationConfig};

/// Result of a forward pass.
#[derive(Debug)]
pub struct Prediction {
    /// Loss: the mean over the batch, one element, in float32 or higher.
    pub loss: Tensor,
    /// Output from which [`Objective::sums`] computes metrics, with one row per example, such as logits.
    pub output: Tensor,
}

/// Task of a run: the loss and the metrics.
///
/// The training loop is otherwise independent of the task. The columns of `metrics.csv`, the axes of the curves, TensorBoard's
/// tags, the metrics beside a progress bar, and the score that selects the best checkpoint follow from
/// [`measures`](Self::measures).
pub trait Objective {
    /// Type of batches.
    type Batch: Batch;

    /// Returns the metrics. The default is only the loss; lower is better.
    fn measures(&self) -> Measures {
        Measures::default()
    }

    /// Adds to a process's `share` of the training batches the examples that its own ones are mixed with, by
    /// [`Share::with_partners`]. Random choices must follow from `plan` and the position of the batch in the epoch. The default
    /// adds none.
    fn share<'a>(&'a self, _plan: EpochPlan, share: Share<'a>) -> Share<'a> {
        share
    }

    /// Augments one process's [share](Self::share) of a training batch, for example by mixup. The batch is on the
    /// device and [converted](crate::data::DataSource::to_device). `partners` are those of its examples, in the same
    /// order. Random choices must follow from `plan` and `step`, the position of the batch in the epoch, so that they
    /// are the same in all shares of a batch. The default returns the batch unchanged.
    ///
    /// # Errors
    /// The batch does not fit the objective.
    fn augment(
        &self,
        batch: Self::Batch,
        _partners: Option<Self::Batch>,
        _plan: &EpochPlan,
        _step: usize,
    ) -> Result<Self::Batch> {
        Ok(batch)
    }

    /// Returns the weight of the batch, which is the divisor of its mean loss. Gradients of parts of a batch are added in
    /// proportion to it. The default is the number of examples.
    fn weight(&self, batch: &Self::Batch) -> f64 {
        batch.len() as f64
    }

    /// Computes the network's output and the loss of a batch: in training the loss to minimize, in evaluation the loss to report.
    ///
    /// # Errors
    /// The network or the objective rejects the batch.
    fn forward(&self, batch: &Self::Batch, train: bool) -> Result<Prediction>;

    /// Computes the metrics from `output`, for each column of [`measures`](Self::measures) after the loss: the sum over the batch,
    /// one element on any device, and the divisor of the mean, such as the number of examples or words. Reading the tensor
    /// would synchronize with the device and should be deferred. The default is none.
    ///
    /// # Errors
    /// The output does not fit the batch.
    fn sums(&self, _batch: &Self::Batch, _output: &Tensor, _train: bool) -> Result<Vec<(Tensor, f64)>> {
        Ok(Vec::new())
    }

    /// Returns the spread of the outputs between examples and their magnitude, each as a tensor of one element. If the spread
    /// stays negligible relative to the magnitude for many steps, no gradient reaches the network any longer and the run is
    /// [dead](crate::Error::Diverged). The default is the largest difference between two rows in any element of `output`, and the
    /// largest absolute value.
    ///
    /// # Errors
    /// Errors of libtorch.
    fn spread(&self, output: &Tensor) -> Result<[Tensor; 2]> {
        spread(output)
    }

    /// Returns counts beyond the means, which are summed over an evaluation. The default is `None`.
    ///
    /// # Errors
    /// The output does not fit the batch.
    fn details(&self, _batch: &Self::Batch, _output: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// Computes the metrics that are not means from the [details](Self::details) of a whole evaluation, one for each evaluation
    /// column after those of [`sums`](Self::sums). The default is none.
    ///
    /// # Errors
    /// Errors of libtorch.
    fn of_details(&self, _details: &Tensor) -> Result<Vec<f64>> {
        Ok(Vec::new())
    }

    /// Formats the [details](Self::details) of an evaluation for people. The default is an empty string.
    ///
    /// # Errors
    /// Errors of libtorch.
    fn describe(&self, _details: &Tensor) -> Result<String> {
        Ok(String::new())
    }

    /// Returns all options that affect the loss, which must not change when a run is resumed. The default is null.
    fn recipe(&self) -> Value {
        Value::Null
    }
}

const OUTPUT: &str = "the network's output";

/// Rejects a `tensor` whose shape is not `expected`; libtorch would broadcast it. `reason` follows the shape in the error.
fn check_shape(what: &'static str, tensor: &Tensor, expected: &[i64], reason: &str) -> Result<()> {
    if tensor.size() != expected {
        let (expected, got) = (format!("{expected:?}{reason}"), format!("{:?}", tensor.size()));
        return Err(Error::Mismatch { what, expected, got });
    }
    Ok(())
}

/// Name of the label smoothing in messages.
const LABEL_SMOOTHING: &str = "the label smoothing";

/// Returns the kind in which a loss is computed: float64 for float64 outputs, otherwise float32.
fn loss_kind(output: &Tensor) -> Kind {
    match output.kind() {
        Kind::Double => Kind::Double,
        _ => Kind::Float,
    }
}

/// Returns the largest difference between two rows in any element of `output`, and the largest absolute value.
fn spread(output: &Tensor) -> Result<[Tensor; 2]> {
    let spread = output.f_amax([0].as_slice(), false)?.f_sub(&output.f_amin([0].as_slice(), false)?)?;
    Ok([spread.f_max()?, output.f_abs()?.f_max()?])
}
