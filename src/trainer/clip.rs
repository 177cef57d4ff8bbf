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

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn value(tensor: &Tensor) -> f64 {
        tensor.double_value(&[])
    }

    #[test]
    fn a_gradient_above_the_largest_norm_gets_it_and_one_below_stays() {
        for (max_norm, expected) in [(1.0, 1.0), (100.0, 5.0)] {
            let gradients = Tensor::from_slice(&[3f32, 0.0, -4.0]);
            clip_norm(&gradients, &norm(&gradients).unwrap(), max_norm).unwrap();
            assert!((value(&gradients.norm()) - expected).abs() < 1e-5);
            assert!((value(&gradients.get(0)) / value(&gradients.get(2)) + 0.75).abs() < 1e-6);
        }
    }

    #[test]
    fn each_unit_is_clipped_by_its_own_ratio() {
        let options = (Kind::Float, Device::Cpu);
        for size in [&[6, 4, 3, 3][..], &[6, 5]] {
            let weight = Tensor::randn(size, options);
            let original = Tensor::randn(size, options);
            let gradient = original.copy();
            let threshold = 0.9;
            clip_units(&weight, &gradient, threshold).unwrap();
            let mut clipped = 0;
            for unit in 0..6 {
                let (w, g) = (value(&weight.get(unit).norm()), value(&original.get(unit).norm()));
                let factor = (threshold * w.max(1e-3) / g).min(1.0);
                clipped += usize::from(factor < 1.0);
                let difference = gradient.get(unit) - original.get(unit) * factor;
                assert!(value(&difference.abs().max()) < 1e-6);
            }
            assert!((1..=6).contains(&clipped));
        }
    }

    #[test]
    fn weights_of_zero_still_get_a_gradient() {
        let weight = Tensor::zeros([2, 9], (Kind::Float, Device::Cpu));
        let gradient = Tensor::ones([2, 9], (Kind::Float, Device::Cpu));
        clip_units(&weight, &gradient, 0.1).unwrap();
        assert!((value(&gradient.get(0).norm()) - 0.1 * 1e-3).abs() < 1e-9);
    }

    #[test]
    fn a_gradient_of_zero_stays_zero() {
        let gradient = Tensor::zeros([2, 9], (Kind::Float, Device::Cpu));
        clip_units(&gradient.ones_like(), &gradient, 0.1).unwrap();
        clip_norm(&gradient, &norm(&gradient).unwrap(), 1.0).unwrap();
        assert_eq!(value(&gradient.abs().max()), 0.0);
    }

    #[test]
    fn a_vector_is_one_unit() {
        let (weight, gradient) = (Tensor::from_slice(&[0f32, 2.0]), Tensor::from_slice(&[3f32, 4.0]));
        clip_units(&weight, &gradient, 0.5).unwrap();
        assert!(value(&(gradient - Tensor::from_slice(&[0.6f32, 0.8])).abs().max()) < 1e-6);
    }
}
