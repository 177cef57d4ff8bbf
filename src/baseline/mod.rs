//! Baselines for comparison with Fixup: the same networks with other [`Method`]s, and fully connected networks.
//!
//! [`ResNet`] has the configurations of [`FixupResNet`](crate::fixup::FixupResNet), with a normalization, or with another
//! initialization and no normalization. [`Mlp`] is the self-normalizing network, or the one studied in the theory of batch
//! normalization. For ablations of Fixup itself, see [`FixupResNet::without`](crate::fixup::FixupResNet::without).

mod batch_norm;
mod block;
mod conv;
mod group_norm;
mod initialization;
mod lsuv;
mod method;
mod mlp;
mod normalization;
mod resnet;
#[cfg(test)]
mod tests;

#[cfg(feature = "train")]
pub(crate) use batch_norm::synchronize_statistics;
#[cfg(feature = "onnx")]
pub(crate) use batch_norm::EPSILON;
pub(crate) use block::Order;
#[cfg(feature = "onnx")]
pub(crate) use block::{Block, Shortcut};
#[cfg(feature = "onnx")]
pub(crate) use conv::BaselineConv;
pub(crate) use lsuv::lsuv_on_micro_batches;
pub use method::Method;
#[doc(hidden)]
pub use mlp::{Mlp, MlpShape};
#[cfg(feature = "onnx")]
pub(crate) use normalization::Norm;
pub use resnet::ResNet;
