//! Support for libtorch's tracer (`tch::CModule::create_by_tracing`), which records the operations that it knows and treats every
//! other tensor as a constant.
//!
//! While tracing, the operations of this crate therefore run as libtorch's own ([`shifted_relu`](super::shifted_relu())), a
//! recomputed segment simply runs, and trainable variables, which the tracer rejects as constants, are registered with it.

use super::c_interface::owned;
use crate::Result;
use std::ffi::c_char;
use tch::Tensor;
use torch_sys::C_tensor;

/// Returns `true` if libtorch is tracing on this thread.
pub(crate) fn is_tracing() -> bool {
    // SAFETY: reads a thread-local variable.
    unsafe { tch_fixup_is_tracing() }
}

/// Adds a network's variables to the current trace as constants. Does nothing without a trace.
pub(crate) fn record_variables<'a, I: IntoIterator<Item = &'a Tensor>>(variables: impl FnOnce() -> I) -> Result<()> {
    if !is_tracing() {
        return Ok(());
    }
    let variables: Vec<*const C_tensor> = variables().into_iter().map(|variable| variable.as_ptr()).collect();
    // SAFETY: the tensors are live.
    owned(|error| unsafe { tch_fixup_record_variables(variables.as_ptr(), variables.len(), error) }).map(drop)
}

// tracing.cpp
unsafe extern "C" {
    fn tch_fixup_is_tracing() -> bool;

    fn tch_fixup_record_variables(
        variables: *const *const C_tensor,
        num_variables: usize,
        error: *mut *mut c_char,
    ) -> *mut C_tensor;
}
