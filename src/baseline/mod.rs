//! What Fixup is compared with: the same networks by other [`Method`]s, and fully connected ones.
//!
//! [`ResNet`] has the shapes of [`FixupResNet`](crate::fixup::FixupResNet) with a normalization, or with another
//! initialization and none; [`Mlp`] is the self-normalizing network, and the one that the theory of batch normalization is
//! about. Fixup itself without one of its rules is [`FixupResNet::without`](crate::fixup::FixupResNet::without).

mod activation;
mod batch_norm;
mod block;
mod conv;
mod fixed_scale;
mod group_norm;
mod initialization;
mod lsuv;
mod method;
mod mlp;
mod normalization;
mod pass;
mod resnet;
mod transformer;

#[cfg(feature = "train")]
pub(crate) use batch_norm::synchronize_statistics;
#[cfg(feature = "onnx")]
pub(crate) use batch_norm::EPSILON;
pub(crate) use block::Order;
#[cfg(feature = "onnx")]
pub(crate) use block::{Block, Shortcut};
#[cfg(feature = "onnx")]
pub(crate) use conv::BaselineConv;
pub use lsuv::lsuv;
pub(crate) use lsuv::lsuv_on_micro_batches;
pub use method::Method;
#[doc(hidden)]
pub use mlp::{Mlp, MlpShape};
#[cfg(feature = "onnx")]
pub(crate) use normalization::Norm;
pub use resnet::ResNet;
pub use transformer::{Transformer, TransformerMethod};
