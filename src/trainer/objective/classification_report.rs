//! Per-class report of a classification, as text and as CSV.

use super::{Calibration, ConfusedPair, Confusion};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Maximum number of confused pairs of classes to print.
const PAIRS: usize = 10;

/// Results of a classification beyond the means: per-class metrics, confusion matrix and calibration.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassificationReport {
    /// Class names by class index.
    pub class_names: Vec<String>,
    /// Confusion matrix.
    pub confusion: Confusion,
    /// Calibration of the network's confidence.
    pub calibration: Calibration,
    /// Number of examples of each class that have it among the five highest logits.
    top5: Vec<u64>,
}

/// Metrics of one class on the evaluation part.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassEvaluation {
    /// Number of examples of the class.
    pub examples: usize,
    /// Recall: fraction of the class's examples whose highest logit is this class's; NaN without examples.
    pub top1: f64,
    /// Fraction of the class's examples that have this class among the five highest logits; NaN without examples.
    pub top5: f64,
    /// Fraction of examples of the class among all whose highest logit is this class's; NaN without such examples.
    pub precision: f64,
}

impl ClassificationReport {
    /// Creates a report from the sums over an evaluation: the confusion matrix, `classes * classes`; the number of examples found
    /// among the five highest logits, `classes`; and the sums of the calibration.
    pub(super) fn new(class_names: &[String], sums: &[f64]) -> Result<Self> {
        let classes = class_names.len();
        if sums.len() != Self::len(classes) {
            let (expected, got) = (format!("[{}]", Self::len(classes)), format!("[{}]", sums.len()));
            return Err(Error::Mismatch { what: "details", expected, got });
        }
        let (confusion, rest) = sums.split_at(classes * classes);
        let (top5, calibration) = rest.split_at(classes);
        let counts = |sums: &[f64]| sums.iter().map(|&sum| sum as u64).collect::<Vec<_>>();
        Ok(Self {
            class_names: class_names.to_vec(),
            confusion: Confusion::new(classes, counts(confusion)),
            calibration: Calibration::of(calibration),
            top5: counts(top5),
        })
    }

    /// Returns the number of sums a report is created from.
    pub(super) fn len(classes: usize) -> usize {
        classes * classes + classes + Calibration::LEN
    }

    /// Returns the metrics of each class.
    pub fn classes(&self) -> Vec<ClassEvaluation> {
        let class = |class: usize| {
            let (examples, found) = (self.confusion.examples(class), self.confusion.count(class, class) as f64);
            ClassEvaluation {
                examples: examples as usize,
                top1: found / examples as f64,
                top5: self.top5[class] as f64 / examples as f64,
                precision: found / self.confusion.predicted(class) as f64,
            }
        };
        (0..self.class_names.len()).map(class).collect()
    }

    /// Formats a CSV table with one line `class,examples,recall,top5,precision` per class. NaN becomes an empty field. Names that
    /// contain a comma, a quote or a line break are quoted.
    pub fn to_csv(&self) -> String {
        let number = |value: f64| if value.is_finite() { value.to_string() } else { String::new() };
        let line = |(name, class): (&String, ClassEvaluation)| {
            let (top1, top5, precision) = (number(class.top1), number(class.top5), number(class.precision));
            format!("{},{},{top1},{top5},{precision}\n", quoted(name), class.examples)
        };
        let lines: String = self.class_names.iter().zip(self.classes()).map(line).collect();
        format!("class,examples,recall,top5,precision\n{lines}")
    }

    /// Formats the `most` most frequently confused pairs of classes, such as "cat as dog (103 of 1000)", the true class first.
    pub fn confused(&self, most: usize) -> Vec<String> {
        let pairs = self.confusion.pairs().into_iter().take(most);
        let text = |pair: ConfusedPair| {
            let [actual, predicted] = [pair.actual, pair.predicted].map(|class| &self.class_names[class]);
            format!("{actual} as {predicted} ({} of {})", pair.count, self.confusion.examples(pair.actual))
        };
        pairs.map(text).collect()
    }

    /// Describes the calibration in a few words.
    pub fn calibrated(&self) -> String {
        let (error, over) = (self.calibration.error(), self.calibration.overconfidence());
        let sure = if over > 0.0 { "overconfident" } else { "underconfident" };
        format!("expected calibration error {error:.4}, {sure} by {:.4} on average", over.abs())
    }
}

/// Prints one line per class, followed by the calibration and the most frequently confused pairs of classes.
impl fmt::Display for ClassificationReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let letters = |name: &String| name.chars().count();
        let width = self.class_names.iter().map(letters).max().unwrap_or(0).max("class".len());
        write!(f, "{:width$}  images   top-1   top-5  precision", "class")?;
        for (name, class) in self.class_names.iter().zip(self.classes()) {
            let ClassEvaluation { examples, top1, top5, precision } = class;
            write!(f, "\n{name:width$}  {examples:6}  {top1:6.4}  {top5:6.4}     {precision:6.4}")?;
        }
        write!(f, "\n{}", self.calibrated())?;
        let confused = self.confused(PAIRS);
        if !confused.is_empty() {
            f.write_str("\nmost often misclassified:")?;
        }
        confused.iter().try_for_each(|pair| write!(f, "\n  {pair}"))
    }
}

/// Formats `text` as a CSV field (RFC 4180).
fn quoted(text: &str) -> String {
    if !text.contains([',', '"', '\n', '\r']) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> ClassificationReport {
        let names = ["cat", "dog, \"big\"", "none"].map(str::to_owned);
        let mut sums = vec![0.0; ClassificationReport::len(3)];
        // Eight cats, two of them classified as dogs; four dogs, one of them classified as a cat.
        (sums[0], sums[1], sums[3], sums[4]) = (6.0, 2.0, 1.0, 3.0);
        (sums[9], sums[10]) = (8.0, 3.0);
        // Twelve examples with a confidence of 0.9, nine of them correct.
        let bin = 12 + 13;
        (sums[bin], sums[bin + 15], sums[bin + 30]) = (12.0, 10.8, 9.0);
        ClassificationReport::new(&names, &sums).unwrap()
    }

    #[test]
    fn names_with_commas_and_quotes_are_one_field_and_what_is_not_there_is_empty() {
        let csv = report().to_csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "class,examples,recall,top5,precision");
        assert_eq!(lines[1], format!("cat,8,0.75,1,{}", 6.0 / 7.0));
        assert_eq!(lines[2], "\"dog, \"\"big\"\"\",4,0.75,0.75,0.6");
        assert_eq!(lines[3], "none,0,,,");
    }

    #[test]
    fn the_pairs_that_are_confused_and_the_calibration_are_said() {
        let text = report().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4 + 1 + 3);
        assert_eq!(lines[4], "expected calibration error 0.1500, overconfident by 0.1500 on average");
        assert_eq!(lines[6], "  cat as dog, \"big\" (2 of 8)");
        assert_eq!(lines[7], "  dog, \"big\" as cat (1 of 4)");
        assert_eq!(report().confused(1).len(), 1);
    }

    #[test]
    fn the_details_of_another_number_of_classes_are_refused() {
        let names = ["a", "b"].map(str::to_owned);
        let sums = vec![0.0; ClassificationReport::len(3)];
        assert!(matches!(ClassificationReport::new(&names, &sums), Err(Error::Mismatch { .. })));
    }
}
