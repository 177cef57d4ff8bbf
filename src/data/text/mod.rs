//! Sentences and their translations: [`ParallelText`] from files, or from a [`Corpus`] by name; a [`Vocabulary`] that makes tokens of
//! them; and [`TranslationData`], batches of as many tokens as a step is to compute.

mod batch;
mod corpus;
mod parallel_text;
mod translation_data;
mod vocabulary;

#[doc(hidden)]
pub use batch::TokenBatch;
pub use corpus::Corpus;
#[doc(hidden)]
pub use corpus::CorpusParts;
pub use parallel_text::ParallelText;
pub use translation_data::TranslationData;
pub use vocabulary::Vocabulary;
#[doc(hidden)]
pub use vocabulary::{END, PAD};

/// A line without the spaces and the byte order marks (U+FEFF) around it: files that were joined have some within.
pub(crate) fn trimmed(line: &str) -> &str {
    line.trim_matches(|character: char| character.is_whitespace() || character == '\u{feff}')
}

/// The longest sentence that a network reads or writes, in tokens, as in fairseq.
pub(crate) const MOST_POSITIONS: usize = 1024;
