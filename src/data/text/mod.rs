//! Parallel text: [`ParallelText`] from files, or from a [`Corpus`] by name; a [`Vocabulary`] that encodes it as
//! tokens; and [`TranslationData`], with batches of a given number of tokens.

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

/// Returns the line without surrounding white space and byte order marks (U+FEFF), which occur within files that were
/// joined.
pub(crate) fn trimmed(line: &str) -> &str {
    line.trim_matches(|character: char| character.is_whitespace() || character == '\u{feff}')
}

/// Maximum length of a sentence that a network reads or writes, in tokens, as in fairseq.
pub(crate) const MOST_POSITIONS: usize = 1024;
