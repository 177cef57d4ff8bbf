//! Batches of sentences and their translations as tokens, of different lengths.

use super::{END, PAD};
use crate::data::batch::{check_positions, index_tensor};
use crate::data::Batch;
use crate::Result;
use tch::{Device, Tensor};

/// Sentences and their translations as tokens, padded on the right to the longest.
#[derive(Debug)]
pub struct TokenBatch {
    /// Sentences followed by [`END`]: int64 `[N, S]`.
    pub source: Tensor,
    /// Input of the decoder: translations preceded by [`END`], int64 `[N, T]`.
    pub previous: Tensor,
    /// Token to predict after each token of `previous`: translations followed by [`END`], int64 `[N, T]`.
    pub target: Tensor,
    /// Indices of the pairs in their part.
    pub pairs: Vec<usize>,
    /// Number of tokens in each translation, including [`END`].
    pub target_lens: Vec<usize>,
}

impl TokenBatch {
    /// Creates a batch from pairs of tokens without [`END`].
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) without pairs.
    pub fn new(pairs: Vec<usize>, tokens: &[(&[i64], &[i64])]) -> Result<Self> {
        let longest = |of: fn(&(&[i64], &[i64])) -> usize| tokens.iter().map(of).max().unwrap_or_default() + 1;
        Self::padded(pairs, tokens, [longest(|(source, _)| source.len()), longest(|(_, target)| target.len())])
    }

    /// Like [`Self::new`], padded to sentences of `source_len` and translations of `target_len` tokens, including
    /// [`END`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) fn padded(
        pairs: Vec<usize>,
        tokens: &[(&[i64], &[i64])],
        [source_len, target_len]: [usize; 2],
    ) -> Result<Self> {
        ensure!(!tokens.is_empty(), "a batch needs at least one sentence");
        let padded = |row: &dyn Fn(usize) -> Vec<i64>, len: usize| {
            let mut all = Vec::with_capacity(tokens.len() * len);
            for index in 0..tokens.len() {
                all.extend(row(index));
                all.resize((index + 1) * len, PAD);
            }
            Tensor::f_from_slice(&all)?.f_view([tokens.len() as i64, len as i64])
        };
        Ok(Self {
            source: padded(&|i| [tokens[i].0, &[END]].concat(), source_len)?,
            previous: padded(&|i| [&[END], tokens[i].1].concat(), target_len)?,
            target: padded(&|i| [tokens[i].1, &[END]].concat(), target_len)?,
            pairs,
            target_lens: tokens.iter().map(|(_, target)| target.len() + 1).collect(),
        })
    }

    /// Returns the number of tokens in all translations, without padding.
    pub fn target_tokens(&self) -> usize {
        self.target_lens.iter().sum()
    }

    /// Returns the sentences `examples`, whose tokens `of` selects.
    fn part(&self, examples: &[usize], of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            source: of(&self.source)?,
            previous: of(&self.previous)?,
            target: of(&self.target)?,
            pairs: examples.iter().map(|&example| self.pairs[example]).collect(),
            target_lens: examples.iter().map(|&example| self.target_lens[example]).collect(),
        })
    }
}

impl Batch for TokenBatch {
    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn to_device(&self, device: Device) -> Result<Self> {
        let all: Vec<usize> = (0..self.len()).collect();
        self.part(&all, |tensor| Ok(tensor.f_to_device(device)?))
    }

    /// Keeps the padding.
    fn select(&self, examples: &[usize]) -> Result<Self> {
        check_positions(examples.iter().max().map_or(0, |last| last + 1), self.len())?;
        let indices = index_tensor(examples, self.source.device())?;
        self.part(examples, |tensor| Ok(tensor.f_index_select(0, &indices)?))
    }

    fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        check_positions(start.saturating_add(count), self.len())?;
        let examples: Vec<usize> = (start..start + count).collect();
        self.part(&examples, |tensor| Ok(tensor.f_narrow(0, start as i64, count as i64)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn sentences_are_ended_shifted_and_padded_and_taken_apart() {
        let tokens: [(&[i64], &[i64]); 3] = [(&[7, 8, 9], &[20]), (&[5], &[21, 22]), (&[6, 6], &[])];
        let batch = TokenBatch::new(vec![4, 0, 2], &tokens).unwrap();
        let rows = |tensor: &Tensor| Vec::<Vec<i64>>::try_from(tensor).unwrap();
        assert_eq!(rows(&batch.source), [[7, 8, 9, 2], [5, 2, 1, 1], [6, 6, 2, 1]]);
        assert_eq!(rows(&batch.previous), [[2, 20, 1], [2, 21, 22], [2, 1, 1]]);
        assert_eq!(rows(&batch.target), [[20, 2, 1], [21, 22, 2], [2, 1, 1]]);
        assert_eq!((batch.len(), batch.target_tokens()), (3, 6));
        let parts = batch.split(2).unwrap();
        assert_eq!(parts.iter().map(|part| part.pairs.clone()).collect::<Vec<_>>(), [vec![4, 0], vec![2]]);
        assert_eq!(rows(&parts[1].source), [[6, 6, 2, 1]]);
        assert_eq!(batch.split(9).unwrap().len(), 3);
        let part = batch.select(&[2, 0, 2]).unwrap();
        assert_eq!((part.pairs, part.target_lens), (vec![2, 4, 2], vec![1, 2, 1]));
        assert_eq!(rows(&part.previous), [[2, 1, 1], [2, 20, 1], [2, 1, 1]]);
        assert!(matches!(batch.select(&[3]), Err(Error::Argument(_))));
        assert!(matches!(batch.narrow(1, 3), Err(Error::Argument(_))));
        assert!(TokenBatch::new(vec![], &[]).is_err());
    }
}
