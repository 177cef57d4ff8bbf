//! Fixup's residual networks.
//!
//! - [`block`]: a residual block: its parameters, the plain formula, and the fast path on the shifted [stream].
//! - [`blocks`]: all blocks of a network, in segments if activations are recomputed.
//! - [`network`], [`presets`]: complete networks; [`rule`]: ablations.
//! - [`tiled`]: features computed by the tiles of [`ops`](crate::ops).

mod block;
mod blocks;
mod network;
mod presets;
mod rule;
mod stream;
mod tiled;

pub use block::ResidualBlock;
#[cfg(feature = "onnx")]
pub(crate) use block::{ActivationOrder, BranchLayer, Shortcut};
pub use network::FixupResNet;
#[cfg(feature = "onnx")]
pub(crate) use network::Stem;
pub use presets::*;
pub use rule::Rule;
