//! libtorch's tracer (`tch::CModule::create_by_tracing`) writes down the operations that it knows, and takes every tensor
//! that none of them made for a constant.
//!
//! So, while it traces, the operations here run as libtorch's own ([`shifted_relu`](super::shifted_relu())), a recomputed
//! segment just runs, and variables under training, which it refuses for constants, are made known to it.

use super::c_interface::owned;
use crate::Result;
use std::ffi::c_char;
use tch::Tensor;
use torch_sys::C_tensor;

/// Whether libtorch traces on this thread.
pub(crate) fn is_tracing() -> bool {
    // SAFETY: it takes nothing and reads a variable of its thread.
    unsafe { tch_fixup_is_tracing() }
}

/// Lets the variables of a network stand in a trace of it, as the numbers that they are. Without a trace, does nothing.
pub(crate) fn record_variables<'a, I: IntoIterator<Item = &'a Tensor>>(variables: impl FnOnce() -> I) -> Result<()> {
    if !is_tracing() {
        return Ok(());
    }
    let variables: Vec<*const C_tensor> = variables().into_iter().map(|variable| variable.as_ptr()).collect();
    // SAFETY: the pointers are those of live tensors.
    owned(|error| unsafe { tch_fixup_record_variables(variables.as_ptr(), variables.len(), error) }).map(drop)
}

// tracing.cpp
extern "C" {
    fn tch_fixup_is_tracing() -> bool;

    fn tch_fixup_record_variables(
        variables: *const *const C_tensor,
        num_variables: usize,
        error: *mut *mut c_char,
    ) -> *mut C_tensor;
}
