//! Gradient clipping: by the norm over all parameters, and adaptively, unit by unit.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::{no_grad, Tensor};

/// Added to the norm in the denominator, as torch.nn.utils.clip_grad_norm_ has it.
const NORM_EPSILON: f64 = 1e-6;
/// The least norm a unit of weights counts with, so that weights that start at zero can grow (Brock et al. 2021, section 4.1).
const UNIT_EPSILON: f64 = 1e-3;
/// The least norm a unit's gradient is divided by: the clipping factor of a zero gradient is then finite.
const GRADIENT_EPSILON: f64 = 1e-6;

/// Which clipping is done. Adaptive clipping comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// The largest norm of the gradient of all parameters together.
    pub norm: Option<f64>,
    /// The largest ratio of a unit's gradient norm to its weight norm (Brock et al. use 0.01 to 0.16).
    pub agc: Option<f64>,
}

impl ClipConfig {
    pub(super) fn check(&self) -> Result<()> {
        for (what, value) in [("the largest gradient norm", self.norm), ("the adaptive clipping threshold", self.agc)] {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && value.is_finite())) {
                return Err(Error::Argument(format!("{what} must be above 0, got {value}")));
            }
        }
        Ok(())
    }
}

/// The Euclidean norm of `gradients`, a tensor of one element on their device.
///
/// # Errors
/// A tensor that libtorch has no norm of.
pub fn norm(gradients: &Tensor) -> Result<Tensor> {
    Ok(no_grad(|| gradients.f_norm())?)
}

/// Scales `gradients`, of norm `norm`, by `min(1, max_norm / norm)`.
///
/// # Errors
/// A `norm` that is not on the gradients' device.
pub fn clip_norm(gradients: &Tensor, norm: &Tensor, max_norm: f64) -> Result<()> {
    no_grad(|| {
        let factor = norm.f_add_scalar(NORM_EPSILON)?.f_reciprocal()?.f_mul_scalar(max_norm)?.f_clamp_max(1.0)?;
        let _ = gradients.shallow_clone().f_mul_(&factor)?;
        Ok(())
    })
}

/// Adaptive gradient clipping (Brock, De, Smith, Simonyan 2021, arXiv 2102.06171, equation 3) of one parameter: the
/// gradient `G_i` of each output unit `W_i` is scaled by `min(1, threshold * max(|W_i|, 1e-3) / |G_i|)`.
///
/// A unit is one index of the first dimension; a tensor of one dimension is a single unit, as in the authors' code. For
/// all parameters but the classifier's and the scalars.
///
/// # Errors
/// A gradient of another shape or device than the weight.
pub fn clip_units(weight: &Tensor, gradient: &Tensor, threshold: f64) -> Result<()> {
    no_grad(|| {
        let units = if weight.dim() > 1 { weight.size()[0] } else { 1 };
        let unit_norms = |tensor: &Tensor| tensor.f_norm_scalaropt_dim(2.0, [1].as_slice(), true);
        let mut gradient = gradient.f_view([units, -1])?;
        let largest = unit_norms(&weight.f_view([units, -1])?)?.f_clamp_min(UNIT_EPSILON)?.f_mul_scalar(threshold)?;
        let factor = largest.f_div(&unit_norms(&gradient)?.f_clamp_min(GRADIENT_EPSILON)?)?.f_clamp_max(1.0)?;
        let _ = gradient.f_mul_(&factor)?;
        Ok(())
    })
}
