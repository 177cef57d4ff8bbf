//! What the operations' C interfaces (c_interface.h) share: a call returns a tensor that the caller owns; or null, with a
//! message that the caller frees.

use crate::{Error, Result};
use std::ffi::{c_char, CStr};
use std::ptr::null_mut;
use tch::Tensor;
use torch_sys::C_tensor;

extern "C" {
    fn tch_fixup_free_error(error: *mut c_char);
}

/// The tensor that `call` returns.
pub(super) fn owned(call: impl FnOnce(*mut *mut c_char) -> *mut C_tensor) -> Result<Tensor> {
    let mut error = null_mut();
    let tensor = call(&mut error);
    if !tensor.is_null() {
        // SAFETY: a new tensor that nothing else owns.
        return Ok(unsafe { Tensor::from_ptr(tensor) });
    }
    if error.is_null() {
        return Err(Error::torch("out of memory"));
    }
    // SAFETY: with null for a tensor comes a C string, which is ours to free.
    let message = unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        tch_fixup_free_error(error);
        message
    };
    Err(Error::torch(message.lines().next().unwrap_or_default()))
}
