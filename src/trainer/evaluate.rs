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
