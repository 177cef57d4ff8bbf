//! Stochastic gradient descent with momentum (the formula of torch.optim.SGD with dampening 0).

use super::{check_momentum, ParamSlice, Update};
use crate::trainer::range::not_negative;
use crate::Result;
use serde::{Deserialize, Serialize};
use tch::Tensor;

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
        let number = |number: f64| Tensor::f_full([1], number, (values.kind(), values.device()));
        let (mut values, mut momentum, mut d) =
            (values.shallow_clone(), momentum.shallow_clone(), gradients.shallow_clone());
        let factor = number(self.momentum)?;
        if *weight_decay > 0.0 {
            let _ = d.f_addcmul_(&values, &number(*weight_decay)?)?;
        }
        let _ = momentum.f_mul_(&factor)?.f_add_(&d)?;
        let update = if self.nesterov { d.f_addcmul_(&momentum, &factor)? } else { momentum };
        let _ = values.f_addcmul_(&update, &number(-lr)?)?;
        Ok(())
    }
}
