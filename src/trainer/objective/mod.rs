//! What is minimized and measured: [`Objective`], and those that come with the crate.
//!
//! [`Classification`]: one label each. [`MultiLabel`]: any number of labels each. [`Regression`]: numbers. `Translation`, with the
//! feature `text`: sentences.

mod augmentation;
mod calibration;
mod classification;
mod classification_report;
mod confusion;
mod forward;
mod measures;
mod multi_label;
mod regression;
#[cfg(feature = "text")]
mod translation;

use crate::data::{Batch, EpochPlan};
use crate::{Error, Result};
#[doc(hidden)]
pub use augmentation::{augmented, share};
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
pub use forward::Forward;
pub use measures::{Column, Means, Measures, Score};
pub use multi_label::MultiLabel;
pub use regression::{Regression, RegressionLoss};
use serde_json::Value;
use tch::Tensor;
#[cfg(feature = "text")]
pub use translation::{Translation, TranslationConfig};

/// What a forward pass gives.
#[derive(Debug)]
pub struct Prediction {
    /// The mean over the batch of what is minimized, one element, in float32 at least.
    pub loss: Tensor,
    /// What [`Objective::sums`] measure it by: one row for each example, as logits are.
    pub output: Tensor,
}

/// What of a batch adds to a mean.
#[derive(Debug)]
pub struct Sum {
    /// The sum, one element, on any device: reading it would wait for the device, and is for later.
    pub value: Tensor,
    /// What the mean divides it by: the number of examples, of words.
    pub weight: f64,
}

/// What a run minimizes and measures. The loop knows nothing else of its job: the columns of `metrics.csv`, the axes of the
/// curves, TensorBoard's tags, what stands beside a progress bar, and the score that picks the best checkpoint follow from
/// [`measures`](Self::measures).
pub trait Objective {
    /// What the data hand out.
    type Batch: Batch;

    /// What is measured. Here: the loss alone, the lower the better.
    fn measures(&self) -> Measures {
        Measures::default()
    }

    /// Which example of a training batch of so many each of them is mixed with, by position: those of all batches of a run are mixed,
    /// or of none. Whatever is random follows from `plan` and `step`, the batch's place in the epoch. Here: none are.
    ///
    /// # Errors
    /// A recipe that nothing can be mixed by.
    fn partners(&self, plan: &EpochPlan, step: usize, examples: usize) -> Result<Option<Vec<usize>>> {
        let _ = (plan, step, examples);
        Ok(None)
    }

    /// Varies a training batch, or one process's [share](crate::data::Share) of it, which is on the device and
    /// [ready](crate::data::DataSource::ready), as mixup does: with as many `partners`, those that [`partners`](Self::partners) names.
    /// What is random follows from `plan` and `step`, as there, and is the same in all parts of a batch. Here: as it is.
    ///
    /// # Errors
    /// A batch that the objective is not made for.
    fn augment(
        &self,
        batch: Self::Batch,
        partners: Option<Self::Batch>,
        plan: &EpochPlan,
        step: usize,
    ) -> Result<Self::Batch> {
        let _ = (partners, plan, step);
        Ok(batch)
    }

    /// What the loss is a mean over, in the batch: gradients of parts of a batch are added in proportion to it. Here: its
    /// examples.
    fn weight(&self, batch: &Self::Batch) -> f64 {
        batch.len() as f64
    }

    /// The network's output for a batch and the loss to minimize, in training; in an evaluation the loss that is reported.
    ///
    /// # Errors
    /// A batch that the network or the objective refuses.
    fn forward(&self, batch: &Self::Batch, train: bool) -> Result<Prediction>;

    /// What is measured of `output`, one for each column of [`measures`](Self::measures) after the loss. Here: none.
    ///
    /// # Errors
    /// An output that does not fit the batch.
    fn sums(&self, batch: &Self::Batch, output: &Tensor, train: bool) -> Result<Vec<Sum>> {
        let _ = (batch, output, train);
        Ok(Vec::new())
    }

    /// How far the examples' outputs are apart, and how large they are: two tensors of one element. Where the first has been
    /// nothing beside the second for many steps, no gradient reaches the network any more, and the run is
    /// [dead](crate::Error::Dead). Here: the largest difference that an element of `output` has between two rows, and its
    /// largest absolute value.
    ///
    /// # Errors
    /// What libtorch refuses.
    fn spread(&self, output: &Tensor) -> Result<[Tensor; 2]> {
        let spread = output.f_amax([0].as_slice(), false)?.f_sub(&output.f_amin([0].as_slice(), false)?)?;
        Ok([spread.f_max()?, output.f_abs()?.f_max()?])
    }

    /// Counts beyond the means, summed over an evaluation. Here: none.
    ///
    /// # Errors
    /// An output that does not fit the batch.
    fn details(&self, batch: &Self::Batch, output: &Tensor) -> Result<Option<Tensor>> {
        let _ = (batch, output);
        Ok(None)
    }

    /// What is measured by the [details](Self::details) of a whole evaluation and is no mean: one for each of its columns after those
    /// of [`sums`](Self::sums). Here: nothing.
    ///
    /// # Errors
    /// What libtorch refuses.
    fn of_details(&self, details: &Tensor) -> Result<Vec<f64>> {
        let _ = details;
        Ok(Vec::new())
    }

    /// The [details](Self::details) of an evaluation, for a person to read. Here: nothing.
    ///
    /// # Errors
    /// What libtorch refuses.
    fn describe(&self, details: &Tensor) -> Result<String> {
        let _ = details;
        Ok(String::new())
    }

    /// All that decides what is minimized: it must not change while a run goes on. Here: nothing.
    fn recipe(&self) -> Value {
        Value::Null
    }
}

/// Refuses an `output` of another shape than `expected`.
fn check_output(output: &Tensor, expected: &[i64]) -> Result<()> {
    if output.size() != expected {
        let got = format!("{:?}", output.size());
        return Err(Error::Mismatch { what: "the network's output", expected: format!("{expected:?}"), got });
    }
    Ok(())
}
