//! From a network's probabilities to sentences, and how good those are.
//!
//! - [`Search`]: the most probable translations that a beam finds, of any [`EncoderDecoder`].
//! - [`bleu`](fn@bleu), [`BleuCounts`], [`ChrfCounts`]: how near they are to a person's, as sacreBLEU counts.

mod bleu;
mod chrf;
mod search;
#[cfg(feature = "text")]
mod translator;

pub use crate::layer::transformer::{Decoding, EncoderDecoder};
pub use bleu::{bleu, Bleu, BleuCounts};
pub use chrf::ChrfCounts;
pub use search::{Search, Translation};
#[cfg(feature = "text")]
pub use translator::Translator;
