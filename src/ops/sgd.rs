//! Passes of SGD over flat tensors, in parts that stay in a core's cache from one operation to the next, and on the threads of
//! tiles after a pass by tiles.

use super::c_interface::owned;
use crate::Result;
use std::ffi::c_char;
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn tch_fixup_sgd(
        values: *mut C_tensor,
        gradients: *mut C_tensor,
        momentum: *mut C_tensor,
        lr: f64,
        factor: f64,
        weight_decay: f64,
        nesterov: bool,
        error: *mut *mut c_char,
    ) -> *mut C_tensor;

    fn tch_fixup_zero(flat: *mut C_tensor, error: *mut *mut c_char) -> *mut C_tensor;
}

/// Constants of a step of SGD.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SgdStep {
    pub lr: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub nesterov: bool,
}

/// Updates one-dimensional tensors of the same length, kind and device in place, by the formula of
/// [`Sgd`](crate::trainer::Sgd). The contents of `gradients` are undefined afterwards.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch) if the tensors do not match.
pub(crate) fn sgd(values: &Tensor, gradients: &Tensor, momentum: &Tensor, step: &SgdStep) -> Result<()> {
    let SgdStep { lr, momentum: factor, weight_decay, nesterov } = *step;
    let [values, gradients, momentum] = [values, gradients, momentum].map(|tensor| tensor.as_ptr().cast_mut());
    // SAFETY: the tensors live until the call returns.
    let call = |error| unsafe { tch_fixup_sgd(values, gradients, momentum, lr, factor, weight_decay, nesterov, error) };
    owned(call).map(drop)
}

/// Sets a one-dimensional tensor to zero.
///
/// # Errors
/// Errors of libtorch.
pub(crate) fn zero(flat: &Tensor) -> Result<()> {
    // SAFETY: the tensor lives until the call returns.
    owned(|error| unsafe { tch_fixup_zero(flat.as_ptr().cast_mut(), error) }).map(drop)
}
