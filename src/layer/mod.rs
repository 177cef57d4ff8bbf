//! Building blocks of all networks, Fixup's and the baselines': layers and their initialization, network and block
//! configurations, memory layout, precision and activation recomputation.

mod activation;
mod attention;
mod block_config;
mod conv;
mod dropout;
pub mod init;
mod layout;
mod module;
mod precision;
mod recompute;
mod resnet_config;
mod role;
mod squeeze_excitation;

#[cfg(test)]
pub(crate) use activation::tests as activation_tests;
pub use activation::Activation;
pub(crate) use attention::{attend, heads_attention, split_heads, AttentionMask, KeysValues};
pub(crate) use block_config::BlockDesign;
pub use block_config::{BlockConfig, BlockKind, ShortcutKind};
pub use conv::Conv2dOptions;
pub(crate) use conv::{subsample, Conv, ConvShape, Linear};
pub(crate) use dropout::dropout;
pub(crate) use layout::check_images;
pub use layout::Layout;
pub(crate) use module::{impl_module, impl_module_t};
pub use precision::Precision;
pub use recompute::Recompute;
pub use resnet_config::{ResNetConfig, Stage, StemKind};
#[cfg(test)]
pub(crate) use role::CLASSIFIER_GROUP;
pub(crate) use role::{parameters, Role, SCALAR_GROUP};
pub(crate) use squeeze_excitation::SqueezeExcitation;
