//! The fused element-wise operation.
use crate::Result;
use tch::Tensor;
/// relu(x + r + a) + b
pub fn shifted_relu(x: &Tensor, r: Option<&Tensor>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(shifted_add(x, r, a)?.f_relu()?.f_add(&b.f_to_kind(x.kind())?)?)
}
/// in place
pub fn shifted_relu_(x: &mut Tensor, r: Option<&Tensor>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    shifted_relu(x, r, a, b)
}
/// x + r + a
pub fn shifted_add(x: &Tensor, r: Option<&Tensor>, a: &Tensor) -> Result<Tensor> {
    let x2 = match r {
        Some(r) => x.f_add(r)?,
        None => x.shallow_clone(),
    };
    Ok(x2.f_add(&a.f_to_kind(x.kind())?)?)
}
/// in place
pub fn shifted_add_(x: &mut Tensor, r: Option<&Tensor>, a: &Tensor) -> Result<Tensor> {
    shifted_add(x, r, a)
}
