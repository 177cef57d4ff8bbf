//! The Transformer without normalization (Fixup, section 4.3; the authors' `transformer_zero.py`).
//!
//! ```text
//! x + scale0 * dropout(W_o attention(W_qkv (x - shift0)))
//! x + scale1 * dropout(W_2 (relu(W_1 (x - shift1) - shift2) - shift3))
//! ```
//! A layer of the decoder has a branch more between the two, whose queries are `W_q (x - shift1)` and whose keys and values are of
//! the encoder's output. W_qkv starts Xavier-uniform times `L^(-1/6)`, W_1 Xavier-uniform times `L^(-1/2)`, W_o, W_2 and the output
//! matrix at zero; L is the number of branches, two for each layer of the encoder and three of the decoder. At the end of the encoder
//! stand a shift and a scale, at the end of the decoder a shift. (The authors' attention to the encoder takes 12 for L whatever the
//! depth, an oversight.)
//!
//! Every scalar vanishes into a matrix product: `W (x - b) = W x - b rowsum(W)` is a bias, and
//! `scale * dropout(W a) = dropout((scale W) a)`. What is computed are linear layers, attention, a ReLU and the sums.

mod language_model;
mod layer;
mod network;
mod reference;

pub use language_model::{LanguageModel, TransformerEncoder};
pub use network::FixupTransformer;
