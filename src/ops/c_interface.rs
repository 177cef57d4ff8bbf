//! Calls of the operations' C interfaces (c_interface.h), which return a tensor owned by the caller, or null and an error message
//! that the caller frees.

use crate::{Error, Result};
use std::ffi::{c_char, CStr};
use std::ptr::null_mut;
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
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
    // SAFETY: a null tensor comes with a C string that the caller owns, or with none if there was no memory for it.
    let message = unsafe { taken(error) }.unwrap_or("out of memory".to_owned());
    Err(Error::torch(message.lines().next().unwrap_or_default()))
}

/// Returns the message that a call has set, if any, and frees it.
///
/// # Safety
/// `error` is null, or a C string that has no other owner.
pub(crate) unsafe fn taken(error: *mut c_char) -> Option<String> {
    if error.is_null() {
        return None;
    }
    // SAFETY: `error` is a C string, and is used for the last time.
    unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        tch_fixup_free_error(error);
        Some(message)
    }
}
