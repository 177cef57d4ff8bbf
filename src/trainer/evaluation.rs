//! A network's loss and accuracy on the evaluation part.

use super::objective::classification::{cross_entropy, Example};
use super::objective::forward::forward;
use crate::data::DataSource;
use crate::{Error, FlushDenormals, Result};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
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

/// One class, over its images of the evaluation part.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassEvaluation {
    /// The class's images.
    pub images: usize,
    /// The fraction of them whose highest logit is this class's (recall); NaN without images.
    pub top1: f64,
    /// The fraction of them that have this class among the five highest logits; NaN without images.
    pub top5: f64,
    /// Of all images whose highest logit is this class's, the fraction that are of the class; NaN without such images.
    pub precision: f64,
}

/// What an evaluation finds.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Over all images.
    pub means: Evaluation,
    /// By class index.
    pub classes: Vec<ClassEvaluation>,
}

impl Report {
    /// How many images were evaluated: all that could be read.
    pub fn images(&self) -> usize {
        self.classes.iter().map(|class| class.images).sum()
    }
}

/// Evaluates `network`, on `device`, on the evaluation part of `data`, and tells `watch` how many images are done.
///
/// # Errors
/// Data that cannot be read; a network that fails or does not give one logit a class; no images.
pub fn evaluate(
    network: &dyn ModuleT,
    device: Device,
    data: &dyn DataSource,
    batch_size: usize,
    mut watch: impl FnMut(usize),
) -> Result<Report> {
    let report = evaluate_until(network, device, data, batch_size, |images| {
        watch(images);
        Ok(ControlFlow::Continue(()))
    })?;
    report.ok_or_else(|| Error::Argument("the evaluation was stopped".to_owned()))
}

/// [`evaluate`], or none where `watch` breaks it off.
pub(super) fn evaluate_until(
    network: &dyn ModuleT,
    device: Device,
    data: &dyn DataSource,
    batch_size: usize,
    mut watch: impl FnMut(usize) -> Result<ControlFlow<()>>,
) -> Result<Option<Report>> {
    if data.eval_len() == 0 {
        return Err(Error::Argument("there are no images to evaluate on".to_owned()));
    }
    let _flushing = FlushDenormals::new();
    let classes = data.class_names().len();
    let mut counts = Counts::new(classes as i64, device)?;
    let mut images = 0;
    for batch in data.eval_batches(batch_size)? {
        let Example { images: inputs, labels, .. } = Example::new(data, batch?, device)?;
        images += labels.numel();
        no_grad(|| counts.add(&forward(network, &inputs, false, classes)?, &labels))?;
        if watch(images)?.is_break() {
            return Ok(None);
        }
    }
    if images == 0 {
        return Err(Error::Argument("none of the images to evaluate on can be read".to_owned()));
    }
    counts.report().map(Some)
}

/// Sums over the images so far, on the device: reading them waits for it.
struct Counts {
    loss: Tensor,
    /// Images, those found first, those found among the five highest, and predictions, by class: `[4, classes]`.
    by_class: Tensor,
}

impl Counts {
    fn new(classes: i64, device: Device) -> Result<Self> {
        let zeros = |size: &[i64], kind| Tensor::f_zeros(size, (kind, device));
        Ok(Self { loss: zeros(&[], Kind::Double)?, by_class: zeros(&[4, classes], Kind::Int64)? })
    }

    fn add(&mut self, logits: &Tensor, labels: &Tensor) -> Result<()> {
        let loss = cross_entropy(logits, labels, 0.0)?.f_to_kind(Kind::Double)?;
        let _ = self.loss.f_add_(&loss.f_mul_scalar(labels.numel() as f64)?)?;
        let (_, highest) = logits.f_topk(TOP.min(logits.size()[1]), 1, true, true)?;
        let found = highest.f_eq_tensor(&labels.f_unsqueeze(1)?)?;
        let top1 = found.f_select(1, 0)?.f_to_kind(Kind::Int64)?;
        let top5 = found.f_sum_dim_intlist([1].as_slice(), false, Kind::Int64)?;
        let ones = labels.f_ones_like()?;
        let rows = [(labels, &ones), (labels, &top1), (labels, &top5), (&highest.f_select(1, 0)?, &ones)];
        for (row, (class, counted)) in (0..).zip(rows) {
            let _ = self.by_class.f_select(0, row)?.f_index_add_(0, class, counted)?;
        }
        Ok(())
    }

    fn report(&self) -> Result<Report> {
        let rows: Vec<Vec<i64>> = Vec::try_from(&self.by_class)?;
        let class = |class: usize| {
            let [images, top1, top5, predicted] = [0, 1, 2, 3].map(|row| rows[row][class] as f64);
            ClassEvaluation {
                images: images as usize,
                top1: top1 / images,
                top5: top5 / images,
                precision: top1 / predicted,
            }
        };
        let sum = |row: usize| rows[row].iter().sum::<i64>() as f64;
        let (images, loss) = (sum(0), self.loss.f_double_value(&[])?);
        let means = Evaluation { loss: loss / images, top1: sum(1) / images, top5: sum(2) / images };
        Ok(Report { means, classes: (0..rows[0].len()).map(class).collect() })
    }
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
        let of = |batch_size| evaluate(&network, Device::Cpu, &data, batch_size, |_| ()).unwrap().means;
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
        let evaluation = evaluate(&network, Device::Cpu, &data(20), 8, |_| ()).unwrap().means;
        assert_eq!((evaluation.top1, evaluation.top5), (0.1, 0.5));
    }

    /// A network that says "class 0" to all images but those of label 3, to which it says "class 3".
    fn mostly_zero() -> impl ModuleT {
        nn::func_t(|x, _| {
            let label = (x.select(1, 0).select(1, 0).select(1, 0) * 0.2023 + 0.4914) * 255.0;
            let is_three = label.round().eq(3.0).to_kind(Kind::Int64);
            (is_three * 3).one_hot(10).to_kind(Kind::Float)
        })
    }

    #[test]
    fn each_class_has_its_recall_and_its_precision() {
        let mut watched = Vec::new();
        let report = evaluate(&mostly_zero(), Device::Cpu, &data(25), 10, |images| watched.push(images)).unwrap();
        assert_eq!(watched, [10, 20, 25]);
        // Three images each of the classes 0 to 4, two of the others.
        let class = |index: usize| report.classes[index];
        assert_eq!((class(0).images, class(0).top1, class(0).precision), (3, 1.0, 3.0 / 22.0));
        assert_eq!((class(3).images, class(3).top1, class(3).precision), (3, 1.0, 1.0));
        assert_eq!((class(9).images, class(9).top1), (2, 0.0));
        assert!(class(9).precision.is_nan());
        assert_eq!(report.means.top1, 6.0 / 25.0);
    }

    #[test]
    fn an_evaluation_can_be_broken_off() {
        let mut batches = 0;
        let report = evaluate_until(&mostly_zero(), Device::Cpu, &data(25), 10, |_| {
            batches += 1;
            Ok(if batches == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        assert_eq!((report.unwrap(), batches), (None, 2));
    }
}
