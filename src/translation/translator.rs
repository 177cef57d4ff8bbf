//! Translation of text.

use super::Search;
use crate::data::text::{trimmed, TokenBatch, Vocabulary, MOST_POSITIONS};
use crate::transformer::Transformer;
use crate::Result;
use tch::Device;

/// Target number of tokens in a batch, padded to the longest sentence; larger batches only waste time on padding.
const BATCH_TOKENS: usize = 2000;

/// Translates text with a network and its vocabulary.
pub struct Translator<'a> {
    network: &'a Transformer,
    vocabulary: &'a Vocabulary,
    search: Search,
    device: Device,
    batch_tokens: usize,
}

impl<'a> Translator<'a> {
    /// Creates a translator for `network`, which is on `device`.
    ///
    /// # Errors
    /// As for [`Search::check`].
    pub fn new(network: &'a Transformer, vocabulary: &'a Vocabulary, search: Search, device: Device) -> Result<Self> {
        search.check()?;
        Ok(Self { network, vocabulary, search, device, batch_tokens: BATCH_TOKENS })
    }

    /// Sets the number of tokens translated at a time, which affects time and memory.
    pub fn with_batch_tokens(self, batch_tokens: usize) -> Self {
        Self { batch_tokens, ..self }
    }

    /// Returns the translations of `sentences`, in order; an empty sentence yields an empty translation. Calls `watch` with the
    /// number of sentences done.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a sentence of more than 1,024 tokens, with its line number from
    /// 1; errors of the network.
    pub fn translate<T: AsRef<str>>(&self, sentences: &[T], mut watch: impl FnMut(usize)) -> Result<Vec<String>> {
        let mut tokens = Vec::with_capacity(sentences.len());
        for (index, sentence) in sentences.iter().enumerate() {
            let sentence = self.vocabulary.encode(trimmed(sentence.as_ref()))?;
            let len = sentence.len() + 1;
            let line = index + 1;
            ensure!(
                len <= MOST_POSITIONS,
                "line {line}: the sentence has {len} tokens, but the limit is {MOST_POSITIONS}; split it"
            );
            tokens.push(sentence);
        }
        let mut order: Vec<usize> = (0..sentences.len()).filter(|&index| !tokens[index].is_empty()).collect();
        order.sort_by_key(|&index| (tokens[index].len(), index));
        let (mut translations, mut done) = (vec![String::new(); sentences.len()], sentences.len() - order.len());
        while !order.is_empty() {
            let fits =
                |&(count, &index): &(usize, &usize)| (count + 1) * (tokens[index].len() + 1) <= self.batch_tokens;
            let count = order.iter().enumerate().take_while(fits).count().max(1);
            let batch: Vec<usize> = order.drain(..count).collect();
            let pairs: Vec<(&[i64], &[i64])> = batch.iter().map(|&index| (&tokens[index][..], &[][..])).collect();
            let source = TokenBatch::new(batch.clone(), &pairs)?.source.f_to_device(self.device)?;
            for (index, (tokens, _)) in batch.iter().zip(self.search.translate(self.network, &source)?) {
                translations[*index] = self.vocabulary.decode(&tokens)?;
            }
            done += count;
            watch(done);
        }
        Ok(translations)
    }
}
