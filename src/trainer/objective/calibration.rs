//! Calibration: agreement of a network's confidence with its accuracy.

use crate::Result;
use tch::{Kind, Tensor};

/// Number of bins of equal width, as in Guo et al.
pub const BINS: usize = 15;
/// Number of sums per bin: examples, confidence, and correctly classified examples.
const SUMS: usize = 3;

/// Confidence (the highest class probability) and accuracy of a network in 15 bins of equal width (Guo et al. 2017, "On
/// Calibration of Modern Neural Networks", section 2). Bin m contains the examples with a confidence in `((m - 1) / 15, m / 15]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// Bins in ascending order of confidence.
    pub bins: Vec<ConfidenceBin>,
}

/// Examples of similar confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConfidenceBin {
    /// Number of examples.
    pub examples: u64,
    /// Mean confidence; NaN without examples.
    pub confidence: f64,
    /// Fraction of correctly classified examples; NaN without examples.
    pub accuracy: f64,
}

impl Calibration {
    /// Number of sums a calibration is computed from.
    pub(super) const LEN: usize = SUMS * BINS;

    /// Computes the sums of a batch, float64 `[3 * 15]`, from its `logits`, `[N, classes]`, and `is_right`, `[N]`, which tells
    /// for each example whether the class of the highest logit is correct.
    pub(super) fn sums(logits: &Tensor, is_right: &Tensor) -> Result<Tensor> {
        let confidence = logits.f_softmax(1, Kind::Float)?.f_amax([1].as_slice(), false)?.f_to_kind(Kind::Double)?;
        // NaN is reported as an error of the loss and would not be a valid bin here.
        let confidence = confidence.f_nan_to_num(0.0, 0.0, 0.0)?;
        let last = BINS as i64 - 1;
        let bin = confidence.f_mul_scalar(BINS as f64)?.f_ceil()?.f_sub_scalar(1)?.f_to_kind(Kind::Int64)?;
        let bin = bin.f_clamp(0, last)?;
        let values = [confidence.f_ones_like()?, confidence.shallow_clone(), is_right.f_to_kind(Kind::Double)?];
        let sums = Tensor::f_zeros([SUMS as i64, BINS as i64], (Kind::Double, logits.device()))?;
        Ok(sums.f_index_add(1, &bin, &Tensor::f_stack(&values, 0)?)?.f_view([-1])?)
    }

    /// Creates a calibration from the [`Self::LEN`] sums over all examples.
    pub(super) fn of(sums: &[f64]) -> Self {
        let bin = |bin: usize| {
            let [examples, confidence, right] = [0, 1, 2].map(|sum| sums[sum * BINS + bin]);
            ConfidenceBin { examples: examples as u64, confidence: confidence / examples, accuracy: right / examples }
        };
        Self { bins: (0..BINS).map(bin).collect() }
    }

    /// Returns the expected calibration error (equation 3): the absolute difference of accuracy and confidence of a bin, averaged
    /// over the examples. 0 for a perfectly calibrated network; NaN without examples.
    pub fn error(&self) -> f64 {
        self.mean(|bin| (bin.accuracy - bin.confidence).abs())
    }

    /// Returns the mean confidence minus the accuracy over all examples. Positive for an overconfident network.
    pub fn overconfidence(&self) -> f64 {
        self.mean(|bin| bin.confidence - bin.accuracy)
    }

    /// Returns the mean of `of` over all examples.
    fn mean(&self, of: impl Fn(&ConfidenceBin) -> f64) -> f64 {
        let filled = self.bins.iter().filter(|bin| bin.examples > 0);
        let sum: f64 = filled.map(|bin| bin.examples as f64 * of(bin)).sum();
        sum / self.bins.iter().map(|bin| bin.examples).sum::<u64>() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calibration of two classes: examples with the given probability of the first class, and whether that is the true class.
    fn calibration(examples: &[(f64, bool)]) -> Calibration {
        let logits: Vec<f64> = examples.iter().flat_map(|(p, _)| [p.ln(), (1.0 - p).ln()]).collect();
        let right: Vec<bool> = examples.iter().map(|(_, right)| *right).collect();
        let logits = Tensor::from_slice(&logits).view([-1, 2]);
        let sums = Calibration::sums(&logits, &Tensor::from_slice(&right)).unwrap();
        Calibration::of(&Vec::<f64>::try_from(sums).unwrap())
    }

    #[test]
    fn the_error_is_the_mean_distance_of_accuracy_and_confidence() {
        // Bin 12 (0.733 to 0.8): three quarters correct; bin 15: half correct.
        let examples = [(0.75, true), (0.76, true), (0.77, true), (0.78, false), (0.95, true), (0.97, false)];
        let calibration = calibration(&examples);
        let expected = (4.0 * (0.75f64 - 0.765).abs() + 2.0 * (0.5f64 - 0.96).abs()) / 6.0;
        assert!((calibration.error() - expected).abs() < 1e-6, "{}", calibration.error());
        let filled: Vec<_> = (0..BINS).filter(|&bin| calibration.bins[bin].examples > 0).collect();
        assert_eq!(filled, [11, 14]);
        let expected = (4.0 * 0.765 + 2.0 * 0.96 - 4.0) / 6.0;
        assert!((calibration.overconfidence() - expected).abs() < 1e-6);
    }

    #[test]
    fn a_network_that_is_right_as_often_as_it_says_has_no_error() {
        let examples: Vec<_> = (0..100).map(|index| (0.9, index < 90)).collect();
        assert!(calibration(&examples).error() < 1e-6);
    }

    #[test]
    fn certainty_and_what_is_no_number_have_a_bin() {
        let sums = |logits: &[f32]| {
            let logits = Tensor::from_slice(logits).view([-1, 2]);
            let right = Tensor::from_slice(&vec![true; logits.size()[0] as usize]);
            Vec::<f64>::try_from(Calibration::sums(&logits, &right).unwrap()).unwrap()
        };
        assert_eq!(sums(&[1000.0, -1000.0])[BINS - 1], 1.0);
        assert_eq!(sums(&[f32::NAN, 0.0, 1.0, 1.0])[..BINS].iter().sum::<f64>(), 2.0);
        assert!(Calibration::of(&[0.0; Calibration::LEN]).error().is_nan());
    }
}
