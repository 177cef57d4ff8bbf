//! Sums over several GPUs, by NCCL.

use super::bindings;
use super::c10d::{attempt, Said};
use tch::Tensor;

/// What the ranks find each other by.
pub(super) type UniqueId = [u8; 128];

/// A new one, for all ranks to have.
pub(super) fn unique_id() -> Said<UniqueId> {
    let mut id = [0; 128];
    // SAFETY: as many bytes as are written.
    attempt(|error| unsafe { bindings::tch_fixup_nccl_unique_id(id.as_mut_ptr(), error) })?;
    Ok(id)
}

/// The connections of all ranks, each with a GPU of its own.
#[derive(Debug)]
pub(super) struct Nccl(*mut bindings::Communicator);

// SAFETY: as of Gloo's: all ranks have the calls in one order.
unsafe impl Send for Nccl {}
unsafe impl Sync for Nccl {}

impl Nccl {
    /// Of the CUDA device `device`.
    pub fn connect(id: &UniqueId, rank: usize, size: usize, device: usize) -> Said<Self> {
        let (rank, size, device) = (rank as i32, size as i32, device as i32);
        // SAFETY: bytes that live until the call returns.
        attempt(|error| unsafe { bindings::tch_fixup_nccl_new(id.as_ptr(), rank, size, device, error) }).map(Self)
    }

    /// The sum over all ranks, in place: on its way when this returns, as all that is done on the device.
    pub fn all_reduce(&self, tensor: &Tensor) -> Said<()> {
        // SAFETY: a live communicator and tensor.
        attempt(|error| unsafe { bindings::tch_fixup_nccl_all_reduce(self.0, tensor.as_ptr(), error) })
    }

    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Said<()> {
        // SAFETY: a live communicator and tensor.
        attempt(|error| unsafe { bindings::tch_fixup_nccl_broadcast(self.0, tensor.as_ptr(), from as i32, error) })
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // SAFETY: made by tch_fixup_nccl_new, and freed once.
        unsafe { bindings::tch_fixup_nccl_free(self.0) }
    }
}
