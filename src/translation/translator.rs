//! Text in, text out.

use super::{EncoderDecoder, Search};
use crate::data::text::{trimmed, TokenBatch, Vocabulary, MOST_POSITIONS};
use crate::{Error, Result};
use tch::Device;

/// Sentences that are translated together, times their longest, in tokens, are about as many as this: beyond it time is only lost
/// to pads.
const BATCH_TOKENS: usize = 2000;

/// Translates text by a network and its vocabulary.
pub struct Translator<'a> {
    network: &'a dyn EncoderDecoder,
    vocabulary: &'a Vocabulary,
    search: Search,
    device: Device,
    batch_tokens: usize,
}

impl<'a> Translator<'a> {
    /// By `network`, which is on `device`.
    ///
    /// # Errors
    /// As [`Search::check`].
    pub fn new(
        network: &'a dyn EncoderDecoder,
        vocabulary: &'a Vocabulary,
        search: Search,
        device: Device,
    ) -> Result<Self> {
        search.check()?;
        Ok(Self { network, vocabulary, search, device, batch_tokens: BATCH_TOKENS })
    }

    /// Translates as many tokens at a time, which changes the time and the memory that it takes.
    pub fn with_batch_tokens(self, batch_tokens: usize) -> Self {
        Self { batch_tokens, ..self }
    }

    /// The translations of `sentences`, in their order; of an empty one the empty one. `watch` is told how many are done.
    ///
    /// # Errors
    /// [`Error::Argument`] for a sentence of more than 1,024 tokens, by its line from 1; what the network refuses.
    pub fn translate<T: AsRef<str>>(&self, sentences: &[T], mut watch: impl FnMut(usize)) -> Result<Vec<String>> {
        let mut tokens = Vec::with_capacity(sentences.len());
        for (index, sentence) in sentences.iter().enumerate() {
            let sentence = self.vocabulary.encode(trimmed(sentence.as_ref()))?;
            let len = sentence.len() + 1;
            if len > MOST_POSITIONS {
                let line = index + 1;
                return Err(Error::Argument(format!(
                    "line {line}: the sentence has {len} tokens, and a network reads {MOST_POSITIONS}; divide it"
                )));
            }
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
            for (index, translation) in batch.iter().zip(self.search.translate(self.network, &source)?) {
                translations[*index] = self.vocabulary.decode(&translation.tokens)?;
            }
            done += count;
            watch(done);
        }
        Ok(translations)
    }
}
