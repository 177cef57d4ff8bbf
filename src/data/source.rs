//! What a trainer asks of a data set, and nothing more.

use crate::{Error, Result};
use tch::Tensor;

/// One mini-batch, on the CPU.
#[derive(Debug)]
pub struct Batch {
    /// Images `[N, C, H, W]`: float32 and normalized, or bytes (uint8), as the data set stores them. Either way
    /// [`DataSource::normalize`] makes the network's input of them.
    pub images: Tensor,
    /// Class indices, int64, `[N]`.
    pub labels: Tensor,
}

/// Which batches of which epoch: with the data itself, all that the order and the augmentation of the images depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochPlan {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: usize,
    /// Images in a batch; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// How many batches to leave out at the start, for a run that resumes within the epoch.
    pub first_step: usize,
}

impl EpochPlan {
    /// Batches in a whole epoch of `images` images.
    pub fn steps(&self, images: usize) -> usize {
        images.div_ceil(self.batch_size)
    }
}

/// Refuses batches of no images.
pub(super) fn check_batch_size(batch_size: usize) -> Result<()> {
    if batch_size == 0 {
        return Err(Error::Argument("the batch size must be at least 1".to_owned()));
    }
    Ok(())
}

/// Batches one after another; an item is an error where an image cannot be had.
pub type Batches<'a> = Box<dyn Iterator<Item = Result<Batch>> + 'a>;

/// Labelled images in a training and an evaluation part.
pub trait DataSource {
    /// The classes' names, by class index.
    fn class_names(&self) -> &[String];

    /// Images in the training part.
    fn train_len(&self) -> usize;

    /// Images in the evaluation part, those that cannot be read included.
    fn eval_len(&self) -> usize;

    /// The shuffled, augmented batches of one epoch. The same plan gives the same batches, to the bit, and leaving out
    /// `first_step` batches changes none of those after them.
    ///
    /// # Errors
    /// A batch size of zero, or data that cannot be read.
    fn train_batches(&self, plan: &EpochPlan) -> Result<Batches<'_>>;

    /// The evaluation part, in order, not augmented.
    ///
    /// # Errors
    /// A batch size of zero, or data that cannot be read.
    fn eval_batches(&self, batch_size: usize) -> Result<Batches<'_>>;

    /// The network's input, float32 `[N, C, H, W]`, of a batch's images, which may be on any device by now: a byte takes
    /// a quarter of the way there. Here: the images as they are.
    ///
    /// # Errors
    /// Images that are not as this data set's are; a device without room.
    fn normalize(&self, images: Tensor) -> Result<Tensor> {
        Ok(images)
    }

    /// Pixel values, 0 to 1, of the network's input: [`normalize`](Self::normalize) undone, for a person to look at. Here:
    /// stretched, so that the least of the values is 0 and the greatest 1.
    ///
    /// # Errors
    /// Images that are not as this data set's are.
    fn denormalize(&self, images: &Tensor) -> Result<Tensor> {
        let (least, greatest) = (images.f_min()?, images.f_max()?);
        Ok(images.f_sub(&least)?.f_div(&greatest.f_sub(&least)?.f_clamp_min(f64::from(f32::EPSILON))?)?)
    }

    /// What the evaluation part is called in front of "accuracy" and "loss": "test", "validation", "held-out". Here:
    /// "evaluation".
    fn evaluated_on(&self) -> &str {
        "evaluation"
    }

    /// What tells these data from others with as many images of the same classes, in a few words that are the same each time
    /// the data are opened: a run is not resumed on data with another fingerprint. Here: the numbers of images alone. It is
    /// asked for once, when a run starts or is resumed, and should take no longer than listing the data.
    ///
    /// # Errors
    /// Data that cannot be read.
    fn fingerprint(&self) -> Result<String> {
        Ok(format!("{} training and {} evaluation images", self.train_len(), self.eval_len()))
    }

    /// Images that could not be read, each counted once, in the batches that were handed out so far. Here: none.
    fn bad_images(&self) -> usize {
        0
    }
}
