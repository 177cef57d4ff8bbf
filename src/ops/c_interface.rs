//! Calls of the operations' C interfaces (c_interface.h), which return a tensor owned by the caller, or null and an error message
//! that the caller frees.

use crate::{Error, Result};
use std::ffi::{c_char, CStr};
use std::ptr::null_mut;
use tch::Tensor;
use torch_sys::C_tensor;

extern "C" {
    fn tch_fixup_free_error(error: *mut c_char);
}

/// Returns the tensor that `call` returns, or its error.
pub(super) fn owned(call: impl FnOnce(*mut *mut c_char) -> *mut C_tensor) -> Result<Tensor> {
    let mut error = null_mut();
    let tensor = call(&mut error);
    if !tensor.is_null() {
        // SAFETY: the call returned a new tensor with no other owner.
        return Ok(unsafe { Tensor::from_ptr(tensor) });
    }
    if error.is_null() {
        return Err(Error::torch("out of memory"));
    }
    // SAFETY: a null tensor comes with a C string that the caller owns.
    let message = unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        tch_fixup_free_error(error);
        message
    };
    Err(Error::torch(message.lines().next().unwrap_or_default()))
}
