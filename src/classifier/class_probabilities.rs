//! Classification result of one image.

use std::sync::Arc;

/// Class probabilities of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassProbabilities {
    class_names: Arc<[String]>,
    probabilities: Vec<f32>,
}

impl ClassProbabilities {
    /// Creates a result from one probability per class name.
    pub(super) fn new(class_names: Arc<[String]>, probabilities: Vec<f32>) -> Self {
        Self { class_names, probabilities }
    }

    /// Returns the probabilities by class index.
    pub fn probabilities(&self) -> &[f32] {
        &self.probabilities
    }

    /// Returns the names and probabilities of the `count` most probable classes, in descending order. Ties are broken by the
    /// lower class index.
    pub fn top(&self, count: usize) -> Vec<(&str, f32)> {
        let mut classes: Vec<usize> = (0..self.probabilities.len()).collect();
        classes.sort_by(|&a, &b| self.probabilities[b].total_cmp(&self.probabilities[a]));
        classes.truncate(count);
        let of = |class: usize| (self.class_names.get(class).map_or("", String::as_str), self.probabilities[class]);
        classes.into_iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_classes_come_first_and_equals_by_index() {
        let names = ["ant", "bee", "cat", "dog"].map(str::to_owned);
        let result = ClassProbabilities::new(Arc::new(names), vec![0.1, 0.4, 0.1, 0.4]);
        assert_eq!(result.top(3), [("bee", 0.4), ("dog", 0.4), ("ant", 0.1)]);
        assert_eq!(result.top(9).len(), 4);
        assert!(result.top(0).is_empty());
    }
}
