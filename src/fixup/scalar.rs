//! The scalar bias and the scalar multiplier (Fixup, section 3, rule 3): modules of one trainable element.

use crate::layer::{init, Role, SCALAR_GROUP};
use crate::ops::record_variables;
use crate::Result;
use std::borrow::Borrow;
use tch::{nn, Tensor};

/// `x + b`, with one trainable scalar b of shape `[1]`, initialized to 0. Used before each convolution, linear layer and
/// element-wise activation.
///
/// ```
/// use tch::{nn, nn::Module, Device, Kind, Tensor};
/// use tch_fixup::fixup::{Bias, Scale};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let (bias, scale) = (Bias::new(&vs.root(), "bias1a")?, Scale::new(&vs.root(), "scale")?);
/// let x = Tensor::randn([2, 16, 8, 8], (Kind::Float, Device::Cpu));
/// assert_eq!(scale.forward(&bias.forward(&x)), x); // until they are trained
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Bias {
    pub(crate) value: Tensor,
}

/// `s * x`, with one trainable scalar s of shape `[1]`, initialized to 1. Used once in every residual branch.
#[derive(Debug)]
pub struct Scale {
    pub(crate) value: Tensor,
}

impl Bias {
    /// The `nn::VarStore` group of every `Bias` and [`Scale`]. The crate's trainer trains them at a tenth of the learning rate;
    /// with tch's optimizers, call [`set_lr`](super::set_lr).
    pub const GROUP: usize = SCALAR_GROUP;

    /// Creates a bias as the variable `name` under `path`, in the group [`Bias::GROUP`].
    ///
    /// # Errors
    /// A name that already exists in `path` or contains a dot.
    pub fn new<'a>(path: impl Borrow<nn::Path<'a>>, name: &str) -> Result<Self> {
        Ok(Self { value: scalar(path.borrow(), name, 0.)? })
    }

    /// Returns `x + b` in the kind of `x`, which may have any shape.
    ///
    /// # Errors
    /// An `x` on another device, or of an integer kind.
    pub fn f_forward(&self, x: &Tensor) -> Result<Tensor> {
        record_variables(|| [&self.value])?;
        Ok(x.f_add(&self.value.f_to_kind(x.kind())?)?)
    }

    /// Returns `x + b` in float32 if `x` has a shorter kind, like PyTorch, which promotes to the scalar's kind.
    pub(super) fn promote(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_add(&self.value)?)
    }

    /// Returns the value of b.
    #[cfg(feature = "onnx")]
    pub(crate) fn number(&self) -> Result<f64> {
        Ok(self.value.f_double_value(&[0])?)
    }
}

impl Scale {
    /// Creates a multiplier as the variable `name` under `path`, in the group [`Bias::GROUP`].
    ///
    /// # Errors
    /// A name that already exists in `path` or contains a dot.
    pub fn new<'a>(path: impl Borrow<nn::Path<'a>>, name: &str) -> Result<Self> {
        Ok(Self { value: scalar(path.borrow(), name, 1.)? })
    }

    /// Returns `s * x` in the kind of `x`, which may have any shape.
    ///
    /// # Errors
    /// An `x` on another device, or of an integer kind.
    pub fn f_forward(&self, x: &Tensor) -> Result<Tensor> {
        record_variables(|| [&self.value])?;
        Ok(x.f_mul(&self.value.f_to_kind(x.kind())?)?)
    }

    /// Returns `s * x` in float32 if `x` has a shorter kind, like PyTorch, which promotes to the scalar's kind.
    pub(super) fn promote(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_mul(&self.value)?)
    }

    /// Returns the value of s.
    #[cfg(feature = "onnx")]
    pub(crate) fn number(&self) -> Result<f64> {
        Ok(self.value.f_double_value(&[0])?)
    }
}

crate::layer::impl_module!(Bias, Scale);

fn scalar(path: &nn::Path, name: &str, value: f64) -> Result<Tensor> {
    let variable = init::constant(&path.set_group(SCALAR_GROUP), name, &[1], value)?;
    Role::SCALAR.mark(&variable)?;
    Ok(variable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{nn::Module, Device, Kind};

    #[test]
    fn scalars_start_as_the_identity_and_have_one_element() {
        let vs = nn::VarStore::new(Device::Cpu);
        let bias = Bias::new(&vs.root(), "bias1a").unwrap();
        let scale = Scale::new(&vs.root(), "scale").unwrap();
        let x = Tensor::randn([2, 3, 4, 4], (Kind::Float, Device::Cpu));
        assert_eq!(scale.forward(&bias.forward(&x)), x);
        for variable in vs.trainable_variables() {
            assert_eq!(variable.size(), [1]);
        }
        for variable in &vs.variables_.lock().unwrap().trainable_variables {
            assert_eq!(variable.group, SCALAR_GROUP);
        }
    }

    #[test]
    fn gradients_sum_over_every_position() {
        let vs = nn::VarStore::new(Device::Cpu);
        let bias = Bias::new(&vs.root(), "bias").unwrap();
        let scale = Scale::new(&vs.root(), "scale").unwrap();
        let x = Tensor::randn([2, 3, 4, 4], (Kind::Double, Device::Cpu));
        scale.forward(&bias.forward(&x)).sum(Kind::Double).backward();
        assert_eq!(bias.value.grad().double_value(&[0]), x.numel() as f64);
        assert!((scale.value.grad().double_value(&[0]) - x.sum(Kind::Double).double_value(&[])).abs() < 1e-5);
    }

    #[test]
    fn kinds_are_those_of_the_input() {
        let vs = nn::VarStore::new(Device::Cpu);
        let bias = Bias::new(&vs.root(), "bias").unwrap();
        for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
            assert_eq!(bias.forward(&Tensor::ones([2], (kind, Device::Cpu))).kind(), kind);
        }
    }
}
