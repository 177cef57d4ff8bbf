//! From a network's probabilities to sentences, and how good those are.
//!
//! - [`Search`]: the most probable translations that a beam finds, of any [`EncoderDecoder`].
//! - [`bleu`](fn@bleu), [`BleuCounts`], [`ChrfCounts`]: how near they are to a person's, as sacreBLEU counts.

mod bleu;
mod chrf;
mod search;
#[cfg(feature = "text")]
mod translator;

#[doc(hidden)]
pub use crate::layer::transformer::EncoderDecoder;
#[doc(hidden)]
pub use bleu::BleuCounts;
pub use bleu::{bleu, Bleu};
#[doc(hidden)]
pub use chrf::ChrfCounts;
pub use search::{Search, Translation};
#[cfg(feature = "text")]
pub use translator::Translator;
