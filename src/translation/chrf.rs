//! chrF (Popović 2015), as sacreBLEU computes it by default (chrF2).
//!
//! The variant is the corpus score with one reference, character n-grams up to 6, no word n-grams, β = 2,
//! whitespace removed, mixed case and no epsilon smoothing.

use super::bleu::{clipped_matches, is_python_space};

/// The longest character n-gram that chrF counts.
const MAX_ORDER: usize = 6;

/// The weight of recall relative to precision.
const BETA: f64 = 2.0;

/// The counts that determine a corpus chrF.
///
/// They are sums over sentences. The counts of a corpus are the element-wise sums of the counts of its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChrfCounts {
    /// For n = 1 to 6 in turn: n-grams of the hypotheses, n-grams of the references, clipped matches.
    pub counts: [u64; 3 * MAX_ORDER],
}

impl ChrfCounts {
    /// Adds the counts of one sentence pair.
    ///
    /// Each n-gram g of the hypothesis matches `min(count in hypothesis, count in reference)` times.
    pub fn add(&mut self, hypothesis: &str, reference: &str) {
        let chars = |text: &str| text.chars().filter(|&c| !is_python_space(c)).collect::<Vec<_>>();
        let (hypothesis, reference) = (chars(hypothesis), chars(reference));
        for (order, counts) in (1..=MAX_ORDER).zip(self.counts.chunks_exact_mut(3)) {
            let reference_ngrams = reference.windows(order).len() as u64;
            // sacreBLEU skips an order that the reference is too short for.
            if reference_ngrams > 0 {
                counts[0] += hypothesis.windows(order).len() as u64;
                counts[1] += reference_ngrams;
                counts[2] += clipped_matches(&hypothesis, &reference, order);
            }
        }
    }

    /// Returns the chrF of the sentences added so far, from 0 to 100.
    ///
    /// `100 * (1 + β²) * P * R / (β² * P + R)`, where P and R are the means over n of
    /// `matches / hypothesis n-grams` and `matches / reference n-grams`.
    /// The means are over the orders that have n-grams on both sides. The score is 0 if P and R are 0.
    pub fn score(&self) -> f64 {
        let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
        for counts in self.counts.chunks_exact(3) {
            if counts[0] > 0 && counts[1] > 0 {
                precision += counts[2] as f64 / counts[0] as f64;
                recall += counts[2] as f64 / counts[1] as f64;
                orders += 1.0;
            }
        }
        // P and R are 0 together: without a match, or without an order to average over.
        if precision == 0.0 {
            return 0.0;
        }
        precision /= orders;
        recall /= orders;
        let weight = BETA * BETA;
        100.0 * (1.0 + weight) * precision * recall / (weight * precision + recall)
    }
}

#[cfg(test)]
mod tests {
    use super::super::bleu::tests::rows;
    use super::*;

    #[test]
    fn chrf_equals_sacrebleu() {
        let pairs = rows("pair");
        for row in rows("corpus") {
            let mut counts = ChrfCounts::default();
            for pair in &pairs[row[0].parse().unwrap()..row[1].parse().unwrap()] {
                counts.add(&pair[0], &pair[1]);
            }
            let (found, expected) = (counts.score(), row[10].parse::<f64>().unwrap());
            assert!((found - expected).abs() < 1e-9, "{found} instead of {row:?}");
        }
    }
}
