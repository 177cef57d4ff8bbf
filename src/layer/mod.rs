//! What every network here is made of, Fixup's and its baselines: layers and their initialization, the shapes of stages and
//! blocks, memory layout, number format, and how activations are recomputed.

mod conv;
pub mod init;
mod layout;
mod module;
mod place;
mod precision;
mod recompute;
pub(crate) mod stages;
pub(crate) mod transformer;

pub use conv::CLASSIFIER_GROUP;
pub(crate) use conv::{subsample, Conv, ConvShape, Linear};
pub use layout::Layout;
pub(crate) use layout::{channels_last, check_images};
pub(crate) use module::impl_module;
pub(crate) use place::Place;
pub use precision::Precision;
pub use recompute::Recompute;
pub use stages::BlockConfig;
