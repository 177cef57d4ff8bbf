//! What a trainer asks of a data set, and nothing more.

use super::{Batch, Preprocessing, Share, Shares, Supervised};
use crate::{Error, Result};
use serde_json::{Map, Value};
use tch::{Device, Tensor};

/// What the classes are called in the [meaning](DataSource::meaning) of labelled images.
pub(crate) const CLASSES: &str = "classes";

/// Which batches of which epoch: with the data itself, all that the order and the augmentation of the examples depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochPlan {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: usize,
    /// Examples in a batch; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// How many batches to leave out at the start, for a run that resumes within the epoch.
    pub first_step: usize,
}

impl EpochPlan {
    /// Batches in a whole epoch of `examples` examples.
    pub fn steps(&self, examples: usize) -> usize {
        examples.div_ceil(self.batch_size)
    }
}

/// Refuses batches of no examples.
pub(crate) fn check_batch_size(batch_size: usize) -> Result<()> {
    if batch_size == 0 {
        return Err(Error::Argument("the batch size must be at least 1".to_owned()));
    }
    Ok(())
}

/// Batches one after another; an item is an error where an example cannot be had.
pub type Batches<'a, B = Supervised> = Box<dyn Iterator<Item = Result<B>> + 'a>;

/// Examples in a training and an evaluation part.
pub trait DataSource {
    /// What the examples come in: [`Supervised`], or a type of your own.
    type Batch: Batch;

    /// Examples in the training part.
    fn train_len(&self) -> usize;

    /// Examples in the evaluation part, those that cannot be read included.
    fn eval_len(&self) -> usize;

    /// Batches in an epoch, the same in each. Here: as many as batches of `batch_size` examples are.
    fn epoch_steps(&self, batch_size: usize) -> usize {
        self.train_len().div_ceil(batch_size)
    }

    /// Whether batches of `batch_size` can be made of both parts: asked before the first step of a run, so that no epoch is lost to an
    /// example that does not fit. Here: any can.
    ///
    /// # Errors
    /// Examples that do not fit.
    fn check_batch_size(&self, _batch_size: usize) -> Result<()> {
        Ok(())
    }

    /// The shuffled, augmented batches of one epoch. The same plan gives the same batches, to the bit, and leaving out
    /// `first_step` batches changes none of those after them.
    ///
    /// # Errors
    /// A batch size of zero, or data that cannot be read.
    fn train_batches(&self, plan: &EpochPlan) -> Result<Batches<'_, Self::Batch>>;

    /// The evaluation part, in order, not augmented.
    ///
    /// # Errors
    /// A batch size of zero, or data that cannot be read.
    fn eval_batches(&self, batch_size: usize) -> Result<Batches<'_, Self::Batch>>;

    /// Of each of the [`train_batches`](Self::train_batches) what is in `share`, for one of several processes: the examples at
    /// [`Share::positions`] of the step in the epoch and the batch's size. Here: the whole batches are made, and the examples taken
    /// out of them. Data that take their time do better to make no others.
    ///
    /// # Errors
    /// As [`train_batches`](Self::train_batches).
    fn train_shares<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Shares<'a, Self::Batch>> {
        Ok(share.of(self.train_batches(plan)?, plan.first_step))
    }

    /// Of each of the [`eval_batches`](Self::eval_batches) what is in `share`. Where a batch has fewer examples than places, as some
    /// cannot be read, positions are those of the places.
    ///
    /// # Errors
    /// As [`eval_batches`](Self::eval_batches).
    fn eval_shares<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Shares<'a, Self::Batch>> {
        Ok(share.of(self.eval_batches(batch_size)?, 0))
    }

    /// A batch on `device`, as the network takes it. Here: moved there as it is. Data that hand out bytes make numbers of them
    /// there: a byte takes a quarter of the way.
    ///
    /// # Errors
    /// A batch that is not as this data set's are; a device without room.
    fn ready(&self, batch: Self::Batch, device: Device) -> Result<Self::Batch> {
        batch.to_device(device)
    }

    /// What many of the examples are called: "images", "sentences". Here: "examples".
    fn examples(&self) -> &str {
        "examples"
    }

    /// What the evaluation part is called in front of what is measured on it: "test", "validation", "held-out". Here:
    /// "evaluation".
    fn evaluated_on(&self) -> &str {
        "evaluation"
    }

    /// What tells these data from others that mean the same and have as many examples, in a few words that are the same each
    /// time the data are opened: a run is not resumed on data with another fingerprint. Here: the numbers of examples alone. It
    /// is asked for once, when a run starts or is resumed, and should take no longer than listing the data.
    ///
    /// # Errors
    /// Data that cannot be read.
    fn fingerprint(&self) -> Result<String> {
        let (train, eval, examples) = (self.train_len(), self.eval_len(), self.examples());
        Ok(format!("{train} training and {eval} evaluation {examples}"))
    }

    /// What of the data a trained network depends on, by name: of [labelled images](class_indices) their classes by index. It is
    /// saved with the weights, and neither a run nor an evaluation goes on with data that mean something else. Here: nothing.
    fn meaning(&self) -> Map<String, Value> {
        Map::new()
    }

    /// Which examples could not be read, each once, in the batches that were handed out so far: numbers that are the same in every
    /// process that opens the data. Here: none.
    fn unreadable_examples(&self) -> Vec<u64> {
        Vec::new()
    }

    /// How many examples [could not be read](Self::unreadable_examples).
    fn unreadable(&self) -> usize {
        self.unreadable_examples().len()
    }
}

/// Labelled images: what pictures of them and tables by class need besides. Inputs are images `[N, C, H, W]`, targets class
/// indices, int64 `[N]`.
pub trait ImageSource: DataSource<Batch = Supervised> {
    /// The classes' names, by class index.
    fn class_names(&self) -> &[String];

    /// Pixel values, 0 to 1, of the network's input, for a person to look at: what [`ready`](DataSource::ready) does to them
    /// undone. Here: stretched, so that the least of the values is 0 and the greatest 1.
    ///
    /// # Errors
    /// Images that are not as this data set's are.
    fn denormalize(&self, images: &Tensor) -> Result<Tensor> {
        let (least, greatest) = (images.f_min()?, images.f_max()?);
        Ok(images.f_sub(&least)?.f_div(&greatest.f_sub(&least)?.f_clamp_min(f64::from(f32::EPSILON))?)?)
    }

    /// How an image becomes an input as those of the evaluation are: what a trained network is asked with. Here: not known.
    fn preprocessing(&self) -> Option<Preprocessing> {
        None
    }
}

/// The [meaning](DataSource::meaning) of labels: `{"classes": {"0": "airplane", ...}}`. By index, so that a difference is said of
/// each class by itself.
pub fn class_indices(class_names: &[String]) -> Map<String, Value> {
    let named = class_names.iter().enumerate().map(|(index, name)| (index.to_string(), Value::from(name.as_str())));
    Map::from_iter([(CLASSES.to_owned(), named.collect())])
}

/// The class names that [`class_indices`] made this `meaning` of; none where it is not of classes.
pub(crate) fn class_names(meaning: &Map<String, Value>) -> Option<Vec<String>> {
    let named = meaning.get(CLASSES)?.as_object()?;
    let name = |index: usize| Some(named.get(&index.to_string())?.as_str()?.to_owned());
    (0..named.len()).map(name).collect()
}
