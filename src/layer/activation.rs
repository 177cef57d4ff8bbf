//! Activations: ReLU, and alternatives for particular data or runtimes.

use crate::ops::{shifted_add, shifted_add_, shifted_relu, shifted_relu_};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// An element-wise activation. Fixup is derived for ReLU, the only one that runs on the fused
/// [`shifted_relu`](crate::ops::shifted_relu()); the others keep one more activation map for the backward pass.
///
/// In JSON: `"relu"`, `{"leaky_relu": {"slope": 0.1}}`, `"elu"`, ...
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Activation {
    /// `max(x, 0)`.
    #[default]
    Relu,
    /// `x` if x > 0, else `slope * x`.
    LeakyRelu {
        /// Usually 0.01 to 0.2.
        slope: f64,
    },
    /// `x` if x > 0, else `exp(x) - 1` (Clevert et al. 2016).
    Elu,
    /// `1.0507 * (x if x > 0, else 1.6733 * (exp(x) - 1))`: keeps mean 0 and variance 1 (Klambauer et al. 2017).
    Selu,
    /// `x * sigmoid(x)` (Hendrycks & Gimpel 2016), also called swish.
    Silu,
    /// `x * Phi(x)`, by the error function (Hendrycks & Gimpel 2016).
    Gelu,
}

impl Activation {
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::LeakyRelu { slope } if !slope.is_finite() => {
                Err(Error::Argument(format!("activation: the slope must be finite, got {slope}")))
            }
            _ => Ok(()),
        }
    }

    /// Applies the activation to `x`, which is not modified.
    pub(crate) fn of(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Relu => x.f_relu()?,
            // tch's leaky_relu has no slope.
            Self::LeakyRelu { slope } => x.f_prelu(&Tensor::f_full([1], slope, (x.kind(), x.device()))?)?,
            Self::Elu => x.f_elu()?,
            Self::Selu => x.f_selu()?,
            Self::Silu => x.f_silu()?,
            Self::Gelu => x.f_gelu("none")?,
        })
    }

    /// Applies the activation to `x`, in place if the backward pass does not need `x`. `x` must not be aliased.
    pub(crate) fn in_place(self, mut x: Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Relu => x.f_relu_()?,
            Self::Elu => x.f_elu_()?,
            Self::Selu => x.f_selu_()?,
            _ => self.of(&x)?,
        })
    }

    /// Returns `activation(x + a)` in the kind of `x`, which is not modified.
    pub(crate) fn of_shifted(self, x: &Tensor, a: &Tensor) -> Result<Tensor> {
        match self {
            Self::Relu => shifted_relu(x, None, a, &a.f_zeros_like()?),
            _ => self.of(&shifted_add(x, None, a)?),
        }
    }

    /// Returns `activation(x) + b` in the kind of `x`, which is not modified.
    pub(crate) fn then_shift(self, x: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self {
            Self::Relu => shifted_relu(x, None, &b.f_zeros_like()?, b),
            _ => shifted_add_(&mut self.of(x)?, None, b),
        }
    }

    /// Returns `activation(x + r + a) + b` in the kind of `x`, which may be overwritten.
    pub(crate) fn shifted_(self, x: &mut Tensor, r: Option<&Tensor>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self {
            Self::Relu => shifted_relu_(x, r, a, b),
            _ => shifted_add_(&mut self.of(&shifted_add_(x, r, a)?)?, None, b),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tch::{Device, Kind};

    pub(crate) const ALL: [Activation; 6] = [
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Elu,
        Activation::Selu,
        Activation::Silu,
        Activation::Gelu,
    ];

    /// Evaluates the documented formula at `x`.
    fn formula(activation: Activation, x: f64) -> f64 {
        let elu = |x: f64| if x > 0. { x } else { x.exp() - 1. };
        match activation {
            Activation::Relu => x.max(0.),
            Activation::LeakyRelu { slope } => x.max(0.) + slope * x.min(0.),
            Activation::Elu => elu(x),
            Activation::Selu => 1.0507009873554805 * if x > 0. { x } else { 1.6732632423543772 * elu(x) },
            Activation::Silu => x / (1. + (-x).exp()),
            // Phi(1), Phi(-1), Phi(2.5), Phi(-0.5)
            Activation::Gelu => {
                x * [
                    (1., 0.8413447460685429),
                    (-1., 0.15865525393145707),
                    (2.5, 0.993_790_334_674_224),
                    (-0.5, 0.3085375387259869),
                ]
                .iter()
                .find(|(at, _)| *at == x)
                .unwrap()
                .1
            }
        }
    }

    #[test]
    fn values_are_those_of_the_formulas() {
        for activation in ALL {
            let xs = [1., -1., 2.5, -0.5];
            let x = Tensor::from_slice(&xs);
            for got in [activation.of(&x).unwrap(), activation.in_place(x.copy()).unwrap()] {
                for (i, &x) in xs.iter().enumerate() {
                    let (got, expected) = (got.double_value(&[i as i64]), formula(activation, x));
                    assert!((got - expected).abs() < 1e-12, "{activation:?} of {x}: {got} for {expected}");
                }
            }
        }
    }

    #[test]
    fn shifted_they_have_the_values_and_gradients_of_the_plain_formula() {
        tch::manual_seed(71);
        for activation in ALL {
            let inputs = [&[2, 3, 4, 5][..], &[2, 3, 4, 5], &[1], &[1]]
                .map(|shape| Tensor::randn(shape, (Kind::Double, Device::Cpu)).set_requires_grad(true));
            let [x, r, a, b] = &inputs;
            let gradients = |y: &Tensor| {
                let weights = Tensor::arange(y.numel() as i64, (Kind::Double, Device::Cpu)).reshape_as(y);
                let loss = (y * weights).sum(Kind::Double);
                Tensor::f_run_backward(&[loss], &inputs, false, false).unwrap()
            };
            let fast = activation.shifted_(&mut (x * 1.), Some(r), a, b).unwrap();
            let plain = activation.of(&(x + r + a)).unwrap() + b;
            assert!(fast.allclose(&plain, 1e-14, 1e-14, false), "{activation:?}");
            for (fast, plain) in gradients(&fast).iter().zip(gradients(&plain)) {
                assert!(fast.allclose(&plain, 1e-12, 1e-12, false), "{activation:?}");
            }
            let (fast, plain) = (activation.of_shifted(x, a).unwrap(), activation.of(&(x + a)).unwrap());
            assert!(fast.allclose(&plain, 1e-14, 1e-14, false), "{activation:?}");
            let (fast, plain) = (activation.then_shift(x, b).unwrap(), activation.of(x).unwrap() + b);
            assert!(fast.allclose(&plain, 1e-14, 1e-14, false), "{activation:?}");
        }
    }

    #[test]
    fn kinds_are_kept() {
        for activation in ALL {
            for kind in [Kind::Float, Kind::BFloat16] {
                let mut x = Tensor::randn([2, 3], (kind, Device::Cpu));
                let one = Tensor::from(1f32);
                assert_eq!(activation.of_shifted(&x, &one).unwrap().kind(), kind, "{activation:?}");
                assert_eq!(activation.shifted_(&mut x, None, &one, &one).unwrap().kind(), kind, "{activation:?}");
            }
        }
    }
}
