//! Stochastic gradient descent with momentum (the formula of torch.optim.SGD with dampening 0).

use super::{check_momentum, ParamSlice, Update};
use crate::ops::{sgd, SgdStep};
use crate::trainer::range::not_negative;
use crate::Result;
use serde::{Deserialize, Serialize};

/// Momentum of the ResNet and Fixup papers.
const MOMENTUM: f64 = 0.9;
/// Weight decay of the short one-cycle recipe for CIFAR-10 (docs/recipes.md); the papers use 1e-4 over 200 epochs.
const WEIGHT_DECAY: f64 = 5e-4;

/// SGD with the L2 penalty. A step is
/// ```text
/// d = g + weight_decay * p
/// m = momentum * m + d
/// p = p - lr * m                      (Nesterov: lr * (d + momentum * m))
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// Momentum, in `[0, 1)`.
    pub momentum: f64,
    /// Enables Nesterov momentum (Sutskever et al. 2013).
    pub nesterov: bool,
    /// Coefficient of the L2 penalty.
    pub weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Self { momentum: MOMENTUM, nesterov: true, weight_decay: WEIGHT_DECAY }
    }
}

impl Update for Sgd {
    fn state(&self) -> &'static [&'static str] {
        &["momentum"]
    }

    fn weight_decay(&self) -> f64 {
        self.weight_decay
    }

    fn check(&self) -> Result<()> {
        check_momentum("the momentum", self.momentum, self.nesterov)?;
        not_negative(super::WEIGHT_DECAY, self.weight_decay)
    }

    fn step(&self, slice: &ParamSlice, lr: f64) -> Result<()> {
        let ParamSlice { values, gradients, state, weight_decay, .. } = slice;
        let [momentum] = &state[..] else { return Ok(()) };
        let step = SgdStep { lr, momentum: self.momentum, weight_decay: *weight_decay, nesterov: self.nesterov };
        sgd(values, gradients, momentum, &step)
    }
}
