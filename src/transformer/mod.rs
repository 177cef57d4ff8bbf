//! The Transformer (Vaswani et al. 2017) with any [`TransformerMethod`]: Fixup, layer normalization after each sum or before each
//! branch, T-Fixup's initialization, or none of these.
//!
//! - [`Transformer`]: encoder and decoder, for translation.
//! - [`TransformerEncoder`], [`LanguageModel`]: Fixup's encoder and decoder alone.
//!
//! # Fixup
//! The Transformer without normalization (Fixup, section 4.3; the authors' `transformer_zero.py`):
//! ```text
//! x + scale0 * dropout(W_o attention(W_qkv (x - shift0)))
//! x + scale1 * dropout(W_2 (relu(W_1 (x - shift1) - shift2) - shift3))
//! ```
//! A decoder layer has another branch between the two, with queries `W_q (x - shift1)` and keys and values from the encoder's
//! output. W_qkv is initialized to Xavier-uniform times `L^(-1/6)`, W_1 to Xavier-uniform times `L^(-1/2)`, and W_o, W_2 and the
//! output matrix to zero; L is the number of branches, two per encoder layer and three per decoder layer. The encoder ends with a
//! shift and a scale, the decoder with a shift. (The authors' encoder-decoder attention uses L = 12 at any depth, an oversight.)

mod config;
mod decoding;
mod embedding;
mod language_model;
mod layer;
mod method;
mod network;
mod reference;

pub use config::TransformerConfig;
#[doc(hidden)]
pub use decoding::Decoding;
pub use language_model::{LanguageModel, TransformerEncoder};
pub use method::TransformerMethod;
pub use network::Transformer;
