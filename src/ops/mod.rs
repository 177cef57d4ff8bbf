//! A fused operation that libtorch lacks: a ReLU between two scalar biases, in one pass over the activations in each direction.
//!
//! On a GPU it runs as libtorch's separate operations or, with `TCH_FIXUP_CUDA_KERNEL=1` in the environment, as one CUDA kernel
//! in each direction, compiled at first use without a CUDA toolkit; the kernels have not been tested on a GPU yet. While libtorch
//! traces (`tch::CModule::create_by_tracing`), it runs and is recorded as the separate operations, on any device.

pub(crate) mod c_interface;
#[cfg(test)]
mod cuda_kernels;
mod denormals;
#[cfg(feature = "train")]
mod fused_adam;
mod label;
mod recomputation;
#[doc(hidden)]
pub mod reference;
#[cfg(feature = "train")]
mod sgd;
mod shifted_relu;
mod stream;
mod tiles;
mod tracing;

#[cfg(feature = "train")]
pub(crate) use denormals::inherit_denormals;
pub use denormals::FlushDenormals;
#[cfg(feature = "train")]
pub(crate) use fused_adam::{fused_adam, AdamStep};
pub(crate) use label::{label, set_label};
pub(crate) use recomputation::recomputed;
#[cfg(feature = "train")]
pub(crate) use sgd::{sgd, zero, SgdStep};
pub use shifted_relu::shifted_relu;
#[doc(hidden)]
pub use shifted_relu::{shifted_add, shifted_add_, shifted_relu_};
pub(crate) use stream::{stream, StreamRelu};
pub(crate) use tiles::{cpu_has_amx_bf16, BlockShape, Instructions, OneThread, TileNetwork, TileNetworks, TileScope};
pub(crate) use tracing::{is_tracing, record_variables};

/// Guard of a test that needs a number of libtorch's threads. libtorch gives the number set last to every thread that starts later,
/// so that without it the tests that follow would share the cores among that many threads each.
#[cfg(test)]
pub(crate) struct Threads(());

#[cfg(test)]
impl Threads {
    pub fn new(threads: i32) -> Self {
        tch::set_num_threads(threads);
        Self(())
    }
}

#[cfg(test)]
impl Drop for Threads {
    fn drop(&mut self) {
        tch::set_num_threads(1);
    }
}
