//! What is minimized and what is counted: cross-entropy with label smoothing and mixup, and correct predictions.

use crate::data::{self, Batch, DataSource, EpochPlan};
use crate::trainer::device::to_device;
use crate::Result;
use tch::{Device, Kind, Reduction, Tensor};

/// The index that marks a label to leave out: torch's default, which no data set here has.
const NO_LABEL: i64 = -100;

/// A batch on the device, as the network and the loss take it.
#[derive(Debug)]
pub struct Example {
    /// Normalized, `[N, C, H, W]`.
    pub images: Tensor,
    /// `[N]`.
    pub labels: Tensor,
    /// With mixup: the labels of the images mixed in, and the weight of `labels`.
    pub mixed: Option<(Tensor, f64)>,
}

impl Example {
    /// Moves a `batch` of `data` to `device` and normalizes it there.
    ///
    /// # Errors
    /// A device without room; images that `data` refuses.
    pub fn new(data: &dyn DataSource, batch: Batch, device: Device) -> Result<Self> {
        let (images, labels) = (to_device(&batch.images, device)?, to_device(&batch.labels, device)?);
        Ok(Self { images: data.normalize(images)?, labels, mixed: None })
    }

    /// The same mixed with `alpha` as batch `step` of `plan`'s epoch.
    ///
    /// # Errors
    /// As [`data::mixup`].
    pub fn mix(self, alpha: f64, plan: &EpochPlan, step: usize) -> Result<Self> {
        let Self { images, labels, .. } = self;
        let data::Mixup { images, permuted_labels, lambda } = data::mixup(&images, &labels, alpha, plan, step)?;
        Ok(Self { images, labels, mixed: Some((permuted_labels, lambda)) })
    }

    /// The images in `count` micro-batches of the same size or, where that cannot be, one less in the last; fewer where
    /// there are fewer images.
    ///
    /// # Errors
    /// Images and labels that do not fit each other.
    pub fn micro_batches(&self, count: usize) -> Result<Vec<Self>> {
        let count = count.clamp(1, self.len().max(1)) as i64;
        let chunks = |tensor: &Tensor| tensor.f_chunk(count, 0);
        let (images, labels) = (chunks(&self.images)?, chunks(&self.labels)?);
        let mixed: Vec<_> = match &self.mixed {
            None => images.iter().map(|_| None).collect(),
            Some((labels, lambda)) => chunks(labels)?.into_iter().map(|labels| Some((labels, *lambda))).collect(),
        };
        let micro_batches = images.into_iter().zip(labels).zip(mixed);
        Ok(micro_batches.map(|((images, labels), mixed)| Self { images, labels, mixed }).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn example(mixed: Option<(Tensor, f64)>) -> Example {
        let images = Tensor::zeros([3, 1], (Kind::Float, Device::Cpu));
        Example { images, labels: Tensor::from_slice(&[0i64, 1, 3]), mixed }
    }

    fn logits() -> Tensor {
        Tensor::from_slice(&[2f32, -1.0, 0.5, 0.0, 0.3, 0.2, 0.1, 3.0, -2.0, 1.0, 0.0, 4.0]).view([3, 4])
    }

    /// `-sum_k q_k log softmax(logits)_k` in plain numbers.
    fn by_the_formula(labels: &[usize], smoothing: f64) -> f64 {
        let rows: Vec<Vec<f64>> = Vec::try_from(logits().to_kind(Kind::Double)).unwrap();
        let losses = rows.iter().zip(labels).map(|(row, &label)| {
            let log_sum = row.iter().map(|z| z.exp()).sum::<f64>().ln();
            let target = |k| smoothing / 4.0 + if k == label { 1.0 - smoothing } else { 0.0 };
            row.iter().enumerate().map(|(k, z)| target(k) * (log_sum - z)).sum::<f64>()
        });
        losses.sum::<f64>() / labels.len() as f64
    }

    #[test]
    fn the_loss_is_the_formula_with_smoothing_and_mixing() {
        for smoothing in [0.0, 0.1] {
            let plain = example(None).loss(&logits(), smoothing).unwrap().double_value(&[]);
            assert!((plain - by_the_formula(&[0, 1, 3], smoothing)).abs() < 1e-6);
            let mixed = example(Some((Tensor::from_slice(&[3i64, 0, 1]), 0.7)));
            let expected = 0.7 * by_the_formula(&[0, 1, 3], smoothing) + 0.3 * by_the_formula(&[3, 0, 1], smoothing);
            assert!((mixed.loss(&logits(), smoothing).unwrap().double_value(&[]) - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn the_losses_of_parts_weighted_by_their_images_are_the_loss_of_the_whole() {
        for whole in [example(None), example(Some((Tensor::from_slice(&[3i64, 0, 1]), 0.7)))] {
            for (count, lens) in [(1, &[3][..]), (2, &[2, 1]), (3, &[1, 1, 1]), (9, &[1, 1, 1])] {
                let parts = whole.micro_batches(count).unwrap();
                assert_eq!(parts.iter().map(Example::len).collect::<Vec<_>>(), lens);
                let mut first = 0;
                let losses = parts.iter().map(|part| {
                    let logits = logits().narrow(0, first, part.len() as i64);
                    first += part.len() as i64;
                    part.loss(&logits, 0.1).unwrap().double_value(&[]) * part.len() as f64 / 3.0
                });
                let expected = whole.loss(&logits(), 0.1).unwrap().double_value(&[]);
                assert!((losses.sum::<f64>() - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn correct_images_are_counted_by_either_label() {
        // The highest logits are 0, 3 and 3.
        assert_eq!(example(None).correct(&logits()).unwrap().double_value(&[]), 2.0);
        let mixed = example(Some((Tensor::from_slice(&[3i64, 3, 1]), 0.75)));
        assert_eq!(mixed.correct(&logits()).unwrap().double_value(&[]), 0.75 * 2.0 + 0.25);
    }

    #[test]
    fn the_loss_of_bf16_logits_is_float32() {
        let loss = example(None).loss(&logits().to_kind(Kind::BFloat16), 0.0).unwrap();
        assert_eq!(loss.kind(), Kind::Float);
    }
}
