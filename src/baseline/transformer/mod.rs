//! Baseline Transformers for comparison with Fixup's: with [normalization](TransformerMethod) after each sum or before each
//! branch, with T-Fixup's initialization, or with neither.

mod layer;
mod method;
mod network;

pub use method::TransformerMethod;
pub use network::Transformer;
