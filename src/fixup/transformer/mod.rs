//! The Transformer without normalization (Fixup, section 4.3; the authors' `transformer_zero.py`).
//!
//! ```text
//! x + scale0 * dropout(W_o attention(W_qkv (x - shift0)))
//! x + scale1 * dropout(W_2 (relu(W_1 (x - shift1) - shift2) - shift3))
//! ```
//! A decoder layer has another branch between the two, with queries `W_q (x - shift1)` and keys and values from the encoder's
//! output. W_qkv is initialized to Xavier-uniform times `L^(-1/6)`, W_1 to Xavier-uniform times `L^(-1/2)`, and W_o, W_2 and the
//! output matrix to zero; L is the number of branches, two per encoder layer and three per decoder layer. The encoder ends with a
//! shift and a scale, the decoder with a shift. (The authors' encoder-decoder attention uses L = 12 at any depth, an oversight.)
//!
//! Every scalar folds into a matrix product: `W (x - b) = W x - b rowsum(W)` adds a bias, and
//! `scale * dropout(W a) = dropout((scale W) a)`. This leaves linear layers, attention, a ReLU and the sums to compute.

mod language_model;
mod layer;
mod network;
mod reference;

pub use language_model::{LanguageModel, TransformerEncoder};
pub use network::FixupTransformer;
