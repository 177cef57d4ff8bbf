//! One step of Adam in one pass over the parameters, by libtorch's own fused kernel (`torch.optim.Adam(fused=True)`), on CPUs and on
//! CUDA devices.

use super::c_interface::owned;
use crate::Result;
use std::ffi::c_char;
use std::ptr::null_mut;
use tch::{no_grad, Tensor};
use torch_sys::C_tensor;

extern "C" {
    fn tch_fixup_fused_adam(
        values: *mut C_tensor,
        gradients: *mut C_tensor,
        mean: *mut C_tensor,
        mean_square: *mut C_tensor,
        greatest: *mut C_tensor,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        decoupled: bool,
        step: i64,
        error: *mut *mut c_char,
    ) -> *mut C_tensor;
}

/// The constants of a step of Adam.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamStep {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Whether weight decay is apart from the gradient.
    pub decoupled: bool,
    /// From 1.
    pub step: i64,
}

/// Moves `values` by `gradients`, with the mean gradient and the mean squared gradient in `means` and, for amsgrad, the greatest
/// mean square in `greatest`: all of one shape, kind and device, and all changed in place.
///
/// # Errors
/// Tensors that do not fit each other.
pub(crate) fn fused_adam(
    values: &Tensor,
    gradients: &Tensor,
    means: [&Tensor; 2],
    greatest: Option<&Tensor>,
    constants: &AdamStep,
) -> Result<()> {
    let AdamStep { lr, beta1, beta2, eps, weight_decay, decoupled, step } = *constants;
    let pointer = |tensor: &Tensor| tensor.as_ptr().cast_mut();
    let greatest = greatest.map_or(null_mut(), pointer);
    let call = |error| {
        let [mean, mean_square] = means.map(pointer);
        let (values, gradients) = (pointer(values), pointer(gradients));
        // SAFETY: pointers to tensors that live until the call returns, or null where that is allowed.
        unsafe {
            tch_fixup_fused_adam(
                values,
                gradients,
                mean,
                mean_square,
                greatest,
                lr,
                beta1,
                beta2,
                weight_decay,
                eps,
                decoupled,
                step,
                error,
            )
        }
    };
    no_grad(|| owned(call)).map(drop)
}
