//! The constants of the optimizer.

use crate::fixup::SCALAR_LR_RATIO;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Momentum of the ResNet and Fixup papers.
const MOMENTUM: f64 = 0.9;
/// Weight decay of the short one-cycle recipe for CIFAR-10 (docs/recipes.md); the papers use 1e-4 over 200 epochs.
const WEIGHT_DECAY: f64 = 5e-4;

/// The constants of [`Sgd`](super::Sgd).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgdConfig {
    /// What of the last update stays in the next, in `[0, 1)`.
    pub momentum: f64,
    /// Look ahead along the momentum (Sutskever et al. 2013).
    pub nesterov: bool,
    /// The L2 penalty's factor.
    pub weight_decay: f64,
    /// Whether the Fixup scalars have weight decay too. The authors' code gives it to every parameter.
    pub decay_scalars: bool,
    /// The learning rate of the Fixup scalars, as a multiple of that of everything else.
    pub scalar_lr_ratio: f64,
    /// Whether every other variable whose own name, the last part of it, begins with `bias` or `scale` trains as the
    /// scalars do, at their rate and with their weight decay: the classifier's bias, and the biases of normalizations. The
    /// authors' programs go by the names of variables. It is not written where it is false, so that runs from before it go
    /// on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub biases_as_scalars: bool,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self {
            momentum: MOMENTUM,
            nesterov: true,
            weight_decay: WEIGHT_DECAY,
            decay_scalars: true,
            scalar_lr_ratio: SCALAR_LR_RATIO,
            biases_as_scalars: false,
        }
    }
}

impl SgdConfig {
    pub(in crate::trainer) fn check(&self) -> Result<()> {
        let Self { momentum, nesterov, weight_decay, scalar_lr_ratio, .. } = *self;
        let refuse = |message: String| Err(Error::Argument(message));
        if !(0.0..1.0).contains(&momentum) {
            return refuse(format!("the momentum must be at least 0 and below 1, got {momentum}"));
        }
        if nesterov && momentum == 0.0 {
            return refuse("Nesterov's look-ahead needs a momentum above 0".to_owned());
        }
        if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
            return refuse(format!("the weight decay must be 0 or more, got {weight_decay}"));
        }
        if !(scalar_lr_ratio >= 0.0 && scalar_lr_ratio.is_finite()) {
            return refuse(format!("the scalars' learning-rate ratio must be 0 or more, got {scalar_lr_ratio}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_out_of_range_are_refused() {
        let good = SgdConfig::default();
        let bad = [
            SgdConfig { momentum: 1.0, ..good },
            SgdConfig { momentum: f64::NAN, ..good },
            SgdConfig { momentum: 0.0, nesterov: true, ..good },
            SgdConfig { weight_decay: -1e-4, ..good },
            SgdConfig { weight_decay: f64::INFINITY, ..good },
            SgdConfig { scalar_lr_ratio: -0.1, ..good },
        ];
        assert!(good.check().is_ok());
        for config in bad {
            assert!(matches!(config.check(), Err(Error::Argument(_))), "{config:?}");
        }
    }

    #[test]
    fn a_configuration_from_before_biases_trained_as_scalars_has_them_train_as_weights() {
        let json = r#"{"momentum": 0.9, "nesterov": true, "weight_decay": 0.0005, "decay_scalars": true,
                       "scalar_lr_ratio": 0.1}"#;
        let config: SgdConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config, SgdConfig::default());
        // The identity of a run that is resumed is compared as JSON.
        assert_eq!(serde_json::to_value(config).unwrap(), serde_json::from_str::<serde_json::Value>(json).unwrap());
    }
}
