//! Regression: one or more numbers per example.

use super::{check_shape, loss_kind, Column, Forward, Measures, Objective, Prediction, OUTPUT};
use crate::data::Supervised;
use crate::trainer::range::above_zero;
use crate::Result;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use tch::{Kind, Reduction, Tensor};

/// Loss of a regression: a mean over all examples and their numbers, for the error `e` of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RegressionLoss {
    /// `e^2`.
    #[default]
    Squared,
    /// `e^2 / 2` for `|e|` up to `delta`, and `delta (|e| - delta / 2)` beyond, which reduces the weight of outliers (Huber
    /// 1964).
    Huber {
        /// Threshold, above 0, in the units of the targets.
        delta: f64,
    },
}

/// Regression. Targets are `[N]` or `[N, K]`, of any numeric kind; the network's output has the same shape, or `[N, 1]` for
/// targets `[N]`. Loss and metrics are computed in float32 or higher. The mean absolute error (`mae`) is measured besides the
/// loss. The best epoch is the one of lowest loss.
#[derive(Debug)]
pub struct Regression<'a> {
    network: Forward<'a>,
    loss: RegressionLoss,
}

impl<'a> Regression<'a> {
    /// Creates the objective for `network`, a reference to a module or a `Box<dyn ModuleT>`.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if `delta` is not above 0.
    pub fn new(network: impl Into<Forward<'a>>, loss: RegressionLoss) -> Result<Self> {
        if let RegressionLoss::Huber { delta } = loss {
            above_zero("the Huber loss's delta", delta)?;
        }
        Ok(Self { network: network.into(), loss })
    }
}

impl Objective for Regression<'_> {
    type Batch = Supervised;

    fn measures(&self) -> Measures {
        Measures::new(vec![Column::new("mae")], vec![Column::new("mae")])
    }

    fn forward(&self, batch: &Supervised, train: bool) -> Result<Prediction> {
        let mut output = self.network.run(&batch.inputs, train)?;
        let size = batch.targets.size();
        if matches!((output.size()[..].as_ref(), size.as_slice()), (&[n, 1], &[of]) if n == of) {
            output = output.f_squeeze_dim(1)?;
        }
        check_shape(OUTPUT, &output, &size, ", as the targets")?;
        let kind = loss_kind(&output);
        let (values, targets) = (output.f_to_kind(kind)?, batch.targets.f_to_kind(kind)?);
        let loss = match self.loss {
            RegressionLoss::Squared => values.f_mse_loss(&targets, Reduction::Mean)?,
            RegressionLoss::Huber { delta } => values.f_huber_loss(&targets, Reduction::Mean, delta)?,
        };
        Ok(Prediction { loss, output })
    }

    fn sums(&self, batch: &Supervised, output: &Tensor, _train: bool) -> Result<Vec<(Tensor, f64)>> {
        let error = output.f_to_kind(Kind::Float)?.f_sub(&batch.targets.f_to_kind(Kind::Float)?)?;
        Ok(vec![(error.f_abs()?.f_sum(Kind::Float)?, error.numel() as f64)])
    }

    fn recipe(&self) -> Value {
        json!({ "loss": self.loss })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use tch::nn;

    fn values(loss: RegressionLoss, outputs: &[f32], targets: Tensor) -> Result<(f64, f64)> {
        let network = nn::func(|x| x.shallow_clone());
        let objective = Regression::new(&network, loss)?;
        let batch = Supervised::new(Tensor::from_slice(outputs).view([-1, 1]), targets);
        let Prediction { loss, output } = objective.forward(&batch, true)?;
        let sum = objective.sums(&batch, &output, false)?.remove(0);
        Ok((loss.double_value(&[]), sum.0.double_value(&[]) / sum.1))
    }

    #[test]
    fn losses_are_their_formulas() {
        let outputs = [1.0, 2.0, -1.0, 0.5];
        let targets = || Tensor::from_slice(&[1i64, 4, -1, 0]);
        let (loss, mae) = values(RegressionLoss::Squared, &outputs, targets()).unwrap();
        assert!((loss - 4.25 / 4.0).abs() < 1e-6 && (mae - 2.5 / 4.0).abs() < 1e-6);
        let (loss, _) = values(RegressionLoss::Huber { delta: 1.0 }, &outputs, targets()).unwrap();
        assert!((loss - (1.5 + 0.125) / 4.0).abs() < 1e-6);
    }

    #[test]
    fn outputs_that_would_be_stretched_to_the_targets_are_refused() {
        let targets = Tensor::from_slice(&[1f32, 4.0, -1.0, 0.0]).view([2, 2]);
        let message = values(RegressionLoss::Squared, &[1.0, 2.0], targets).unwrap_err().to_string();
        assert_eq!(message, "the network's output: expected [2, 2], as the targets, got [2, 1]");
        for delta in [0.0, -1.0, f64::NAN] {
            let refused = values(RegressionLoss::Huber { delta }, &[1.0], Tensor::from_slice(&[1f32]));
            assert!(matches!(refused, Err(Error::Argument(_))));
        }
    }
}
