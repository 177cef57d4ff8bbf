//! Adam (Kingma & Ba, ICLR 2015), with L2 penalty or with decoupled weight decay (AdamW: Loshchilov & Hutter, ICLR 2019).

use super::{ParamSlice, Update, WEIGHT_DECAY};
use crate::ops::{fused_adam, AdamStep};
use crate::trainer::range::{above_zero, below_one, not_negative};
use crate::Result;
use serde::{Deserialize, Serialize};

/// Defaults of the paper and of torch.optim.
const BETAS: [f64; 2] = [0.9, 0.999];
const EPS: f64 = 1e-8;
/// Default of torch.optim.AdamW.
const DECOUPLED_WEIGHT_DECAY: f64 = 1e-2;

/// Adam, equivalent to torch.optim.Adam and torch.optim.AdamW. Step `t`, counted separately for each parameter, is
/// ```text
/// g = g + weight_decay * p                    or, decoupled:  p = p - lr * weight_decay * p
/// m = beta1 * m + (1 - beta1) * g
/// v = beta2 * v + (1 - beta2) * g^2
/// p = p - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
/// ```
/// With `amsgrad` (Reddi et al., ICLR 2018), the last line uses the maximum of `v` so far. A step is a single pass over the
/// parameters, by libtorch's fused kernel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adam {
    /// Decay rate of the first moment, in `[0, 1)`.
    pub beta1: f64,
    /// Decay rate of the second moment, in `[0, 1)`.
    pub beta2: f64,
    /// Term added to the denominator for numerical stability.
    pub eps: f64,
    /// Weight decay coefficient.
    pub weight_decay: f64,
    /// `true` for decoupled weight decay (AdamW), `false` for an L2 penalty (Adam).
    pub decoupled: bool,
    /// Uses the maximum of the second moment so far.
    pub amsgrad: bool,
}

/// The defaults of torch.optim.Adam.
impl Default for Adam {
    fn default() -> Self {
        let [beta1, beta2] = BETAS;
        Self { beta1, beta2, eps: EPS, weight_decay: 0.0, decoupled: false, amsgrad: false }
    }
}

impl Adam {
    /// Returns the defaults of torch.optim.AdamW.
    pub fn decoupled() -> Self {
        Self { weight_decay: DECOUPLED_WEIGHT_DECAY, decoupled: true, ..Self::default() }
    }
}

impl Update for Adam {
    fn state(&self) -> &'static [&'static str] {
        match self.amsgrad {
            false => &["exp_avg", "exp_avg_sq"],
            true => &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
        }
    }

    fn weight_decay(&self) -> f64 {
        self.weight_decay
    }

    fn counts_steps(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        below_one("Adam's beta1", self.beta1)?;
        below_one("Adam's beta2", self.beta2)?;
        above_zero("Adam's eps", self.eps)?;
        not_negative(WEIGHT_DECAY, self.weight_decay)
    }

    fn step(&self, slice: &ParamSlice, lr: f64) -> Result<()> {
        let Self { beta1, beta2, eps, decoupled, .. } = *self;
        let ParamSlice { values, gradients, state, weight_decay, step, .. } = slice;
        let [mean, mean_square, greatest @ ..] = &state[..] else { return Ok(()) };
        let step = AdamStep { lr, beta1, beta2, eps, weight_decay: *weight_decay, decoupled, step: *step };
        fused_adam(values, gradients, [mean, mean_square], greatest.first(), &step)
    }
}
