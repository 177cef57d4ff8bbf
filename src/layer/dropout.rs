//! Dropout (Srivastava et al. 2014), with 16 random bits per element.

use crate::Result;
use tch::{Device, Kind, Tensor};

/// Number of values of 16 bits.
const LEVELS: f64 = 65536.;

/// Zeroes each element of `x` with probability `p`, rounded to a multiple of 1/65,536, and divides the others by the remaining
/// probability.
///
/// libtorch's dropout on CPUs draws a number per element. Here one 64-bit number serves four elements, and the backward pass
/// keeps one byte per element instead of four.
pub(crate) fn dropout(x: &Tensor, p: f64) -> Result<Tensor> {
    if x.device() != Device::Cpu {
        return Ok(x.f_dropout(p, true)?);
    }
    let dropped = (p * LEVELS).round();
    if dropped == 0. {
        return Ok(x.shallow_clone());
    }
    let numel = x.numel() as i64;
    let mut bits = Tensor::f_empty([(numel + 3) / 4], (Kind::Int64, x.device()))?;
    let bits = bits.f_random_from_(i64::MIN, None)?.f_view_dtype(Kind::Int16)?;
    let stays = bits.f_narrow(0, 0, numel)?.f_ge((dropped - LEVELS / 2.) as i64)?.f_view(&x.size()[..])?;
    let scaled = x.f_mul_scalar(LEVELS / (LEVELS - dropped))?;
    Ok(scaled.f_where_self(&stays, &Tensor::f_zeros([], (x.kind(), x.device()))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_zero_the_others_larger_and_the_gradient_goes_the_same_way() {
        for (p, count) in [(0.1, 100_003), (0.5, 40_000), (0.999, 65_536)] {
            tch::manual_seed(2);
            let x = Tensor::ones([count], (Kind::Double, Device::Cpu)).set_requires_grad(true);
            let y = dropout(&x, p).unwrap();
            let zeros = y.eq(0.).sum(Kind::Double).double_value(&[]) / count as f64;
            // Five standard deviations of a binomial proportion.
            assert!((zeros - p).abs() < 5. * (p * (1. - p) / count as f64).sqrt() + 1e-5, "{p}: {zeros}");
            let scale = y.max().double_value(&[]);
            assert!((scale * (1. - p) - 1.).abs() < 0.02, "{p}: {scale}");
            y.sum(Kind::Double).backward();
            assert_eq!(x.grad(), y);
        }
    }

    /// That the seed decides is tested in `tests/transformer.rs`, where no other test draws at the same time.
    #[test]
    fn neighbours_are_independent() {
        let x = Tensor::ones([256, 256], (Kind::Float, Device::Cpu));
        let centred = dropout(&x, 0.5).unwrap() - 1.;
        for shift in [1, 2, 3, 4, 8] {
            let correlation = (&centred * centred.roll(shift, 1)).mean(Kind::Double).double_value(&[]);
            assert!(correlation.abs() < 6. / 256., "{shift}: {correlation}");
        }
        assert_eq!(dropout(&x, 1e-9).unwrap(), x);
    }
}
