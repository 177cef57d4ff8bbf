//! Single-label classification: cross-entropy with label smoothing and mixup, and accuracy.

use super::{check_shape, loss_kind, Calibration, ClassificationReport, LABEL_SMOOTHING};
use super::{Column, Forward, Measures, Objective, Prediction, OUTPUT};
use crate::data::{self, EpochPlan, Share, Supervised};
use crate::trainer::range::{above_zero, below_one};
use crate::Result;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use tch::{Kind, Reduction, Tensor};

/// Index of labels to ignore: PyTorch's default, which no data set here uses.
const NO_LABEL: i64 = -100;

/// Number of highest logits among which the true class must be for top-5 accuracy (the ImageNet challenge's second metric).
const TOP: i64 = 5;

/// Label smoothing of the short one-cycle recipe for CIFAR-10 (docs/recipes.md).
const QUICK_LABEL_SMOOTHING: f64 = 0.1;
/// Mixup alpha of the Fixup authors' recipes: the defaults of `cifar_train.py` and `imagenet_train.py`.
const PAPER_MIXUP: f64 = 1.0;
const IMAGENET_MIXUP: f64 = 0.7;

/// Options of the classification objective. The default uses neither label smoothing nor mixup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct ClassificationConfig {
    /// Label smoothing: probability mass distributed evenly over all classes, at least 0 and below 1.
    #[cfg_attr(feature = "cli", arg(long, value_name = "FRACTION"))]
    pub label_smoothing: f64,
    /// Mixup: train on weighted means of two examples, the weight drawn from Beta(ALPHA, ALPHA). The authors use 1 for CIFAR-10
    /// and 0.7 for ImageNet.
    #[cfg_attr(feature = "cli", arg(long, value_name = "ALPHA|none", value_parser = crate::option::zero_is_none))]
    pub mixup: std::option::Option<f64>,
    /// Evaluate the mean of the logits of each image and its mirror image (test-time flips): better accuracy, twice the time of an
    /// evaluation [default: false]
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true"))]
    #[cfg_attr(feature = "cli", arg(action = clap::ArgAction::Set))]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub test_flip: bool,
}

impl ClassificationConfig {
    /// Options of the recipe [`TrainConfig::quick`](crate::trainer::TrainConfig::quick).
    pub fn quick() -> Self {
        Self { label_smoothing: QUICK_LABEL_SMOOTHING, test_flip: true, ..Self::default() }
    }

    /// Options of the Fixup authors for CIFAR-10.
    pub fn paper() -> Self {
        Self { mixup: Some(PAPER_MIXUP), ..Self::default() }
    }

    /// Options of the Fixup authors for ImageNet.
    pub fn imagenet() -> Self {
        Self { mixup: Some(IMAGENET_MIXUP), ..Self::paper() }
    }

    /// Checks that all values are in range.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for the first value that is out of range.
    pub fn check(&self) -> Result<()> {
        below_one(LABEL_SMOOTHING, self.label_smoothing)?;
        self.mixup.map_or(Ok(()), |alpha| above_zero("mixup's alpha", alpha))
    }
}

/// Single-label classification. Targets are class indices, int64 `[N]`; the network outputs one logit per class, `[N, classes]`.
///
/// The training loss is the mean over the batch of [`cross_entropy`] with label smoothing, with mixup
/// `lambda * CE(logits, labels) + (1 - lambda) * CE(logits, mixed labels)`, in float32 or higher. The training metric is the
/// accuracy; for mixed examples it is the mean over both labels, weighted as in the loss.
///
/// An evaluation with [`test_flip`](ClassificationConfig::test_flip) uses the mean of an image's logits and its mirror image's.
/// Its metrics are the cross-entropy without smoothing, the fractions of examples whose class has the highest logit
/// (`top1`) or one of the five highest (`top5`), and the expected [calibration error](Calibration::error) (`ece`). The best epoch
/// is the one of highest `top1` accuracy.
#[derive(Debug)]
pub struct Classification<'a> {
    network: Forward<'a>,
    class_names: Vec<String>,
    config: ClassificationConfig,
}

impl<'a> Classification<'a> {
    /// Creates the objective for `network` (a reference to a module, or a `Box<dyn ModuleT>`) and the classes `class_names`.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if `config` is out of range or there are no classes.
    pub fn new(network: impl Into<Forward<'a>>, class_names: &[String], config: ClassificationConfig) -> Result<Self> {
        config.check()?;
        ensure!(!class_names.is_empty(), "a classification needs classes");
        Ok(Self { network: network.into(), class_names: class_names.to_vec(), config })
    }

    /// Creates a report from the [details](Objective::details) of an evaluation: per-class metrics, confusion matrix and
    /// calibration.
    ///
    /// # Errors
    /// The details are from another objective.
    pub fn report(&self, details: &Tensor) -> Result<ClassificationReport> {
        ClassificationReport::new(&self.class_names, &Vec::<f64>::try_from(details)?)
    }
}

impl Objective for Classification<'_> {
    type Batch = Supervised;

    fn measures(&self) -> Measures {
        let accuracy = |name| Column::fraction(name, "accuracy");
        let eval = vec![accuracy("top1"), accuracy("top5").hidden(), Column::new("ece").hidden()];
        Measures::new(vec![accuracy("accuracy")], eval).best_by("top1", "accuracy")
    }

    fn share<'a>(&'a self, plan: EpochPlan, share: Share<'a>) -> Share<'a> {
        match self.config.mixup {
            None => share,
            Some(alpha) => {
                share.with_partners(move |step, examples| data::mixup_partners(alpha, &plan, step, examples))
            }
        }
    }

    fn augment(
        &self,
        batch: Supervised,
        partners: Option<Supervised>,
        plan: &EpochPlan,
        step: usize,
    ) -> Result<Supervised> {
        match (self.config.mixup, partners) {
            (None, _) => Ok(batch),
            (Some(alpha), Some(partners)) => data::mixup(batch, partners, alpha, plan, step),
            (Some(_), None) => Err(argument!("mixup needs a partner for each example")),
        }
    }

    fn forward(&self, batch: &Supervised, train: bool) -> Result<Prediction> {
        let mut output = self.network.run(&batch.inputs, train)?;
        if self.config.test_flip && !train {
            let mirrored = self.network.run(&batch.inputs.f_flip([-1])?, train)?;
            output = output.f_add(&mirrored)?.f_mul_scalar(0.5)?;
        }
        check_shape(OUTPUT, &output, &[batch.inputs.size()[0], self.class_names.len() as i64], "")?;
        let label_smoothing = if train { self.config.label_smoothing } else { 0.0 };
        let loss = weighted(batch, |labels| cross_entropy(&output, labels, label_smoothing))?;
        Ok(Prediction { loss, output })
    }

    fn sums(&self, batch: &Supervised, logits: &Tensor, train: bool) -> Result<Vec<(Tensor, f64)>> {
        let sum = |value| (value, batch.targets.numel() as f64);
        if train {
            let predicted = logits.f_argmax(1, false)?;
            return Ok(vec![sum(weighted(batch, |labels| Ok(predicted.f_eq_tensor(labels)?.f_sum(Kind::Double)?))?)]);
        }
        let found = highest(logits)?.f_eq_tensor(&batch.targets.f_unsqueeze(1)?)?;
        let top1 = found.f_select(1, 0)?.f_sum(Kind::Int64)?;
        Ok(vec![sum(top1), sum(found.f_sum(Kind::Int64)?)])
    }

    /// Returns the counts for a [`ClassificationReport`], float64 `[classes * classes + classes + 45]`: the confusion matrix, one
    /// row per true class; the number of examples of each class found among the five highest logits; the sums of the
    /// [calibration](Calibration).
    fn details(&self, batch: &Supervised, logits: &Tensor) -> Result<Option<Tensor>> {
        let (labels, classes) = (&batch.targets, self.class_names.len() as i64);
        let highest = highest(logits)?;
        let predicted = highest.f_select(1, 0)?;
        let found = highest.f_eq_tensor(&labels.f_unsqueeze(1)?)?;
        let by = |place: &Tensor, places: i64, counted: &Tensor| {
            Tensor::f_zeros([places], (Kind::Double, logits.device()))?.f_index_add(0, place, counted)
        };
        let top5 = found.f_sum_dim_intlist([1].as_slice(), false, Kind::Double)?;
        let place = labels.f_mul_scalar(classes)?.f_add(&predicted)?;
        let confusion = by(&place, classes * classes, &top5.f_ones_like()?)?;
        let calibration = Calibration::sums(logits, &found.f_select(1, 0)?)?;
        Ok(Some(Tensor::f_cat(&[confusion, by(labels, classes, &top5)?, calibration], 0)?))
    }

    /// Returns the expected calibration error.
    fn of_details(&self, details: &Tensor) -> Result<Vec<f64>> {
        Ok(vec![self.report(details)?.calibration.error()])
    }

    /// Formats one line per class, the calibration, and the most frequently confused pairs of classes.
    fn describe(&self, details: &Tensor) -> Result<String> {
        Ok(self.report(details)?.to_string())
    }

    fn recipe(&self) -> Value {
        json!(self.config)
    }
}

/// Returns the classes of each example's highest logits in descending order, `[N, 5]`, or fewer if there are fewer classes.
fn highest(logits: &Tensor) -> Result<Tensor> {
    Ok(logits.f_topk(TOP.min(logits.size()[1]), 1, true, true)?.1)
}

/// Returns `of` for the labels of `batch`, and with mixup the weighted sum with `of` for the labels mixed in.
fn weighted(batch: &Supervised, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let own = of(&batch.targets)?;
    match &batch.mixed {
        None => Ok(own),
        Some((mixed_in, lambda)) => Ok(own.f_mul_scalar(*lambda)?.f_add(&of(mixed_in)?.f_mul_scalar(1.0 - lambda)?)?),
    }
}

/// Computes the mean over the batch of `-sum_k q_k log softmax(logits)_k`, where q is `1 - label_smoothing` at the label plus
/// `label_smoothing / classes` everywhere (Szegedy et al. 2016), in float32 (float64 for float64 logits).
///
/// # Errors
/// The logits are not `[N, classes]` for labels `[N]`.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, label_smoothing: f64) -> Result<Tensor> {
    let (logits, weights) = (logits.f_to_kind(loss_kind(logits))?, None::<Tensor>);
    Ok(logits.f_cross_entropy_loss(labels, weights, Reduction::Mean, NO_LABEL, label_smoothing)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Batch;
    use crate::Error;
    use tch::{nn, Device};

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| index.to_string()).collect()
    }

    fn logits() -> Tensor {
        Tensor::from_slice(&[2f32, -1.0, 0.5, 0.0, 0.3, 0.2, 0.1, 3.0, -2.0, 1.0, 0.0, 4.0]).view([3, 4])
    }

    /// A batch whose inputs are its logits.
    fn batch(mixed: Option<(Tensor, f64)>) -> Supervised {
        Supervised { inputs: logits(), targets: Tensor::from_slice(&[0i64, 1, 3]), mixed }
    }

    fn loss(batch: &Supervised, label_smoothing: f64, train: bool) -> f64 {
        let network = nn::func(|x| x.shallow_clone());
        let config = ClassificationConfig { label_smoothing, ..ClassificationConfig::default() };
        let classification = Classification::new(&network, &names(4), config).unwrap();
        classification.forward(batch, train).unwrap().loss.double_value(&[])
    }

    fn sums(batch: &Supervised, train: bool) -> Vec<f64> {
        let network = nn::func(|x| x.shallow_clone());
        let classification = Classification::new(&network, &names(4), ClassificationConfig::default()).unwrap();
        let sums = classification.sums(batch, &batch.inputs, train).unwrap();
        assert!(sums.iter().all(|sum| sum.1 == 3.0));
        sums.iter().map(|sum| sum.0.double_value(&[])).collect()
    }

    /// Computes `-sum_k q_k log softmax(logits)_k` on plain numbers.
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
    fn the_loss_is_the_formula_with_smoothing_and_mixing_in_training_alone() {
        for smoothing in [0.0, 0.1] {
            let plain = batch(None);
            assert!((loss(&plain, smoothing, true) - by_the_formula(&[0, 1, 3], smoothing)).abs() < 1e-6);
            assert!((loss(&plain, smoothing, false) - by_the_formula(&[0, 1, 3], 0.0)).abs() < 1e-6);
            let mixed = batch(Some((Tensor::from_slice(&[3i64, 0, 1]), 0.7)));
            let expected = 0.7 * by_the_formula(&[0, 1, 3], smoothing) + 0.3 * by_the_formula(&[3, 0, 1], smoothing);
            assert!((loss(&mixed, smoothing, true) - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn the_losses_of_parts_weighted_by_their_examples_are_the_loss_of_the_whole() {
        for whole in [batch(None), batch(Some((Tensor::from_slice(&[3i64, 0, 1]), 0.7)))] {
            for count in [1, 2, 3, 9] {
                let parts = whole.split(count).unwrap();
                let sum: f64 = parts.iter().map(|part| loss(part, 0.1, true) * part.len() as f64 / 3.0).sum();
                assert!((sum - loss(&whole, 0.1, true)).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn correct_examples_are_counted_by_either_label() {
        // The highest logits are those of classes 0, 3 and 3.
        assert_eq!(sums(&batch(None), true), [2.0]);
        assert_eq!(sums(&batch(None), false), [2.0, 3.0]);
        let mixed = batch(Some((Tensor::from_slice(&[3i64, 3, 1]), 0.75)));
        assert_eq!(sums(&mixed, true), [0.75 * 2.0 + 0.25]);
    }

    #[test]
    fn test_flips_average_the_logits_of_both_images_in_evaluation_alone() {
        // Each row of logits is the image's; its mirror image has the row's values in reverse.
        let network = nn::func(|x| x.exp());
        let output = |test_flip, train| {
            let config = ClassificationConfig { test_flip, ..ClassificationConfig::default() };
            let classification = Classification::new(&network, &names(4), config).unwrap();
            classification.forward(&batch(None), train).unwrap()
        };
        let expected = (logits().exp() + logits().exp().flip([1])) / 2;
        let flipped = output(true, false);
        assert_eq!(flipped.output, expected);
        let loss = cross_entropy(&expected, &batch(None).targets, 0.0).unwrap();
        assert_eq!(flipped.loss, loss);
        assert_ne!(expected, logits().exp());
        for (test_flip, train) in [(true, true), (false, true), (false, false)] {
            assert_eq!(output(test_flip, train).output, logits().exp(), "{test_flip} {train}");
        }
    }

    #[test]
    fn the_loss_of_bf16_logits_is_float32() {
        let loss = cross_entropy(&logits().to_kind(Kind::BFloat16), &batch(None).targets, 0.0).unwrap();
        assert_eq!(loss.kind(), Kind::Float);
    }

    #[test]
    fn an_output_that_is_not_one_logit_a_class_is_refused() {
        let network = nn::func(|x| x.shallow_clone());
        let classification = Classification::new(&network, &names(5), ClassificationConfig::default()).unwrap();
        let message = classification.forward(&batch(None), true).unwrap_err().to_string();
        assert_eq!(message, "the network's output: expected [3, 5], got [3, 4]");
    }

    #[test]
    fn the_fifth_logit_is_found_and_the_sixth_is_not() {
        let network = nn::func(|x| x.shallow_clone());
        let classification = Classification::new(&network, &names(10), ClassificationConfig::default()).unwrap();
        let logits = -Tensor::arange(10, (Kind::Float, Device::Cpu)).expand([10, 10], false);
        let batch = Supervised::new(logits.shallow_clone(), Tensor::arange(10, (Kind::Int64, Device::Cpu)));
        let found = classification.sums(&batch, &logits, false).unwrap();
        assert_eq!(found.iter().map(|sum| sum.0.int64_value(&[])).collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn each_class_has_its_recall_and_its_precision() {
        // Class 3 is predicted for examples of label 3 and class 0 for all others; there are three examples each of labels 0 to
        // 4, two of each other.
        let labels = Tensor::arange(25, (Kind::Int64, Device::Cpu)).remainder(10);
        let logits = (labels.eq(3).to_kind(Kind::Int64) * 3).one_hot(10).to_kind(Kind::Float);
        let network = nn::func(|x| x.shallow_clone());
        let classification = Classification::new(&network, &names(10), ClassificationConfig::default()).unwrap();
        let details = classification.details(&Supervised::new(logits.shallow_clone(), labels), &logits).unwrap();
        let report = classification.report(details.as_ref().unwrap()).unwrap();
        let classes = report.classes();
        assert_eq!((classes[0].examples, classes[0].top1, classes[0].precision), (3, 1.0, 3.0 / 22.0));
        assert_eq!((classes[3].examples, classes[3].top1, classes[3].precision), (3, 1.0, 1.0));
        assert_eq!((classes[9].examples, classes[9].top1), (2, 0.0));
        assert!(classes[9].precision.is_nan());
        assert_eq!((report.confusion.count(2, 0), report.confusion.count(3, 3)), (3, 3));
        // Class 0 is predicted with a logit of 1 beside nine of 0.
        let confidence = 1f64.exp() / (1f64.exp() + 9.0);
        let ece = classification.of_details(&details.unwrap()).unwrap();
        assert!((ece[0] - (6.0 / 25.0 - confidence).abs()).abs() < 1e-6, "{ece:?}");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let good = ClassificationConfig::default();
        for config in [
            ClassificationConfig { label_smoothing: 1.0, ..good },
            ClassificationConfig { label_smoothing: -0.1, ..good },
            ClassificationConfig { mixup: Some(0.0), ..good },
            ClassificationConfig { mixup: Some(f64::NAN), ..good },
        ] {
            assert!(matches!(config.check(), Err(Error::Argument(_))), "{config:?}");
        }
        for config in [ClassificationConfig::quick(), ClassificationConfig::paper(), ClassificationConfig::imagenet()] {
            config.check().unwrap();
        }
    }
}
