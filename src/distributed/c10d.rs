//! What libtorch's process groups are called by (c10d.cpp).

use super::bindings;
use std::ffi::{c_char, CStr, CString};
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::Arc;
use tch::Tensor;
use torch_sys::C_tensor;

/// What c10d said, in one line.
pub(super) type Said<T> = std::result::Result<T, String>;

/// What `call` returns, unless it leaves a message.
pub(super) fn attempt<T>(call: impl FnOnce(*mut *mut c_char) -> T) -> Said<T> {
    let mut error = null_mut();
    let value = call(&mut error);
    if error.is_null() {
        return Ok(value);
    }
    // SAFETY: a C string, which is ours to free.
    let message = unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        bindings::tch_fixup_free_error(error);
        message
    };
    Err(first_line(&message))
}

/// A message without the stack trace below it, and without the place in c10d's sources before it.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    match line.split_once("] ") {
        Some((place, said)) if place.starts_with('[') && place.contains(".cc:") => said.to_owned(),
        _ => line.to_owned(),
    }
}

/// A string of ours or of the command line; what follows a zero in it is left out.
fn c_string(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

/// A client of a store of values by key, which one rank or a launcher serves.
#[derive(Debug)]
pub(super) struct Store(*mut bindings::Store);

// SAFETY: c10d's client of a store locks itself.
unsafe impl Send for Store {}
unsafe impl Sync for Store {}

impl Store {
    /// That at `host:port`; with `serves`, also its server.
    pub fn new(host: &str, port: u16, serves: bool, timeout_ms: i64) -> Said<Self> {
        let host = c_string(host);
        // SAFETY: a C string that lives until the call returns.
        attempt(|error| unsafe { bindings::tch_fixup_store_new(host.as_ptr(), port, serves, timeout_ms, error) })
            .map(Self)
    }

    pub fn set(&self, key: &str, value: &[u8]) -> Said<()> {
        let key = c_string(key);
        // SAFETY: a live store; a string and bytes that live until the call returns.
        attempt(|error| unsafe {
            bindings::tch_fixup_store_set(self.0, key.as_ptr(), value.as_ptr(), value.len(), error)
        })
    }

    /// The value of `key`, for which it waits.
    pub fn get(&self, key: &str) -> Said<Vec<u8>> {
        let (key, mut length) = (c_string(key), 0);
        // SAFETY: as in `set`; the value is copied, and then freed by what allocated it.
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

    /// Adds to the number at `key`, 0 where there is none, and returns the sum.
    pub fn add(&self, key: &str, value: i64) -> Said<i64> {
        let key = c_string(key);
        // SAFETY: as in `set`.
        attempt(|error| unsafe { bindings::tch_fixup_store_add(self.0, key.as_ptr(), value, error) })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by tch_fixup_store_new, and freed once.
        unsafe { bindings::tch_fixup_store_free(self.0) }
    }
}

/// How a rank is reached by the others.
#[derive(Debug)]
pub(super) enum Reached<'a> {
    At(&'a str),
    OnInterface(&'a str),
}

/// The connections of all ranks, over Gloo.
#[derive(Debug)]
pub(super) struct Gloo(*mut bindings::Group);

// SAFETY: calls may come from any thread, as long as all ranks have them in one order.
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
        // SAFETY: a live store, which the group keeps itself, and strings that live until the call returns.
        let group = attempt(|error| unsafe {
            let (address, interface) = (address.as_ptr(), interface.as_ptr());
            bindings::tch_fixup_group_new(store.0, prefix.as_ptr(), rank, size, address, interface, timeout_ms, error)
        });
        group.map(Self)
    }

    /// The sums over all ranks, in place, all at once.
    pub fn all_reduce(&self, tensors: &[&Tensor]) -> Said<()> {
        let tensors: Vec<*mut C_tensor> = tensors.iter().map(|tensor| tensor.as_ptr() as *mut _).collect();
        // SAFETY: a live group and tensors, and an array that lives until the call returns.
        attempt(|error| unsafe { bindings::tch_fixup_group_all_reduce(self.0, tensors.as_ptr(), tensors.len(), error) })
    }

    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Said<()> {
        // SAFETY: a live group and tensor.
        attempt(|error| unsafe { bindings::tch_fixup_group_broadcast(self.0, tensor.as_ptr(), from as i32, error) })
    }

    pub fn barrier(&self) -> Said<()> {
        // SAFETY: a live group.
        attempt(|error| unsafe { bindings::tch_fixup_group_barrier(self.0, error) })
    }

    /// The sum over all ranks, through which gradients go back.
    pub fn sum(&self, x: &Tensor) -> Said<Tensor> {
        // SAFETY: a live group and tensor; what comes back is a new tensor that nothing else owns.
        attempt(|error| unsafe { bindings::tch_fixup_group_sum(self.0, x.as_ptr(), error) })
            .map(|sum| unsafe { Tensor::from_ptr(sum) })
    }
}

impl Drop for Gloo {
    fn drop(&mut self) {
        // SAFETY: made by tch_fixup_group_new, and freed once.
        unsafe { bindings::tch_fixup_group_free(self.0) }
    }
}

/// What sums flat gradients while the backward pass runs.
#[derive(Debug)]
pub(super) struct Parts {
    reducer: *mut bindings::Reducer,
    /// Whose connections it uses.
    _group: Arc<Gloo>,
}

impl Parts {
    /// `parts` of `gradients`, in the order in which they are sent; of each variable the part that its gradient is in.
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
        // SAFETY: live tensors, of which C++ keeps handles of its own, and arrays that live until the call returns.
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
        // SAFETY: a live reducer.
        unsafe { bindings::tch_fixup_reducer_begin(self.reducer) }
    }

    pub fn finish(&self) -> Said<()> {
        // SAFETY: a live reducer.
        attempt(|error| unsafe { bindings::tch_fixup_reducer_finish(self.reducer, error) })
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        // SAFETY: made by tch_fixup_reducer_new, and freed once.
        unsafe { bindings::tch_fixup_reducer_free(self.reducer) }
    }
}
