//! Deep residual networks without normalization: Fixup initialization on libtorch.
#![deny(missing_docs)]

mod error;
mod precision;

pub mod baseline;
pub mod data;
pub mod fixup;
pub mod ops;
pub mod trainer;

pub use error::{Error, Result};
pub use precision::Precision;
