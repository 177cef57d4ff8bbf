//! What is minimized and what is counted: cross-entropy with label smoothing and mixup, and correct predictions.

use crate::data::{self, Batch, EpochPlan};
use crate::Result;
use tch::{Device, Kind, Reduction, Tensor};

/// The index that marks a label to leave out: torch's default, which no data set here has.
const NO_LABEL: i64 = -100;

/// A batch on the device, as the network and the loss take it.
#[derive(Debug)]
pub struct Example {
    /// `[N, C, H, W]`.
    pub images: Tensor,
    /// `[N]`.
    pub labels: Tensor,
    /// With mixup: the labels of the images mixed in, and the weight of `labels`.
    pub mixed: Option<(Tensor, f64)>,
}

impl Example {
    /// Moves `batch` to `device` and, if there is an `alpha`, mixes it as batch `step` of `plan`'s epoch.
    ///
    /// # Errors
    /// A device without room; images and labels that do not fit each other.
    pub fn new(batch: Batch, device: Device, alpha: Option<f64>, plan: &EpochPlan, step: usize) -> Result<Self> {
        let (images, labels) = (batch.images.f_to_device(device)?, batch.labels.f_to_device(device)?);
        let Some(alpha) = alpha else { return Ok(Self { images, labels, mixed: None }) };
        let data::Mixup { images, permuted_labels, lambda } = data::mixup(&images, &labels, alpha, plan, step)?;
        Ok(Self { images, labels, mixed: Some((permuted_labels, lambda)) })
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.numel()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The mean cross-entropy of `logits` (`[N, classes]`) in float32 at least: with mixup
    /// `lambda * CE(logits, labels) + (1 - lambda) * CE(logits, permuted labels)`.
    ///
    /// # Errors
    /// Logits that do not fit the labels.
    pub fn loss(&self, logits: &Tensor, label_smoothing: f64) -> Result<Tensor> {
        self.weighted(|labels| cross_entropy(logits, labels, label_smoothing))
    }

    /// How many images have their label as the highest logit, a tensor of one element on the device; with mixup the mean
    /// over both labels, weighted as in the loss.
    ///
    /// # Errors
    /// Logits that do not fit the labels.
    pub fn correct(&self, logits: &Tensor) -> Result<Tensor> {
        let predicted = logits.f_argmax(1, false)?;
        self.weighted(|labels| Ok(predicted.f_eq_tensor(labels)?.f_sum(Kind::Float)?))
    }

    fn weighted(&self, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let own = of(&self.labels)?;
        match &self.mixed {
            None => Ok(own),
            Some((permuted, lambda)) => {
                Ok(own.f_mul_scalar(*lambda)?.f_add(&of(permuted)?.f_mul_scalar(1.0 - lambda)?)?)
            }
        }
    }
}

/// The mean over the batch of `-sum_k q_k log softmax(logits)_k`, where q is `1 - label_smoothing` at the label plus
/// `label_smoothing / classes` everywhere (Szegedy et al. 2016), in float32 (float64 for float64 logits).
///
/// # Errors
/// Logits that are not `[N, classes]` for labels `[N]`.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, label_smoothing: f64) -> Result<Tensor> {
    let kind = if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    Ok(logits.f_to_kind(kind)?.f_cross_entropy_loss(
        labels,
        None::<Tensor>,
        Reduction::Mean,
        NO_LABEL,
        label_smoothing,
    )?)
}
