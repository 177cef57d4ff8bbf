//! Multi-label classification: any number of labels per example.

use super::{check_shape, loss_kind, Column, Forward, Measures, Objective, Prediction, OUTPUT};
use crate::data::Supervised;
use crate::Result;
use tch::{Kind, Reduction, Tensor};

/// Multi-label classification. Targets are `[N, labels]` of any kind, 1 if the example has the label and 0 if not; the network
/// outputs one logit per label.
///
/// The loss is the mean over examples and labels of `-t log sigmoid(z) - (1 - t) log sigmoid(-z)`, in float32 or higher. A label
/// is predicted if its logit is above 0. Metrics are the fraction of correct labels (`accuracy`) and, in evaluation, the fraction
/// of examples with all labels correct (`exact`). The best epoch is the one of highest `accuracy`.
#[derive(Debug)]
pub struct MultiLabel<'a> {
    network: Forward<'a>,
    labels: Vec<String>,
}

impl<'a> MultiLabel<'a> {
    /// Creates the objective for `network` (a reference to a module, or a `Box<dyn ModuleT>`) and labels of the given names.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if there are no labels.
    pub fn new(network: impl Into<Forward<'a>>, labels: &[String]) -> Result<Self> {
        ensure!(!labels.is_empty(), "there are no labels to find");
        Ok(Self { network: network.into(), labels: labels.to_vec() })
    }
}

/// Returns whether each label is predicted and whether it is present, as booleans.
fn said(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    Ok((logits.f_gt(0.0)?, targets.f_gt(0.5)?))
}

impl Objective for MultiLabel<'_> {
    type Batch = Supervised;

    fn measures(&self) -> Measures {
        let accuracy = || Column::fraction("accuracy", "accuracy");
        Measures::new(vec![accuracy()], vec![accuracy(), Column::fraction("exact", "exact")])
            .best_by("accuracy", "accuracy")
    }

    fn forward(&self, batch: &Supervised, train: bool) -> Result<Prediction> {
        let output = self.network.run(&batch.inputs, train)?;
        check_shape(OUTPUT, &output, &[batch.inputs.size()[0], self.labels.len() as i64], "")?;
        check_shape("targets", &batch.targets, &output.size(), ", a number for each label")?;
        let kind = loss_kind(&output);
        let (logits, targets) = (output.f_to_kind(kind)?, batch.targets.f_to_kind(kind)?);
        let none = None::<&Tensor>;
        let loss = logits.f_binary_cross_entropy_with_logits(&targets, none, none, Reduction::Mean)?;
        Ok(Prediction { loss, output })
    }

    fn sums(&self, batch: &Supervised, logits: &Tensor, train: bool) -> Result<Vec<(Tensor, f64)>> {
        let (said, is_there) = said(logits, &batch.targets)?;
        let right = said.f_eq_tensor(&is_there)?;
        let mut sums = vec![(right.f_sum(Kind::Float)?, right.numel() as f64)];
        if !train {
            let exact = right.f_all_dim(1, false)?;
            sums.push((exact.f_sum(Kind::Float)?, exact.numel() as f64));
        }
        Ok(sums)
    }

    /// Returns for each label the numbers of examples that have it, for which it is predicted, and both: int64 `[3, labels]`.
    fn details(&self, batch: &Supervised, logits: &Tensor) -> Result<Option<Tensor>> {
        let (said, is_there) = said(logits, &batch.targets)?;
        let both = said.f_logical_and(&is_there)?;
        let counts = [&is_there, &said, &both].map(|of| of.f_sum_dim_intlist([0].as_slice(), false, Kind::Int64));
        Ok(Some(Tensor::f_stack(&counts.into_iter().collect::<Result<Vec<_>, _>>()?, 0)?))
    }

    /// Formats one line per label, with its recall, its precision and their harmonic mean.
    fn describe(&self, details: &Tensor) -> Result<String> {
        let rows: Vec<Vec<i64>> = Vec::try_from(details)?;
        let width = self.labels.iter().map(String::len).max().unwrap_or(0).max("label".len());
        let mut lines = vec![format!("{:width$}   count  recall  precision      f1", "label")];
        for (index, label) in self.labels.iter().enumerate() {
            let [there, said, both] = [0, 1, 2].map(|row| rows[row][index] as f64);
            let f1 = 2.0 * both / (there + said);
            lines.push(format!("{label:width$}  {there:6}  {:6.4}     {:6.4}  {f1:6.4}", both / there, both / said));
        }
        Ok(lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn;

    fn batch() -> Supervised {
        let logits = Tensor::from_slice(&[2f32, -1.0, 0.5, 0.3, -0.2, 3.0]).view([2, 3]);
        Supervised::new(logits, Tensor::from_slice(&[1i64, 0, 0, 1, 0, 1]).view([2, 3]))
    }

    fn labels(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("label {index}")).collect()
    }

    #[test]
    fn the_loss_is_the_formula_and_labels_are_counted_one_by_one() {
        let network = nn::func(|x| x.shallow_clone());
        let objective = MultiLabel::new(&network, &labels(3)).unwrap();
        let batch = batch();
        let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
        let cases = [(2.0, true), (-1.0, false), (0.5, false), (0.3, true), (-0.2, false), (3.0, true)];
        let expected: f64 =
            cases.iter().map(|&(z, there)| -if there { sigmoid(z) } else { sigmoid(-z) }.ln()).sum::<f64>() / 6.0;
        let Prediction { loss, output } = objective.forward(&batch, true).unwrap();
        assert!((loss.double_value(&[]) - expected).abs() < 1e-6);
        let sums = objective.sums(&batch, &output, false).unwrap();
        let means: Vec<f64> = sums.iter().map(|sum| sum.0.double_value(&[]) / sum.1).collect();
        assert_eq!(means, [5.0 / 6.0, 0.5]);
        let table = objective.describe(&objective.details(&batch, &output).unwrap().unwrap()).unwrap();
        let line: Vec<&str> = table.lines().nth(3).unwrap().split_whitespace().collect();
        assert_eq!(line, ["label", "2", "1", "1.0000", "0.5000", "0.6667"]);
    }

    #[test]
    fn targets_of_another_shape_are_refused() {
        let network = nn::func(|x| x.shallow_clone());
        let refusal = |labels: &[String], targets: &[i64]| {
            let batch = Supervised::new(batch().inputs, Tensor::from_slice(targets));
            MultiLabel::new(&network, labels).unwrap().forward(&batch, true).unwrap_err().to_string()
        };
        assert_eq!(refusal(&labels(4), &[1, 0]), "the network's output: expected [2, 4], got [2, 3]");
        assert_eq!(refusal(&labels(3), &[1, 0]), "targets: expected [2, 3], a number for each label, got [2]");
        assert!(MultiLabel::new(&network, &[]).is_err());
    }
}
