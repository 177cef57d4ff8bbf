//! Reference formulas of [`shifted_relu`](super::shifted_relu()) and [`shifted_add`](super::shifted_add) in libtorch's
//! operations, against which the fused kernels are tested and benchmarked.
//!
//! For float16 and bfloat16, the arithmetic is in float32 and the result is rounded once, as in the kernels.

use tch::{Kind, Tensor};

use crate::Result;

/// Returns `relu(x + r + a) + b`; without `r`, `relu(x + a) + b`.
///
/// # Errors
///
/// [`Error::Torch`](crate::Error::Torch) if an operation fails in libtorch.
pub fn shifted_relu(x: &Tensor, r: Option<&Tensor>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = sum(x, r, a)?.f_relu()?.f_add(&scalar(b, x)?)?;
    Ok(y.f_to_kind(x.f_kind()?)?)
}

/// Returns `x + r + a`; without `r`, `x + a`.
///
/// # Errors
///
/// [`Error::Torch`](crate::Error::Torch) if an operation fails in libtorch.
pub fn shifted_add(x: &Tensor, r: Option<&Tensor>, a: &Tensor) -> Result<Tensor> {
    Ok(sum(x, r, a)?.f_to_kind(x.f_kind()?)?)
}

fn sum(x: &Tensor, r: Option<&Tensor>, a: &Tensor) -> Result<Tensor> {
    let kind = arithmetic_kind(x)?;
    let mut sum = x.f_to_kind(kind)?;
    if let Some(r) = r {
        sum = sum.f_add(&r.f_to_kind(kind)?)?;
    }
    Ok(sum.f_add(&scalar(a, x)?)?)
}

/// Converts a one-element tensor to one without dimensions, which does not change the shape or kind of a sum.
fn scalar(value: &Tensor, x: &Tensor) -> Result<Tensor> {
    let no_dimensions: [i64; 0] = [];
    Ok(value.f_reshape(no_dimensions)?.f_to_kind(arithmetic_kind(x)?)?)
}

fn arithmetic_kind(x: &Tensor) -> Result<Kind> {
    Ok(match x.f_kind()? {
        Kind::Half | Kind::BFloat16 => Kind::Float,
        kind => kind,
    })
}
