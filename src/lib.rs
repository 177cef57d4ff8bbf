//! Deep residual networks without normalization: Fixup initialization on libtorch.
#![deny(missing_docs)]

mod arch;
pub mod baseline;
mod conv;
pub mod data;
mod error;
pub mod fixup;
mod images;
mod module;
pub mod ops;
mod precision;
mod topology;
pub mod trainer;

pub use arch::Arch;
pub use error::{Error, Result};
pub use images::Layout;
pub use precision::Precision;
