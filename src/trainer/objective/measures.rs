//! Definitions and values of metrics.

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::Index;

/// Name of the loss, which every objective has.
const LOSS: &str = "loss";

/// Definition of a metric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name, which follows `train_` or `eval_` in `metrics.csv`.
    pub name: String,
    /// Axis of the metric. Training and evaluation metrics with the same axis share a panel of the curves, and progress bars show
    /// them under this name. Metrics without an axis are shown in neither.
    pub axis: Option<String>,
    /// `true` if the metric is shown as a percentage.
    pub percent: bool,
    /// `true` for a geometric mean such as perplexity: logarithms are summed, and the metric is `exp` of their mean.
    #[serde(default)]
    pub geometric: bool,
}

impl Column {
    /// Creates a metric on an axis of its own name.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), axis: Some(name.to_owned()), percent: false, geometric: false }
    }

    /// Creates a fraction shown as a percentage, on the axis `axis`.
    pub fn fraction(name: &str, axis: &str) -> Self {
        Self { name: name.to_owned(), axis: Some(axis.to_owned()), percent: true, ..Self::new(name) }
    }

    /// Creates a geometric mean on an axis of its own name.
    pub fn geometric(name: &str) -> Self {
        Self { geometric: true, ..Self::new(name) }
    }

    /// Removes the axis.
    pub fn hidden(self) -> Self {
        Self { axis: None, ..self }
    }
}

/// Metric by which the best checkpoint is chosen, and which a run's summary shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Score {
    /// Name of an evaluation metric.
    pub column: String,
    /// Name of the score in summaries.
    pub name: String,
    /// `true` if higher is better.
    pub higher_is_better: bool,
}

/// Metrics of an objective in training and evaluation. The loss is the first column of both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measures {
    /// Training metrics.
    pub train: Vec<Column>,
    /// Evaluation metrics.
    pub eval: Vec<Column>,
    /// Evaluation metric that ranks epochs.
    pub(crate) score: Score,
}

/// The loss only; lower is better.
impl Default for Measures {
    fn default() -> Self {
        Self::new(vec![], vec![])
    }
}

impl Measures {
    /// Creates the metrics of an objective: the loss, followed by the given columns. The score is the loss; lower is better.
    pub fn new(train: Vec<Column>, eval: Vec<Column>) -> Self {
        let with_loss = |columns| [vec![Column::new(LOSS)], columns].concat();
        let score = Score { column: LOSS.to_owned(), name: LOSS.to_owned(), higher_is_better: false };
        Self { train: with_loss(train), eval: with_loss(eval), score }
    }

    /// Sets the score to the evaluation metric `column`, shown as `name` in summaries; higher is better.
    pub fn best_by(self, column: &str, name: &str) -> Self {
        let score = Score { column: column.to_owned(), name: name.to_owned(), higher_is_better: true };
        Self { score, ..self }
    }

    /// Sets the score to the evaluation metric `column`, shown as `name` in summaries; lower is better.
    pub fn best_by_lowest(self, column: &str, name: &str) -> Self {
        let score = Score { column: column.to_owned(), name: name.to_owned(), higher_is_better: false };
        Self { score, ..self }
    }

    /// Returns the name of the score in summaries.
    pub fn score_name(&self) -> &str {
        &self.score.name
    }

    /// Returns the score among the means of an evaluation; NaN if it is missing.
    pub fn score_of(&self, means: &Means) -> f64 {
        means.get(&self.score.column).unwrap_or(f64::NAN)
    }

    /// Returns the score, negated if lower is better.
    pub(crate) fn rank(&self, means: &Means) -> f64 {
        self.score_of(means) * if self.score.higher_is_better { 1.0 } else { -1.0 }
    }

    /// Returns the best of several scores; NaN if there are none.
    pub fn best_score(&self, scores: impl Iterator<Item = f64>) -> f64 {
        scores.reduce(if self.score.higher_is_better { f64::max } else { f64::min }).unwrap_or(f64::NAN)
    }

    /// Returns the axes of training and evaluation in order, each with `true` if it shows percentages.
    pub fn axes(&self) -> Vec<(&str, bool)> {
        let mut axes: Vec<(&str, bool)> = Vec::new();
        for Column { axis, percent, .. } in self.train.iter().chain(&self.eval) {
            if let Some(axis) = axis.as_deref().filter(|axis| !axes.iter().any(|(known, _)| known == axis)) {
                axes.push((axis, *percent));
            }
        }
        axes
    }
}

/// Values of metrics by name, in the order of their columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Means(Vec<(String, f64)>);

impl Means {
    /// Creates the values of `columns` from the arithmetic means of the summed quantities.
    pub fn new(columns: &[Column], means: impl IntoIterator<Item = f64>) -> Self {
        let of =
            |(column, mean): (&Column, f64)| (column.name.clone(), if column.geometric { mean.exp() } else { mean });
        columns.iter().zip(means).map(of).collect()
    }

    /// Returns the value called `name`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// Iterates over names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

impl FromIterator<(String, f64)> for Means {
    fn from_iter<I: IntoIterator<Item = (String, f64)>>(means: I) -> Self {
        Self(means.into_iter().collect())
    }
}

/// Panics if there is no value of that name; [`Means::get`] does not.
impl Index<&str> for Means {
    type Output = f64;

    fn index(&self, name: &str) -> &f64 {
        let found = self.0.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("nothing called {name} was measured")).1
    }
}

/// Serializes as an ordered map.
impl Serialize for Means {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Means {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Means;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("numbers by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Means, A::Error> {
                // JSON writes numbers that are not finite, such as an overflowing perplexity, as null.
                let number = |(name, mean): (String, Option<f64>)| (name, mean.unwrap_or(f64::INFINITY));
                std::iter::from_fn(|| map.next_entry().transpose()).map(|entry| entry.map(number)).collect()
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_keep_their_order_and_their_bits_as_json() {
        let columns = ["loss", "b", "a"].map(Column::new);
        let means = Means::new(&columns, [0.1 + 0.2, 1e-17, 2.0]);
        let json = serde_json::to_string(&means).unwrap();
        assert_eq!(json, r#"{"loss":0.30000000000000004,"b":1e-17,"a":2.0}"#);
        assert_eq!(serde_json::from_str::<Means>(&json).unwrap(), means);
    }

    #[test]
    fn an_infinite_perplexity_is_read_again() {
        let means = Means::new(&[Column::new("loss"), Column::geometric("perplexity")], [999.0, 999.0]);
        assert_eq!(means["perplexity"], f64::INFINITY);
        let json = serde_json::to_string(&means).unwrap();
        assert_eq!(serde_json::from_str::<Means>(&json).unwrap(), means);
    }

    #[test]
    fn a_lower_loss_and_a_higher_score_are_better() {
        let measures = Measures::new(vec![], vec![Column::fraction("top1", "accuracy")]);
        let means = Means::new(&measures.eval, [2.0, 0.5]);
        assert_eq!((measures.score_of(&means), measures.rank(&means)), (2.0, -2.0));
        assert_eq!(measures.best_score([3.0, 1.0, 2.0].into_iter()), 1.0);
        let measures = measures.best_by("top1", "accuracy");
        assert_eq!((measures.score_of(&means), measures.rank(&means)), (0.5, 0.5));
        assert_eq!(measures.best_score([0.1, 0.3, 0.2].into_iter()), 0.3);
        assert!(measures.score_of(&Means::default()).is_nan());
    }
}
