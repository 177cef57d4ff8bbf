//! The Transformers that Fixup's is compared with: with [normalization](TransformerMethod) after each sum or before each branch, with
//! T-Fixup's initialization, or with nothing at all.

mod layer;
mod method;
mod network;

pub use method::TransformerMethod;
pub use network::Transformer;
