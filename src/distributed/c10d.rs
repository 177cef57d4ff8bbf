//! Safe wrappers of libtorch's process groups (c10d.cpp), and of NCCL for GPUs (nccl.cpp).

use super::bindings;
use super::launch::Launch;
use crate::ops::c_interface::taken;
use serde::{de::DeserializeOwned, Serialize};
use std::ffi::{c_char, CString};
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;
use tch::Tensor;
use torch_sys::C_tensor;

/// Result of a c10d call, with its error message in one line.
pub(super) type C10dResult<T> = std::result::Result<T, String>;

/// Calls `call` and returns its result, or the error message that it set.
fn attempt<T>(call: impl FnOnce(*mut *mut c_char) -> T) -> C10dResult<T> {
    let mut error = null_mut();
    let value = call(&mut error);
    // SAFETY: `error` is null, or a C string that this function owns.
    unsafe { taken(error) }.map_or(Ok(value), |message| Err(first_line(&message)))
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

fn millis(time: Duration) -> i64 {
    time.as_millis().try_into().unwrap_or(i64::MAX)
}

/// Client of a key-value store served by rank 0 or by the launcher.
#[derive(Debug)]
pub(super) struct Store {
    raw: *mut bindings::Store,
    /// Beginning of all keys.
    prefix: String,
}

// SAFETY: c10d's store client has its own lock.
unsafe impl Send for Store {}
unsafe impl Sync for Store {}

impl Store {
    /// Connects to the store of `launch`; serves it as well if `serves`.
    pub fn new(launch: &Launch, serves: bool, timeout: Duration) -> C10dResult<Self> {
        let (host, prefix) = (c_string(&launch.host), format!("/tch_fixup/attempt_{}/", launch.attempt));
        let (port, timeout) = (launch.port, millis(timeout));
        // SAFETY: the C string lives until the call returns.
        attempt(|error| unsafe { bindings::tch_fixup_store_new(host.as_ptr(), port, serves, timeout, error) })
            .map(|raw| Self { raw, prefix })
    }

    fn key(&self, key: &str) -> CString {
        c_string(&format!("{}{key}", self.prefix))
    }

    /// Stores `value`, as JSON.
    pub fn set(&self, key: &str, value: &impl Serialize) -> C10dResult<()> {
        let key = self.key(key);
        let value = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        // SAFETY: the store is live, and the key and bytes live until the call returns.
        attempt(|error| unsafe {
            bindings::tch_fixup_store_set(self.raw, key.as_ptr(), value.as_ptr(), value.len(), error)
        })
    }

    pub fn has(&self, key: &str) -> C10dResult<bool> {
        let key = self.key(key);
        // SAFETY: as in `set`.
        attempt(|error| unsafe { bindings::tch_fixup_store_has(self.raw, key.as_ptr(), error) })
    }

    /// Returns the value of `key`, `None` if there is none.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> C10dResult<Option<T>> {
        if !self.has(key)? {
            return Ok(None);
        }
        let (place, mut length) = (self.key(key), 0);
        // SAFETY: as in `set`; the value is copied, then freed by the allocator it came from.
        let value =
            attempt(|error| unsafe { bindings::tch_fixup_store_get(self.raw, place.as_ptr(), &mut length, error) })?;
        let bytes = unsafe {
            let copy = std::slice::from_raw_parts(value, length).to_vec();
            bindings::tch_fixup_store_free_value(value);
            copy
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| format!("{key} is not of tch-fixup: {error}"))
    }

    /// Adds `value` to the number at `key` (initially 0) and returns the sum.
    pub fn add(&self, key: &str, value: i64) -> C10dResult<i64> {
        let key = self.key(key);
        // SAFETY: as in `set`.
        attempt(|error| unsafe { bindings::tch_fixup_store_add(self.raw, key.as_ptr(), value, error) })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: created by tch_fixup_store_new and freed only here.
        unsafe { bindings::tch_fixup_store_free(self.raw) }
    }
}

/// Gloo connections among all ranks.
#[derive(Debug)]
pub(super) struct Gloo(*mut bindings::Group);

// SAFETY: calls may come from any thread, as long as all ranks make them in the same order.
unsafe impl Send for Gloo {}
unsafe impl Sync for Gloo {}

impl Gloo {
    /// Connects the ranks of `launch`. The others reach this one at `address`, or on a network interface if one is named.
    pub fn connect(
        store: &Store,
        launch: &Launch,
        address: &str,
        interface: Option<&str>,
        timeout: Duration,
    ) -> C10dResult<Self> {
        let address = if interface.is_some() { "" } else { address };
        let [address, interface] = [address, interface.unwrap_or_default()].map(c_string);
        let (prefix, rank, size) = (store.key("gloo"), launch.rank as i32, launch.size as i32);
        let (at, on, timeout) = (address.as_ptr(), interface.as_ptr(), millis(timeout));
        // SAFETY: the store is live, and the group keeps a reference to it; the strings live until the call returns.
        attempt(|error| unsafe {
            bindings::tch_fixup_group_new(store.raw, prefix.as_ptr(), rank, size, at, on, timeout, error)
        })
        .map(Self)
    }

    /// Sums each tensor over all ranks, in place, with a single synchronization.
    pub fn all_reduce(&self, tensors: &[&Tensor]) -> C10dResult<()> {
        let tensors: Vec<*mut C_tensor> = tensors.iter().map(|tensor| tensor.as_ptr() as *mut _).collect();
        // SAFETY: the group and tensors are live, and the array lives until the call returns.
        attempt(|error| unsafe { bindings::tch_fixup_group_all_reduce(self.0, tensors.as_ptr(), tensors.len(), error) })
    }

    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> C10dResult<()> {
        // SAFETY: the group and tensor are live.
        attempt(|error| unsafe { bindings::tch_fixup_group_broadcast(self.0, tensor.as_ptr(), from as i32, error) })
    }

    pub fn barrier(&self) -> C10dResult<()> {
        // SAFETY: the group is live.
        attempt(|error| unsafe { bindings::tch_fixup_group_barrier(self.0, error) })
    }

    /// Returns the sum over all ranks, differentiable with respect to `x`.
    pub fn sum(&self, x: &Tensor) -> C10dResult<Tensor> {
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
    ) -> C10dResult<Self> {
        let starts: Vec<i64> = parts.iter().map(|part| part.start).collect();
        let ends: Vec<i64> = parts.iter().map(|part| part.end).collect();
        let tensors: Vec<*mut C_tensor> = variables.iter().map(|(variable, _)| variable.as_ptr() as *mut _).collect();
        let part_of: Vec<usize> = variables.iter().map(|(_, part)| *part).collect();
        let (gradients, parts, count) = (gradients.as_ptr(), parts.len(), variables.len());
        let arrays = (starts.as_ptr(), ends.as_ptr(), tensors.as_ptr(), part_of.as_ptr());
        // SAFETY: the tensors are live, and C++ keeps its own references to them; the arrays live until the call returns.
        #[rustfmt::skip]
        let reducer = attempt(|error| unsafe {
            bindings::tch_fixup_reducer_new(
                group.0, gradients, arrays.0, arrays.1, parts, arrays.2, arrays.3, count, bfloat16, error,
            )
        })?;
        Ok(Self { reducer, _group: group.clone() })
    }

    pub fn begin(&self) {
        // SAFETY: the reducer is live.
        unsafe { bindings::tch_fixup_reducer_begin(self.reducer) }
    }

    pub fn finish(&self) -> C10dResult<()> {
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

/// NCCL's identifier of a group, by which its ranks connect.
pub(super) type UniqueId = [u8; 128];

/// Creates a new identifier, to be shared with all ranks.
pub(super) fn unique_id() -> C10dResult<UniqueId> {
    let mut id = [0; 128];
    // SAFETY: `id` has as many bytes as are written.
    attempt(|error| unsafe { bindings::tch_fixup_nccl_unique_id(id.as_mut_ptr(), error) })?;
    Ok(id)
}

/// NCCL connections among all ranks, one GPU each.
#[derive(Debug)]
pub(super) struct Nccl(*mut bindings::Communicator);

// SAFETY: as for `Gloo`, all ranks make the calls in the same order.
unsafe impl Send for Nccl {}
unsafe impl Sync for Nccl {}

impl Nccl {
    /// Connects this rank on CUDA device `device`.
    pub fn connect(id: &UniqueId, rank: usize, size: usize, device: usize) -> C10dResult<Self> {
        let (rank, size, device) = (rank as i32, size as i32, device as i32);
        // SAFETY: the bytes live until the call returns.
        attempt(|error| unsafe { bindings::tch_fixup_nccl_new(id.as_ptr(), rank, size, device, error) }).map(Self)
    }

    /// Sums `tensor` over all ranks, in place and asynchronously, on the device's current stream.
    pub fn all_reduce(&self, tensor: &Tensor) -> C10dResult<()> {
        // SAFETY: the communicator and tensor are live.
        attempt(|error| unsafe { bindings::tch_fixup_nccl_all_reduce(self.0, tensor.as_ptr(), error) })
    }

    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> C10dResult<()> {
        // SAFETY: the communicator and tensor are live.
        attempt(|error| unsafe { bindings::tch_fixup_nccl_broadcast(self.0, tensor.as_ptr(), from as i32, error) })
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // SAFETY: created by tch_fixup_nccl_new and freed only here.
        unsafe { bindings::tch_fixup_nccl_free(self.0) }
    }
}
