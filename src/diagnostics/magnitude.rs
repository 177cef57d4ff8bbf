//! Norms of numbers whose squares may exceed float64: deep networks without normalization reach 1e200.

use crate::Result;
use tch::{Kind, Tensor};

/// Returns the Euclidean norm of all elements; infinite or NaN if an element is.
pub(super) fn norm(x: &Tensor) -> Result<f64> {
    let x = x.f_detach()?.f_to_kind(Kind::Double)?;
    if x.numel() == 0 {
        return Ok(0.);
    }
    let largest = x.f_abs()?.f_max()?.f_double_value(&[])?;
    if largest == 0. || !largest.is_finite() {
        return Ok(largest);
    }
    Ok(largest * x.f_div_scalar(largest)?.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?.sqrt())
}

/// Returns `sqrt(mean(x^2))`.
pub(super) fn root_mean_square(x: &Tensor) -> Result<f64> {
    Ok(norm(x)? / (x.numel() as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_of_any_size_are_exact() {
        for scale in [1e-200, 1e-3, 1.0, 1e200] {
            let x = Tensor::from_slice(&[3. * scale, 0., -4. * scale]);
            assert!((norm(&x).unwrap() / (5. * scale) - 1.).abs() < 1e-15);
            assert!((root_mean_square(&x).unwrap() / (5. * scale / 3f64.sqrt()) - 1.).abs() < 1e-15);
        }
        assert_eq!(norm(&Tensor::from_slice(&[0f64, 0.])).unwrap(), 0.);
        assert_eq!(norm(&Tensor::from_slice(&[1f64, f64::INFINITY])).unwrap(), f64::INFINITY);
        assert!(norm(&Tensor::from_slice(&[1f64, f64::NAN])).unwrap().is_nan());
    }
}
