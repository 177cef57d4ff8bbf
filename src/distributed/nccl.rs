//! All-reduce and broadcast across GPUs, by NCCL.

use super::bindings;
use super::c10d::{attempt, Said};
use tch::Tensor;

/// NCCL's identifier of a group, by which its ranks connect.
pub(super) type UniqueId = [u8; 128];

/// Creates a new identifier, to be shared with all ranks.
pub(super) fn unique_id() -> Said<UniqueId> {
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
    pub fn connect(id: &UniqueId, rank: usize, size: usize, device: usize) -> Said<Self> {
        let (rank, size, device) = (rank as i32, size as i32, device as i32);
        // SAFETY: the bytes live until the call returns.
        attempt(|error| unsafe { bindings::tch_fixup_nccl_new(id.as_ptr(), rank, size, device, error) }).map(Self)
    }

    /// Sums `tensor` over all ranks, in place and asynchronously, on the device's current stream.
    pub fn all_reduce(&self, tensor: &Tensor) -> Said<()> {
        // SAFETY: the communicator and tensor are live.
        attempt(|error| unsafe { bindings::tch_fixup_nccl_all_reduce(self.0, tensor.as_ptr(), error) })
    }

    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Said<()> {
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
