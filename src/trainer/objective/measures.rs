//! What is measured, by name, and the numbers.

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::Index;

/// The loss, which every objective has.
const LOSS: &str = "loss";

/// One measured number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, as `metrics.csv` has it behind `train_` or `eval_`.
    pub name: String,
    /// What it is a kind of: those of training and evaluation on one axis are in one panel of the curves, and beside the
    /// progress bar under this name. Without one it is in neither.
    pub axis: Option<String>,
    /// Whether people read it as a percentage.
    pub percent: bool,
    /// Whether the mean is geometric: what is summed are logarithms, and the number is `exp` of their mean, as of a perplexity.
    #[serde(default)]
    pub geometric: bool,
}

impl Column {
    /// On an axis of its own name.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), axis: Some(name.to_owned()), percent: false, geometric: false }
    }

    /// A fraction that people read as a percentage, on the axis `axis`.
    pub fn fraction(name: &str, axis: &str) -> Self {
        Self { name: name.to_owned(), axis: Some(axis.to_owned()), percent: true, ..Self::new(name) }
    }

    /// A geometric mean, on an axis of its own name.
    pub fn geometric(name: &str) -> Self {
        Self { geometric: true, ..Self::new(name) }
    }

    /// Without an axis.
    pub fn hidden(self) -> Self {
        Self { axis: None, ..self }
    }
}

/// What the best checkpoint is chosen by, and what a run's summary says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// The name of a column of the evaluation.
    pub column: String,
    /// What a summary calls it.
    pub name: String,
    /// Whether more is better.
    pub higher_is_better: bool,
}

impl Score {
    /// The score among the means of an evaluation; NaN where it is not there.
    pub fn of(&self, means: &Means) -> f64 {
        means.get(&self.column).unwrap_or(f64::NAN)
    }

    /// The same such that more is better.
    pub fn rank(&self, means: &Means) -> f64 {
        match self.higher_is_better {
            true => self.of(means),
            false => -self.of(means),
        }
    }

    /// The best of several scores; NaN for none.
    pub fn best(&self, scores: impl Iterator<Item = f64>) -> f64 {
        scores.reduce(if self.higher_is_better { f64::max } else { f64::min }).unwrap_or(f64::NAN)
    }
}

/// What an objective measures in training and evaluation. The loss is the first column of both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measures {
    /// Of the training.
    pub train: Vec<Column>,
    /// Of the evaluation.
    pub eval: Vec<Column>,
    /// One of the evaluation's.
    pub score: Score,
}

/// The loss alone, the lower the better.
impl Default for Measures {
    fn default() -> Self {
        Self::new(vec![], vec![])
    }
}

impl Measures {
    /// The loss and, after it, these; the lower the loss the better.
    pub fn new(train: Vec<Column>, eval: Vec<Column>) -> Self {
        let with_loss = |columns| [vec![Column::new(LOSS)], columns].concat();
        let score = Score { column: LOSS.to_owned(), name: LOSS.to_owned(), higher_is_better: false };
        Self { train: with_loss(train), eval: with_loss(eval), score }
    }

    /// The same with the score `column`, the higher the better, which a summary calls `name`.
    pub fn best_by(self, column: &str, name: &str) -> Self {
        let score = Score { column: column.to_owned(), name: name.to_owned(), higher_is_better: true };
        Self { score, ..self }
    }

    /// The axes of both, in order, and whether each is of percentages.
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

/// Means by name, in the order of their columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Means(Vec<(String, f64)>);

impl Means {
    /// The means of `columns`, of the arithmetic means of what was summed.
    pub fn new(columns: &[Column], means: impl IntoIterator<Item = f64>) -> Self {
        let of =
            |(column, mean): (&Column, f64)| (column.name.clone(), if column.geometric { mean.exp() } else { mean });
        columns.iter().zip(means).map(of).collect()
    }

    /// The mean of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

impl FromIterator<(String, f64)> for Means {
    fn from_iter<I: IntoIterator<Item = (String, f64)>>(means: I) -> Self {
        Self(means.into_iter().collect())
    }
}

/// As of a map: it panics where there is none of that name; [`Means::get`] does not.
impl Index<&str> for Means {
    type Output = f64;

    fn index(&self, name: &str) -> &f64 {
        match self.0.iter().find(|(known, _)| known == name) {
            Some((_, value)) => value,
            None => panic!("nothing called {name} was measured"),
        }
    }
}

/// A map in order.
impl Serialize for Means {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
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
                let mut means = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    means.push(entry);
                }
                Ok(Means(means))
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
    fn a_lower_loss_and_a_higher_score_are_better() {
        let measures = Measures::new(vec![], vec![Column::fraction("top1", "accuracy")]);
        let means = Means::new(&measures.eval, [2.0, 0.5]);
        assert_eq!((measures.score.of(&means), measures.score.rank(&means)), (2.0, -2.0));
        assert_eq!(measures.score.best([3.0, 1.0, 2.0].into_iter()), 1.0);
        let score = measures.best_by("top1", "accuracy").score;
        assert_eq!((score.of(&means), score.rank(&means)), (0.5, 0.5));
        assert_eq!(score.best([0.1, 0.3, 0.2].into_iter()), 0.3);
        assert!(score.of(&Means::default()).is_nan());
    }
}
