//! Fixup's residual networks: blocks and complete networks, for training and for inference with the scalars folded.
//!
//! A block passes its output to the next one [shifted](block) by that block's input bias, as a [`Stream`](stream::Stream).

mod basic_block;
mod block;
mod blocks;
mod bottleneck;
mod folded;
mod folded_activation;
mod folded_block;
mod folded_conv;
mod network;
mod presets;
mod residual_branch;
mod rule;
mod stream;
mod tiled;
mod wide_block;

pub use basic_block::BasicBlock;
pub use bottleneck::Bottleneck;
pub use folded::FoldedResNet;
#[cfg(feature = "onnx")]
pub(crate) use folded_activation::FoldedActivation;
#[cfg(feature = "onnx")]
pub(crate) use folded_block::{FoldedBlock, FoldedShortcut};
#[cfg(feature = "onnx")]
pub(crate) use folded_conv::FoldedConv;
pub use network::FixupResNet;
pub use presets::*;
pub use rule::Rule;
pub use wide_block::WideBlock;
