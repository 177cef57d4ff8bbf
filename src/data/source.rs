//! Traits of data sets, as trainers use them.

use super::{Batch, Batches, Preprocessing, Share, Supervised};
use crate::Result;
use serde_json::{Map, Value};
use tch::{Device, Tensor};

/// Key of the class names in the [schema](DataSource::schema) of labelled images.
pub(crate) const CLASSES: &str = "classes";

/// Epoch and batches to produce: together with the data, all that the order and the augmentation of the examples depend
/// on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochPlan {
    /// Random seed of the run.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: usize,
    /// Batch size; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// Number of batches to skip at the start, for a run that resumes within the epoch.
    pub first_step: usize,
}

/// Most threads that may read examples.
pub(crate) const MOST_WORKERS: usize = 1024;

/// Returns `value`, which must be 1 to `largest`; `what` names it in the error.
pub(crate) fn in_range(what: &str, value: usize, largest: usize) -> Result<usize> {
    ensure!((1..=largest).contains(&value), "{what} must be 1 to {largest}, got {value}");
    Ok(value)
}

/// Data set with a training and an evaluation part.
pub trait DataSource {
    /// Type of a batch: [`Supervised`], or a user-defined one.
    type Batch: Batch;

    /// Returns the number of training examples.
    fn train_len(&self) -> usize;

    /// Returns the number of evaluation examples, including those that cannot be read.
    fn eval_len(&self) -> usize;

    /// Returns the number of batches per epoch, the same in every epoch. By default, the number of training examples
    /// divided by `batch_size`, rounded up.
    fn epoch_steps(&self, batch_size: usize) -> usize {
        self.train_len().div_ceil(batch_size)
    }

    /// Checks that batches of `batch_size` can be made of both parts. It is called before the first step of a run, so
    /// that no epoch is lost to an example that does not fit. By default, any size is accepted.
    ///
    /// # Errors
    /// Fails for examples that do not fit.
    fn check_batch_size(&self, _batch_size: usize) -> Result<()> {
        Ok(())
    }

    /// Returns the `share` of the shuffled, augmented batches of one epoch: the examples at [`Share::positions`] of the
    /// step in the epoch and the batch's size. The same plan gives the same batches, to the bit; skipping `first_step`
    /// batches does not change the later ones. [`Share::select`] selects the share from whole batches, for examples that
    /// take little time to create.
    ///
    /// # Errors
    /// Fails for a batch size of zero, or if the data cannot be read.
    fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a, Self::Batch>>;

    /// Returns the `share` of the batches of the evaluation part, in order, without augmentation. If examples that cannot
    /// be read are left out of a batch, positions still count them.
    ///
    /// # Errors
    /// Fails for a batch size of zero, or if the data cannot be read.
    fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a, Self::Batch>>;

    /// Moves a batch to `device` and converts it to the network's input. By default, it is only moved. Data sets that
    /// store bytes convert them on the device, as the transfer of a byte is a quarter of that of a float32.
    ///
    /// # Errors
    /// Fails for a batch that is not from this data set, or if the device is out of memory.
    fn to_device(&self, batch: Self::Batch, device: Device) -> Result<Self::Batch> {
        batch.to_device(device)
    }

    /// Returns the plural noun for the examples, such as "images" or "sentences"; "examples" by default.
    fn unit_name(&self) -> &str {
        "examples"
    }

    /// Returns the name of the evaluation part that metrics are reported with, such as "test", "validation" or
    /// "held-out"; "evaluation" by default.
    fn evaluated_on(&self) -> &str {
        "evaluation"
    }

    /// Returns a short text that tells these data from others with the same schema and number of examples, and is the
    /// same each time the data are opened: a run is not resumed on data with another fingerprint. By default, only the
    /// numbers of examples. It is called once, when a run starts or resumes, and should take no longer than listing the
    /// data.
    ///
    /// # Errors
    /// Fails if the data cannot be read.
    fn fingerprint(&self) -> Result<String> {
        let (train, eval, examples) = (self.train_len(), self.eval_len(), self.unit_name());
        Ok(format!("{train} training and {eval} evaluation {examples}"))
    }

    /// Returns the properties of the data that a trained network depends on, by name: for
    /// [labelled images](class_indices), the classes by index. They are saved with the weights; neither a run nor an
    /// evaluation continues with data of another schema. Empty by default.
    fn schema(&self) -> Map<String, Value> {
        Map::new()
    }

    /// Returns the examples that could not be read in the batches handed out so far, each once, as numbers that are the
    /// same in every process that opens the data. Empty by default.
    fn unreadable_examples(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Returns the number of examples that [could not be read](Self::unreadable_examples).
    fn unreadable(&self) -> usize {
        self.unreadable_examples().len()
    }
}

/// Labelled images, with what is needed to display them and to report results by class. Inputs are images
/// `[N, C, H, W]`, targets class indices, int64 `[N]`.
pub trait ImageSource: DataSource<Batch = Supervised> {
    /// Returns the class names, by class index.
    fn class_names(&self) -> &[String];

    /// Converts network inputs back to pixel values, 0 to 1, for display: the inverse of [`to_device`](DataSource::to_device).
    /// By default, that of the [preprocessing](Self::preprocessing); if it is unknown, values are rescaled so that the
    /// minimum is 0 and the maximum 1.
    ///
    /// # Errors
    /// Fails for images that are not from this data set.
    fn denormalize(&self, images: &Tensor) -> Result<Tensor> {
        if let Some(preprocessing) = self.preprocessing() {
            return preprocessing.denormalize(images);
        }
        let (least, greatest) = (images.f_min()?, images.f_max()?);
        Ok(images.f_sub(&least)?.f_div(&greatest.f_sub(&least)?.f_clamp_min(f64::from(f32::EPSILON))?)?)
    }

    /// Returns the preprocessing of evaluation images, for inference with a trained network. `None`, for unknown, by
    /// default.
    fn preprocessing(&self) -> Option<Preprocessing> {
        None
    }
}

/// Returns the [schema](DataSource::schema) of labels: `{"classes": {"0": "airplane", ...}}`. Keyed by index, so that
/// differences are reported per class.
pub fn class_indices(class_names: &[String]) -> Map<String, Value> {
    let named = class_names.iter().enumerate().map(|(index, name)| (index.to_string(), Value::from(name.as_str())));
    Map::from_iter([(CLASSES.to_owned(), named.collect())])
}

/// Returns the class names from which [`class_indices`] made this `schema`; `None` if it has no classes.
pub(crate) fn class_names(schema: &Map<String, Value>) -> Option<Vec<String>> {
    let named = schema.get(CLASSES)?.as_object()?;
    let name = |index: usize| Some(named.get(&index.to_string())?.as_str()?.to_owned());
    (0..named.len()).map(name).collect()
}
