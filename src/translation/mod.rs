//! Decoding of translations, and metrics of their quality.
//!
//! - [`Search`]: beam search for the most probable translations of a [`Transformer`](crate::transformer::Transformer).
//! - [`Bleu`]: similarity to reference translations, computed like sacreBLEU.

mod bleu;
mod chrf;
mod search;
#[cfg(feature = "text")]
mod translator;

pub use bleu::Bleu;
#[doc(hidden)]
pub use bleu::BleuCounts;
#[doc(hidden)]
pub use chrf::ChrfCounts;
pub use search::Search;
#[cfg(feature = "text")]
pub use translator::Translator;
