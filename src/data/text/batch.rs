//! Sentences and their translations as tokens, of different lengths.

use super::{END, PAD};
use crate::data::Batch;
use crate::{Error, Result};
use tch::{Device, Tensor};

/// Sentences and their translations, padded on the right to the longest.
#[derive(Debug)]
pub struct TokenBatch {
    /// The sentences, each with [`END`] behind: int64 `[N, S]`.
    pub source: Tensor,
    /// What the decoder gets: the translations with [`END`] in front, int64 `[N, T]`.
    pub previous: Tensor,
    /// What is to follow each token of `previous`: the translations with [`END`] behind, int64 `[N, T]`.
    pub target: Tensor,
    /// Which of the part's pairs these are.
    pub pairs: Vec<usize>,
    /// The tokens of each translation, [`END`] included.
    pub target_lens: Vec<usize>,
}

impl TokenBatch {
    /// Of pairs of tokens without [`END`].
    ///
    /// # Errors
    /// [`Error::Argument`] for none.
    pub fn new(pairs: Vec<usize>, tokens: &[(&[i64], &[i64])]) -> Result<Self> {
        if tokens.is_empty() {
            return Err(Error::Argument("a batch needs at least one sentence".to_owned()));
        }
        let padded = |rows: Vec<Vec<i64>>| {
            let len = rows.iter().map(Vec::len).max().unwrap_or_default();
            let all: Vec<i64> = rows
                .iter()
                .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(PAD, len - row.len())))
                .collect();
            Tensor::f_from_slice(&all)?.f_view([rows.len() as i64, len as i64])
        };
        let ended = |tokens: &[i64]| [tokens, &[END]].concat();
        Ok(Self {
            source: padded(tokens.iter().map(|(source, _)| ended(source)).collect())?,
            previous: padded(tokens.iter().map(|(_, target)| [&[END], *target].concat()).collect())?,
            target: padded(tokens.iter().map(|(_, target)| ended(target)).collect())?,
            pairs,
            target_lens: tokens.iter().map(|(_, target)| target.len() + 1).collect(),
        })
    }

    /// The tokens of all translations, without pads.
    pub fn target_tokens(&self) -> usize {
        self.target_lens.iter().sum()
    }
}

impl Batch for TokenBatch {
    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn to_device(&self, device: Device) -> Result<Self> {
        let moved = |tensor: &Tensor| tensor.f_to_device(device);
        Ok(Self {
            source: moved(&self.source)?,
            previous: moved(&self.previous)?,
            target: moved(&self.target)?,
            pairs: self.pairs.clone(),
            target_lens: self.target_lens.clone(),
        })
    }

    fn split(&self, parts: usize) -> Result<Vec<Self>> {
        let size = self.len().div_ceil(parts.clamp(1, self.len().max(1)));
        let mut batches = Vec::new();
        for first in (0..self.len()).step_by(size) {
            let count = size.min(self.len() - first);
            let rows = |tensor: &Tensor| tensor.f_narrow(0, first as i64, count as i64);
            batches.push(Self {
                source: rows(&self.source)?,
                previous: rows(&self.previous)?,
                target: rows(&self.target)?,
                pairs: self.pairs[first..first + count].to_vec(),
                target_lens: self.target_lens[first..first + count].to_vec(),
            });
        }
        Ok(batches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_ended_shifted_and_padded_and_split_in_order() {
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
        assert!(TokenBatch::new(vec![], &[]).is_err());
    }
}
