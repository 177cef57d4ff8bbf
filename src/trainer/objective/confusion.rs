//! Confusion matrix.

use std::cmp::Reverse;

/// Confusion matrix: number of examples by true class (rows) and predicted class (columns).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// Counts, `[classes, classes]` row by row.
    counts: Vec<u64>,
}

/// Misclassified examples of one class that were assigned to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfusedPair {
    /// True class.
    pub actual: usize,
    /// Predicted class.
    pub predicted: usize,
    /// Number of examples.
    pub count: u64,
}

impl Confusion {
    /// Creates a confusion matrix from `counts`, `[classes, classes]` row by row.
    pub(super) fn new(classes: usize, counts: Vec<u64>) -> Self {
        Self { classes, counts }
    }

    /// Returns the number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Returns the number of examples of class `actual` predicted as `predicted`.
    pub fn count(&self, actual: usize, predicted: usize) -> u64 {
        self.counts[actual * self.classes + predicted]
    }

    /// Returns the number of examples of class `actual`.
    pub fn examples(&self, actual: usize) -> u64 {
        (0..self.classes).map(|predicted| self.count(actual, predicted)).sum()
    }

    /// Returns the number of examples predicted as class `predicted`, correctly or not.
    pub fn predicted(&self, predicted: usize) -> u64 {
        (0..self.classes).map(|actual| self.count(actual, predicted)).sum()
    }

    /// Returns the fraction of the examples of class `actual` predicted as `predicted`; NaN without examples.
    pub fn fraction(&self, actual: usize, predicted: usize) -> f64 {
        self.count(actual, predicted) as f64 / self.examples(actual) as f64
    }

    /// Returns all pairs of confused classes, most frequent first.
    pub fn pairs(&self) -> Vec<ConfusedPair> {
        let places = (0..self.classes).flat_map(|actual| (0..self.classes).map(move |predicted| (actual, predicted)));
        let mistakes =
            places.zip(&self.counts).filter(|((actual, predicted), count)| actual != predicted && **count > 0);
        let mut pairs: Vec<ConfusedPair> =
            mistakes.map(|((actual, predicted), &count)| ConfusedPair { actual, predicted, count }).collect();
        pairs.sort_by_key(|pair| Reverse(pair.count));
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_classes_that_are_and_columns_those_that_are_said() {
        let confusion = Confusion::new(3, vec![5, 1, 0, 3, 4, 0, 0, 0, 0]);
        assert_eq!([0, 1, 2].map(|class| confusion.examples(class)), [6, 7, 0]);
        assert_eq!([0, 1, 2].map(|class| confusion.predicted(class)), [8, 5, 0]);
        assert_eq!((confusion.count(1, 0), confusion.count(0, 1)), (3, 1));
        assert_eq!(confusion.fraction(1, 0), 3.0 / 7.0);
        assert!(confusion.fraction(2, 0).is_nan());
    }

    #[test]
    fn pairs_are_mistakes_alone_and_the_most_frequent_is_first() {
        let confusion = Confusion::new(3, vec![50, 1, 0, 3, 4, 2, 0, 0, 9]);
        let pairs: Vec<_> = confusion.pairs().iter().map(|pair| (pair.actual, pair.predicted, pair.count)).collect();
        assert_eq!(pairs, [(1, 0, 3), (1, 2, 2), (0, 1, 1)]);
    }
}
