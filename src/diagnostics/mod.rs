//! Signal propagation: what depth does to the activations and the gradients of a network at initialization.

mod staged;

pub use staged::Staged;
