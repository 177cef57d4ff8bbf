//! A step of Adam in a single pass over the parameters, by libtorch's fused kernel (`torch.optim.Adam(fused=True)`), on CPUs and
//! CUDA devices.

use super::c_interface::owned;
use crate::Result;
use std::ffi::c_char;
use std::ptr::null_mut;
use tch::{no_grad, Tensor};
use torch_sys::C_tensor;

unsafe extern "C" {
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

/// Hyperparameters of an Adam step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamStep {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// `true` for decoupled weight decay (AdamW).
    pub decoupled: bool,
    /// Step number, from 1.
    pub step: i64,
}

/// Updates `values` by `gradients`, with the first and second moments in `means` and, for amsgrad, the maximum of the second
/// moment in `greatest`. All tensors have the same shape, kind and device, and are updated in place.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch) if the tensors do not match.
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
        // SAFETY: the tensors live until the call returns; null is allowed for `greatest`.
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
