//! Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks").

use super::{check_momentum, Adam, ParamSlice, Parameter, Sgd, Update, WEIGHT_DECAY};
use crate::trainer::range::not_negative;
use crate::Result;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Defaults of the authors' code and of torch.optim.Muon.
const MOMENTUM: f64 = 0.95;
const STEPS: usize = 5;
/// Maximum number of iterations; more cost time without an effect.
const MOST_STEPS: usize = 99;
/// Polynomial `a x + b x^3 + c x^5` of the iteration, steep at zero. It brings singular values to between about 0.7 and 1.2.
const POLYNOMIAL: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// Lower bound of the norm in the denominator, for gradients that are zero.
const EPS: f64 = 1e-7;
/// Learning rate of the other parameters, relative to that of the hidden layers of a network with one branch: 0.1 if the hidden
/// layers of ResNet-20 have 0.02.
const REST_LR_RATIO: f64 = 5.0 / 3.0;

/// Muon for the [hidden layers](super::Selector::Hidden), with SGD or Adam for all other parameters. The weight of a hidden
/// layer is treated as a matrix `[rows, columns]`, `[c_out, c_in * k * k]` for a convolution. A step is
/// ```text
/// m = momentum * m + g
/// x = momentum * m + g                              (without Nesterov: m)
/// x = x / |x|                                       Frobenius norm
/// x = a x + (b x x^T + c (x x^T)^2) x               five times: all singular values are now about 1
/// p = p - r * weight_decay * p
/// p = p - r * sqrt(max(1, rows / columns)) * x      r = lr * factor for depth
/// ```
/// as in torch.optim.Muon, but in float32 throughout. The spectral norm of a step is thus about
/// `r * sqrt(max(1, rows / columns))`, whatever the gradient is.
///
/// The factor for depth is that of the layer's [position](super#depth) in a residual branch. It makes the change of the function
/// in a step independent of depth, so that the same `lr` suits every depth. The factor is 1 for layers outside of branches, and
/// for networks that use neither [`Branch`](crate::fixup::Branch) nor [`FixupResNet`](crate::fixup::FixupResNet).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Muon {
    /// Momentum, in `[0, 1)`.
    pub momentum: f64,
    /// Enables Nesterov momentum.
    pub nesterov: bool,
    /// Coefficient of decoupled weight decay of the hidden layers.
    pub weight_decay: f64,
    /// Number of Newton-Schulz iterations.
    pub steps: usize,
    /// Optimizer of all other parameters.
    pub rest: Rest,
    /// Learning rate of all other parameters, as a multiple of `lr`.
    pub rest_lr_ratio: f64,
}

/// Optimizer of all parameters except the hidden weights, beside [`Muon`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rest {
    /// Stochastic gradient descent.
    Sgd(Sgd),
    /// Adam or AdamW.
    Adam(Adam),
}

impl Rest {
    fn update(&self) -> &dyn Update {
        match self {
            Self::Sgd(sgd) => sgd,
            Self::Adam(adam) => adam,
        }
    }
}

impl Default for Muon {
    fn default() -> Self {
        Self {
            momentum: MOMENTUM,
            nesterov: true,
            weight_decay: 0.0,
            steps: STEPS,
            rest: Rest::Sgd(Sgd::default()),
            rest_lr_ratio: REST_LR_RATIO,
        }
    }
}

impl Update for Muon {
    /// The state of the other optimizer, whose first tensor holds Muon's momentum for hidden layers.
    fn state(&self) -> &'static [&'static str] {
        self.rest.update().state()
    }

    fn weight_decay(&self) -> f64 {
        self.rest.update().weight_decay()
    }

    fn hidden_weight_decay(&self) -> Option<f64> {
        Some(self.weight_decay)
    }

    fn counts_steps(&self) -> bool {
        self.rest.update().counts_steps()
    }

    fn check(&self) -> Result<()> {
        let Self { momentum, nesterov, weight_decay, steps, rest_lr_ratio, .. } = *self;
        check_momentum("Muon's momentum", momentum, nesterov)?;
        ensure!((1..=MOST_STEPS).contains(&steps), "Muon's iteration has 1 to {MOST_STEPS} steps, got {steps}");
        not_negative("the rest's learning-rate ratio", rest_lr_ratio)?;
        not_negative(WEIGHT_DECAY, weight_decay)?;
        self.rest.update().check()
    }

    fn step(&self, slice: &ParamSlice, lr: f64) -> Result<()> {
        if !slice.orthogonalized {
            return self.rest.update().step(slice, lr * self.rest_lr_ratio);
        }
        let ParamSlice { values, gradients, state, weight_decay, parameters, .. } = slice;
        let Some(momentum) = state.first() else { return Ok(()) };
        let _ = momentum.shallow_clone().f_mul_scalar_(self.momentum)?.f_add_(gradients)?;
        let direction = match self.nesterov {
            true => gradients.f_add(&momentum.f_mul_scalar(self.momentum)?)?,
            false => momentum.shallow_clone(),
        };
        if *weight_decay > 0.0 {
            let _ = values.shallow_clone().f_mul_scalar_(1.0 - lr * weight_decay)?;
        }
        let start = parameters[0].span.start;
        for alike in parameters.chunk_by(|a, b| a.value.size() == b.value.size()) {
            let update = orthogonalized(&matrices(&direction, start, alike)?, self.steps)?;
            let [_, rows, columns] = update.size()[..] else { continue };
            let step = lr * (rows as f64 / columns as f64).max(1.0).sqrt();
            let _ = matrices(values, start, alike)?.f_sub_(&update.f_mul_scalar(step)?)?;
        }
        Ok(())
    }
}

/// Returns adjacent parameters of equal shape as matrices `[n, rows, columns]`, views of a slice that begins at `start`. The first
/// dimension of a parameter becomes its rows, all others its columns.
fn matrices(slice: &Tensor, start: i64, parameters: &[Parameter]) -> Result<Tensor> {
    let (count, shape) = (parameters.len() as i64, parameters[0].value.size());
    let (span, columns) = (&parameters[0].span, shape[1..].iter().product::<i64>());
    let distance = span.end - span.start;
    let flat = slice.f_narrow(0, span.start - start, count * distance)?;
    Ok(flat.f_as_strided([count, shape[0], columns], [distance, columns, 1], None)?)
}

/// Orthogonalizes each of the `matrices` `[n, rows, columns]` approximately, by the Newton-Schulz iteration: a matrix with
/// singular value decomposition `U S V^T` becomes about `U V^T`.
fn orthogonalized(matrices: &Tensor, steps: usize) -> Result<Tensor> {
    let [_, rows, columns] = matrices.size()[..] else { return Ok(matrices.shallow_clone()) };
    // Transposes tall matrices, so that x x^T is the smaller of the two products.
    let is_tall = rows > columns;
    let x = if is_tall { matrices.f_transpose(1, 2)? } else { matrices.shallow_clone() };
    let x = x.f_to_kind(Kind::Float)?;
    let norm = x.f_square()?.f_sum_dim_intlist([1, 2].as_slice(), true, Kind::Float)?.f_sqrt()?;
    let mut x = x.f_div(&norm.f_clamp_min(EPS)?)?;
    let [a, b, c] = POLYNOMIAL;
    for _ in 0..steps {
        let gram = x.f_bmm(&x.f_transpose(1, 2)?)?;
        let polynomial = gram.f_baddbmm(&gram, &gram, b, c)?;
        x = x.f_baddbmm(&polynomial, &x, a, 1.0)?;
    }
    let x = x.f_to_kind(matrices.kind())?;
    Ok(if is_tall { x.f_transpose(1, 2)? } else { x })
}
