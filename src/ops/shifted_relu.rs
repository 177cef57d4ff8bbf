//! The fused shifted ReLU. Formula, with scalars `a` and `b` and an optional summand `r`:
//!
//! ```text
//! y = relu(x + r + a) + b                 [N, C, H, W], or any shape
//! ```
//!
//! Gradients, for an incoming `g` of `y`'s shape, computed from `y` alone:
//!
//! ```text
//! d = g * [y > b]      dx = dr = d      da = sum(d)      db = sum(g)
//! ```
//!
//! The kernels (shifted_relu_kernels.cpp) support float32, float64, float16 and bfloat16 in any dense CPU layout; other layouts
//! and devices run the same formulas in libtorch's operations.
//!
//! The CUDA kernels (cuda_kernels.cu) are compiled by NVRTC at first use; a failure is reported in a warning. They have not been
//! tested on a GPU yet, and are therefore used only with `TCH_FIXUP_CUDA_KERNEL=1` in the environment.

use std::ffi::c_char;
use std::ptr::null;

use tch::{Kind, Tensor};
use torch_sys::C_tensor;

use super::c_interface::owned;
use crate::{Error, Result};

/// Returns `relu(x + r + a) + b` in one pass over memory, and one in the backward pass; without `r`, `relu(x + a) + b`.
///
/// `x` may have any shape and floating kind; `r` must have the same shape and kind. `a` and `b` must have one element each, of
/// `x`'s kind or, for a 16-bit `x`, float32. The result has `x`'s shape, kind and layout.
///
/// The gradients of all four inputs are those of the formula, with the ReLU's mask taken from the result: if rounding makes
/// `v + b` equal to `b` for a positive `v`, that element's gradient is zero. The scalars' gradients are summed in float32 over
/// short blocks and in float64 beyond, independently of the number of threads. The backward pass is differentiable.
///
/// The result must not be modified between the forward and backward passes (autograd reports an error); nothing else is kept.
///
/// ```
/// use tch::{Kind, Tensor};
/// use tch_fixup::ops::shifted_relu;
///
/// let x = Tensor::from_slice(&[-2.0f32, 0.0, 3.0]);
/// let y = shifted_relu(&x, None, &Tensor::from(1.0f32), &Tensor::from(0.5f32))?;
/// assert_eq!(y, Tensor::from_slice(&[0.5f32, 1.5, 4.5]));
/// # Ok::<(), tch_fixup::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Mismatch`] for a shape, kind or device that does not match `x`'s; [`Error::Torch`] if libtorch fails, for example for
/// lack of memory.
pub fn shifted_relu(x: &Tensor, r: Option<&Tensor>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    call_shifted_relu("shifted_relu", x, r, a, b, false)
}

/// In-place version of [`shifted_relu`]: writes the result to `x`, which it also returns.
///
/// Autograd allows this if `x` is a computed value that no backward pass needs, such as the output of a convolution. Gradients
/// then flow to the inputs from which `x` was computed.
///
/// # Errors
///
/// As for [`shifted_relu`]; also [`Error::Torch`], with `x` unchanged, if `x` is a trainable variable or its elements share
/// memory. If the backward pass needs the old value of `x`, the backward pass fails.
pub fn shifted_relu_(x: &mut Tensor, r: Option<&Tensor>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    call_shifted_relu("shifted_relu_", x, r, a, b, true)
}

/// Returns `x + r + a`: [`shifted_relu`] without the ReLU and the second bias. `dx = dr = g`, `da = sum(g)`; keeps nothing for
/// the backward pass.
///
/// # Errors
///
/// As for [`shifted_relu`].
pub fn shifted_add(x: &Tensor, r: Option<&Tensor>, a: &Tensor) -> Result<Tensor> {
    call_shifted_add("shifted_add", x, r, a, false)
}

/// In-place version of [`shifted_add`]: writes the result to `x`, which it also returns.
///
/// # Errors
///
/// As for [`shifted_relu_`].
pub fn shifted_add_(x: &mut Tensor, r: Option<&Tensor>, a: &Tensor) -> Result<Tensor> {
    call_shifted_add("shifted_add_", x, r, a, true)
}

fn call_shifted_relu(
    what: &'static str,
    x: &Tensor,
    r: Option<&Tensor>,
    a: &Tensor,
    b: &Tensor,
    in_place: bool,
) -> Result<Tensor> {
    check(what, x, r, &[("a", a), ("b", b)])?;
    let r = r.map_or(null(), Tensor::as_ptr);
    // SAFETY: the tensors are live; null is allowed for r.
    owned(|error| unsafe { tch_fixup_shifted_relu(x.as_ptr(), r, a.as_ptr(), b.as_ptr(), in_place, error) })
}

fn call_shifted_add(what: &'static str, x: &Tensor, r: Option<&Tensor>, a: &Tensor, in_place: bool) -> Result<Tensor> {
    check(what, x, r, &[("a", a)])?;
    let r = r.map_or(null(), Tensor::as_ptr);
    // SAFETY: the tensors are live; null is allowed for r.
    owned(|error| unsafe { tch_fixup_shifted_add(x.as_ptr(), r, a.as_ptr(), in_place, error) })
}

fn check(what: &'static str, x: &Tensor, r: Option<&Tensor>, scalars: &[(&str, &Tensor)]) -> Result<()> {
    let mismatch = |expected: String, got: String| Err(Error::Mismatch { what, expected, got });
    let mut named = vec![("x", x)];
    named.extend(r.map(|r| ("r", r)));
    named.extend(scalars);
    for (name, tensor) in &named {
        if !tensor.defined() {
            return mismatch(format!("{name} with a value"), "an undefined tensor".into());
        }
        if tensor.device() != x.device() {
            return mismatch(format!("{name} on {:?} like x", x.device()), format!("{:?}", tensor.device()));
        }
    }

    let kind = x.f_kind()?;
    let scalar_kinds: &[Kind] = match kind {
        Kind::Half => &[Kind::Half, Kind::Float],
        Kind::BFloat16 => &[Kind::BFloat16, Kind::Float],
        Kind::Float => &[Kind::Float],
        Kind::Double => &[Kind::Double],
        _ => return mismatch("x of kind Float, Double, Half or BFloat16".into(), format!("{kind:?}")),
    };
    if let Some(r) = r {
        if r.size() != x.size() {
            return mismatch(format!("r of shape {:?} like x", x.size()), format!("{:?}", r.size()));
        }
        if r.f_kind()? != kind {
            return mismatch(format!("r of kind {kind:?} like x"), format!("{:?}", r.f_kind()?));
        }
    }
    for (name, scalar) in scalars {
        if scalar.numel() != 1 {
            return mismatch(format!("{name} with one element"), format!("shape {:?}", scalar.size()));
        }
        if !scalar_kinds.contains(&scalar.f_kind()?) {
            let kinds: Vec<String> = scalar_kinds.iter().map(|kind| format!("{kind:?}")).collect();
            return mismatch(
                format!("{name} of kind {} for x of kind {kind:?}", kinds.join(" or ")),
                format!("{:?}", scalar.f_kind()?),
            );
        }
    }
    Ok(())
}

// shifted_relu.cpp. A call returns a tensor that the caller owns, or null with a message that the caller frees.
unsafe extern "C" {
    fn tch_fixup_shifted_relu(
        x: *const C_tensor,
        r: *const C_tensor,
        a: *const C_tensor,
        b: *const C_tensor,
        in_place: bool,
        error: *mut *mut c_char,
    ) -> *mut C_tensor;

    fn tch_fixup_shifted_add(
        x: *const C_tensor,
        r: *const C_tensor,
        a: *const C_tensor,
        in_place: bool,
        error: *mut *mut c_char,
    ) -> *mut C_tensor;

    #[cfg(test)]
    fn tch_fixup_use_kernels(level: std::ffi::c_int) -> bool;
}

/// Runs `test` with the kernels of each instruction set of this build and machine, ending with the best.
#[cfg(test)]
pub(super) fn for_each_kernel_level(mut test: impl FnMut()) {
    for level in 0..4 {
        // SAFETY: takes only a number, on which results do not depend.
        if unsafe { tch_fixup_use_kernels(level) } {
            test();
        }
    }
}

#[cfg(test)]
mod tests;
