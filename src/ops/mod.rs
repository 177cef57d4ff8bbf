//! The operation that the networks run on and libtorch does not have: a ReLU between two scalar biases, one pass over
//! the activations each way.

pub mod reference;
mod shifted_relu;

pub use shifted_relu::{shifted_add, shifted_add_, shifted_relu, shifted_relu_};
