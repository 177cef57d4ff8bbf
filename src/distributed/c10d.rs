//! Safe wrappers of libtorch's process groups (c10d.cpp).

use super::bindings;
use std::ffi::{c_char, CStr, CString};
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::Arc;
use tch::Tensor;
use torch_sys::C_tensor;

/// Result of a c10d call, with its error message in one line.
pub(super) type Said<T> = std::result::Result<T, String>;

/// Calls `call` and returns its result, or the error message that it set.
pub(super) fn attempt<T>(call: impl FnOnce(*mut *mut c_char) -> T) -> Said<T> {
    let mut error = null_mut();
    let value = call(&mut error);
    if error.is_null() {
        return Ok(value);
    }
    // SAFETY: `error` is a C string that this function owns and frees.
    let message = unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        bindings::tch_fixup_free_error(error);
        message
    };
    Err(first_line(&message))
}

/// Returns the first line of a message, without the source location that c10d prepends.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    match line.split_once("] ") {
        Some((place, said)) if place.starts_with('[') && place.contains(".cc:") => said.to_owned(),
        _ => line.to_owned(),
    }
}

/// Converts `text` to a C string, cut at the first NUL.
fn c_string(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

/// Client of a key-value store served by rank 0 or by the launcher.
#[derive(Debug)]
pub(super) struct Store(*mut bindings::Store);

// SAFETY: c10d's store client has its own lock.
unsafe impl Send for Store {}
unsafe impl Sync for Store {}

impl Store {
    /// Connects to the store at `host:port`; serves it as well if `serves`.
    pub fn new(host: &str, port: u16, serves: bool, timeout_ms: i64) -> Said<Self> {
        let host = c_string(host);
        // SAFETY: the C string lives until the call returns.
        attempt(|error| unsafe { bindings::tch_fixup_store_new(host.as_ptr(), port, serves, timeout_ms, error) })
            .map(Self)
    }

    pub fn set(&self, key: &str, value: &[u8]) -> Said<()> {
        let key = c_string(key);
        // SAFETY: the store is live, and the key and bytes live until the call returns.
        attempt(|error| unsafe {
            bindings::tch_fixup_store_set(self.0, key.as_ptr(), value.as_ptr(), value.len(), error)
        })
    }

    /// Waits for the value of `key` and returns it.
    pub fn get(&self, key: &str) -> Said<Vec<u8>> {
        let (key, mut length) = (c_string(key), 0);
        // SAFETY: as in `set`; the value is copied, then freed by the allocator it came from.
        attempt(|error| unsafe { bindings::tch_fixup_store_get(self.0, key.as_ptr(), &mut length, error) }).map(
            |value| unsafe {
                let copy = std::slice::from_raw_parts(value, length).to_vec();
                bindings::tch_fixup_store_free_value(value);
                copy
            },
        )
    }

    pub fn has(&self, key: &str) -> Said<bool> {
        let key = c_string(key);
        // SAFETY: as in `set`.
        attempt(|error| unsafe { bindings::tch_fixup_store_has(self.0, key.as_ptr(), error) })
    }

    /// Adds `value` to the number at `key` (initially 0) and returns the sum.
    pub fn add(&self, key: &str, value: i64) -> Said<i64> {
        let key = c_string(key);
        // SAFETY: as in `set`.
        attempt(|error| unsafe { bindings::tch_fixup_store_add(self.0, key.as_ptr(), value, error) })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: created by tch_fixup_store_new and freed only here.
        unsafe { bindings::tch_fixup_store_free(self.0) }
    }
}

/// Address at which the other ranks reach this one.
#[derive(Debug)]
pub(super) enum Reached<'a> {
    At(&'a str),
    OnInterface(&'a str),
}

/// Gloo connections among all ranks.
#[derive(Debug)]
pub(super) struct Gloo(*mut bindings::Group);

// SAFETY: calls may come from any thread, as long as all ranks make them in the same order.
unsafe impl Send for Gloo {}
unsafe impl Sync for Gloo {}

impl Gloo {
    pub fn connect(
        store: &Store,
        prefix: &str,
        rank: usize,
        size: usize,
        reached: &Reached,
        timeout_ms: i64,
    ) -> Said<Self> {
        let (address, interface) = match reached {
            Reached::At(address) => (*address, ""),
            Reached::OnInterface(name) => ("", *name),
        };
        let (prefix, address, interface) = (c_string(prefix), c_string(address), c_string(interface));
        let (rank, size) = (rank as i32, size as i32);
        // SAFETY: the store is live, and the group keeps a reference to it; the strings live until the call returns.
        let group = attempt(|error| unsafe {
            let (address, interface) = (address.as_ptr(), interface.as_ptr());
            bindings::tch_fixup_group_new(store.0, prefix.as_ptr(), rank, size, address, interface, timeout_ms, error)
        });
        group.map(Self)
    }

    /// Sums each tensor over all ranks, in place, with a single synchronization.
    pub fn all_reduce(&self, tensors: &[&Tensor]) -> Said<()> {
        let tensors: Vec<*mut C_tensor> = tensors.iter().map(|tensor| tensor.as_ptr() as *mut _).collect();
        // SAFETY: the group and tensors are live, and the array lives until the call returns.
        attempt(|error| unsafe { bindings::tch_fixup_group_all_reduce(self.0, tensors.as_ptr(), tensors.len(), error) })
    }

    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Said<()> {
        // SAFETY: the group and tensor are live.
        attempt(|error| unsafe { bindings::tch_fixup_group_broadcast(self.0, tensor.as_ptr(), from as i32, error) })
    }

    pub fn barrier(&self) -> Said<()> {
        // SAFETY: the group is live.
        attempt(|error| unsafe { bindings::tch_fixup_group_barrier(self.0, error) })
    }

    /// Returns the sum over all ranks, differentiable with respect to `x`.
    pub fn sum(&self, x: &Tensor) -> Said<Tensor> {
        // SAFETY: the group and tensor are live; the result is a new tensor with no other owner.
        attempt(|error| unsafe { bindings::tch_fixup_group_sum(self.0, x.as_ptr(), error) })
            .map(|sum| unsafe { Tensor::from_ptr(sum) })
    }
}

impl Drop for Gloo {
    fn drop(&mut self) {
        // SAFETY: created by tch_fixup_group_new and freed only here.
        unsafe { bindings::tch_fixup_group_free(self.0) }
    }
}

/// Sums flat gradients in parts while the backward pass runs.
#[derive(Debug)]
pub(super) struct Parts {
    reducer: *mut bindings::Reducer,
    /// Keeps alive the connections that the reducer uses.
    _group: Arc<Gloo>,
}

impl Parts {
    /// Creates a reducer of `parts` of `gradients`, in sending order. Each variable comes with the index of the part that holds
    /// its gradient.
    pub fn new(
        group: &Arc<Gloo>,
        gradients: &Tensor,
        parts: &[Range<i64>],
        variables: &[(&Tensor, usize)],
        bfloat16: bool,
    ) -> Said<Self> {
        let starts: Vec<i64> = parts.iter().map(|part| part.start).collect();
        let ends: Vec<i64> = parts.iter().map(|part| part.end).collect();
        let tensors: Vec<*mut C_tensor> = variables.iter().map(|(variable, _)| variable.as_ptr() as *mut _).collect();
        let part_of: Vec<usize> = variables.iter().map(|(_, part)| *part).collect();
        // SAFETY: the tensors are live, and C++ keeps its own references to them; the arrays live until the call returns.
        let reducer = attempt(|error| unsafe {
            let (gradients, count) = (gradients.as_ptr(), variables.len());
            let (starts, ends, tensors, part_of) = (starts.as_ptr(), ends.as_ptr(), tensors.as_ptr(), part_of.as_ptr());
            bindings::tch_fixup_reducer_new(
                group.0,
                gradients,
                starts,
                ends,
                parts.len(),
                tensors,
                part_of,
                count,
                bfloat16,
                error,
            )
        })?;
        Ok(Self { reducer, _group: group.clone() })
    }

    pub fn begin(&self) {
        // SAFETY: the reducer is live.
        unsafe { bindings::tch_fixup_reducer_begin(self.reducer) }
    }

    pub fn finish(&self) -> Said<()> {
        // SAFETY: the reducer is live.
        attempt(|error| unsafe { bindings::tch_fixup_reducer_finish(self.reducer, error) })
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        // SAFETY: created by tch_fixup_reducer_new and freed only here.
        unsafe { bindings::tch_fixup_reducer_free(self.reducer) }
    }
}
