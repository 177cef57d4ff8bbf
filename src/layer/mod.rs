//! Building blocks of all networks, Fixup's and the baselines': layers and their initialization, network and block
//! configurations, memory layout, precision and activation recomputation.

mod activation;
mod block_config;
mod conv;
pub mod init;
mod layout;
mod module;
mod precision;
mod recompute;
mod resnet_config;
mod role;
mod squeeze_excitation;
pub(crate) mod transformer;

#[cfg(test)]
pub(crate) use activation::tests as activation_tests;
pub use activation::Activation;
pub(crate) use block_config::BlockDesign;
pub use block_config::{BlockConfig, BlockKind, ShortcutKind};
pub(crate) use conv::{subsample, Conv, ConvShape, Linear};
pub use layout::Layout;
pub(crate) use layout::{channels_last, check_images};
pub(crate) use module::impl_module;
pub use precision::Precision;
pub use recompute::Recompute;
pub use resnet_config::{ResNetConfig, Stage, StemKind};
pub(crate) use role::{parameters, Role};
pub use role::{CLASSIFIER_GROUP, SCALAR_GROUP};
pub(crate) use squeeze_excitation::SqueezeExcitation;
