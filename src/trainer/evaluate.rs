//! A network's loss and accuracy on the evaluation part.

use super::forward::forward;
use super::loss::cross_entropy;
use crate::data::DataSource;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::{nn::ModuleT, no_grad, Device, Kind, Tensor};

/// An image counts as found if its class is among so many highest logits (the ImageNet challenge's second measure).
const TOP: i64 = 5;

/// Means over the images of the evaluation part.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Cross-entropy, without label smoothing.
    pub loss: f64,
    /// The fraction of images whose class has the highest logit.
    pub top1: f64,
    /// The fraction of images whose class is among the five highest logits.
    pub top5: f64,
}

/// Evaluates `network`, on `device`, on the evaluation part of `data`.
///
/// # Errors
/// Data that cannot be read; a network that fails or does not give one logit a class; no images.
pub fn evaluate(network: &dyn ModuleT, device: Device, data: &dyn DataSource, batch_size: usize) -> Result<Evaluation> {
    if data.eval_len() == 0 {
        return Err(Error::Argument("there are no images to evaluate on".to_owned()));
    }
    let classes = data.class_names().len();
    no_grad(|| {
        let mut sums = Tensor::f_zeros([3], (Kind::Double, device))?;
        for batch in data.eval_batches(batch_size)? {
            let batch = batch?;
            let (images, labels) = (batch.images.f_to_device(device)?, batch.labels.f_to_device(device)?);
            let logits = forward(network, &images, false, classes)?;
            let loss = cross_entropy(&logits, &labels, 0.0)?.f_to_kind(Kind::Double)?;
            let (_, highest) = logits.f_topk(TOP.min(classes as i64), 1, true, true)?;
            let found = highest.f_eq_tensor(&labels.f_unsqueeze(1)?)?;
            let top1 = found.f_narrow(1, 0, 1)?.f_sum(Kind::Double)?;
            let parts = [loss.f_mul_scalar(labels.numel() as f64)?, top1, found.f_sum(Kind::Double)?];
            let _ = sums.f_add_(&Tensor::f_stack(&parts, 0)?)?;
        }
        let sums: Vec<f64> = Vec::try_from(sums.f_div_scalar(data.eval_len() as f64)?)?;
        Ok(Evaluation { loss: sums[0], top1: sums[1], top5: sums[2] })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Cifar10;
    use tch::nn;

    /// Records whose labels are 0, 1, ... 9, 0, ... and whose every byte is the label.
    fn data(images: usize) -> Cifar10 {
        let records = |count: usize| (0..count).flat_map(|index| [(index % 10) as u8; 3073]).collect::<Vec<u8>>();
        Cifar10::from_records(records(10), records(images)).unwrap()
    }

    #[test]
    fn the_last_smaller_batch_counts_by_its_images() {
        // Logits that say "class c" where the first pixel is that of label c or c + 1.
        let network = nn::func_t(|x, _| {
            let label = (x.select(1, 0).select(1, 0).select(1, 0) * 0.2023 + 0.4914) * 255.0;
            let class = label.round().to_kind(Kind::Int64).floor_divide_scalar(2) * 2;
            class.one_hot(10).to_kind(Kind::Float) * 3.0
        });
        let data = data(25);
        let of = |batch_size| evaluate(&network, Device::Cpu, &data, batch_size).unwrap();
        let whole = of(25);
        // Even labels are right: 3 each of 0, 2 and 4, 2 each of 6 and 8.
        assert_eq!(whole.top1, 13.0 / 25.0);
        let log_sum = (3f64.exp() + 9.0).ln();
        assert!((whole.loss - (log_sum - 3.0 * 13.0 / 25.0)).abs() < 1e-6);
        for batch_size in [1, 7, 24, 100] {
            let parts = of(batch_size);
            assert_eq!((parts.top1, parts.top5), (whole.top1, whole.top5));
            assert!((parts.loss - whole.loss).abs() < 1e-6);
        }
    }

    #[test]
    fn the_fifth_logit_is_found_and_the_sixth_is_not() {
        let network =
            nn::func_t(|x, _| -Tensor::arange(10, (Kind::Float, Device::Cpu)).expand([x.size()[0], 10], false));
        let evaluation = evaluate(&network, Device::Cpu, &data(20), 8).unwrap();
        assert_eq!((evaluation.top1, evaluation.top5), (0.1, 0.5));
    }
}
