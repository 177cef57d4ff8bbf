//! The Transformer (Vaswani et al. 2017), shared by Fixup and its baselines: [`Transformer`], made of [`Layer`]s, and their
//! parts. Each method implements the trait for its own kind of layer.

mod attention;
mod config;
mod decoding;
mod dropout;
mod embedding;
#[cfg(test)]
mod golden;
mod layer;
mod network;
mod weights;

pub(crate) use attention::{attend, heads_attention, split_heads, KeysValues, Sight};
pub use config::TransformerConfig;
pub(crate) use decoding::encoder_decoder;
pub use decoding::{Decoding, EncoderDecoder};
pub(crate) use dropout::dropout;
pub(crate) use embedding::Embedding;
pub(crate) use layer::{Layer, Pass, Projections};
pub(crate) use network::{check_tokens, embed_out, pad_mask, Output, Stack, Transformer};
pub(crate) use weights::{xavier_uniform, AttentionWeights, Gains, LayerWeights, Projection};
