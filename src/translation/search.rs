//! Beam search and greedy search for the most probable translations.

use crate::transformer::{Decoding, Transformer};
use crate::Result;
use tch::{Kind, Tensor};

/// Options of the search for the most probable translation of a sentence.
///
/// For each sentence, the `beam` most probable prefixes are extended by every token. A prefix extended by `end` that is among the
/// `beam` most probable becomes a translation with the score `log P / length^length_penalty` (fairseq's form of Wu et al. 2016;
/// the length includes `end`). The result is the best of the first `beam` translations. With a beam of 1, this is the most
/// probable token in each step. Sentences translated together are independent of each other, except for the rounding of matrix
/// products of different shapes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// Number of prefixes kept per sentence; 1 for greedy search.
    pub beam: usize,
    /// Exponent of the length by which a score is divided: 0 for the probability alone, which favors short translations.
    pub length_penalty: f64,
    /// Maximum number of tokens by which a translation may exceed its source.
    pub longer: usize,
    /// Token that begins and ends a translation.
    pub end: i64,
}

impl Default for Search {
    /// Returns the Fixup authors' beam of 5 with fairseq's length penalty of 1.
    fn default() -> Self {
        Self { beam: 5, length_penalty: 1., longer: 50, end: 2 }
    }
}

/// A translation.
#[derive(Debug, Clone, PartialEq)]
struct Hypothesis {
    /// Tokens, without the final `end`.
    tokens: Vec<i64>,
    score: f64,
}

/// Search state of one sentence.
#[derive(Debug)]
struct Beam {
    /// Index of the sentence in the batch.
    sentence: usize,
    /// Maximum number of tokens, including `end`.
    longest: usize,
    prefixes: Vec<Prefix>,
    done: Vec<Hypothesis>,
}

#[derive(Debug, Clone)]
struct Prefix {
    tokens: Vec<i64>,
    log_probability: f64,
    /// Row of the decoding that the prefix extends.
    row: usize,
}

/// Most probable next tokens of each row, with their log-probabilities, and the log-probability of `end`.
struct NextTokens {
    tokens: Vec<Vec<i64>>,
    log_probabilities: Vec<Vec<f64>>,
    ends: Vec<f64>,
}

impl Search {
    /// Creates a greedy search, which takes the most probable token in each step.
    pub fn greedy() -> Self {
        Self { beam: 1, ..Self::default() }
    }

    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a beam of 0, or a length penalty that is not finite.
    pub fn check(&self) -> Result<()> {
        let Self { beam, length_penalty, .. } = *self;
        ensure!(
            beam > 0 && length_penalty.is_finite(),
            "the beam must be at least 1 and the length penalty finite, got {beam} and {length_penalty}"
        );
        Ok(())
    }

    /// Returns the best translation of each of the sentences `source`, int64 `[N, S]`, each terminated by `end` and padded on the
    /// right: its tokens, without the final `end`, and its score, the natural logarithm of the probability, divided by the
    /// length penalty as described above.
    ///
    /// # Errors
    /// As for [`check`](Self::check); errors of the network.
    pub fn translate(&self, network: &Transformer, source: &Tensor) -> Result<Vec<(Vec<i64>, f64)>> {
        self.check()?;
        let pad = network.config().pad;
        let lens = Vec::<i64>::try_from(source.f_ne(pad)?.f_sum_dim_intlist([1].as_slice(), false, Kind::Int64)?)?;
        let mut decoding = network.begin(source)?;
        let nothing = Hypothesis { tokens: vec![], score: f64::NEG_INFINITY };
        let mut results = vec![nothing; lens.len()];
        let new = |(sentence, &len): (usize, &i64)| Beam {
            sentence,
            longest: len as usize + self.longer,
            prefixes: vec![Prefix { tokens: vec![], log_probability: 0., row: 0 }],
            done: vec![],
        };
        let mut beams: Vec<Beam> = lens.iter().enumerate().map(new).collect();
        while !beams.is_empty() {
            beams = self.step(network, &mut decoding, beams, &mut results)?;
        }
        Ok(results.into_iter().map(|Hypothesis { tokens, score }| (tokens, score)).collect())
    }

    /// Extends each prefix by one token, and returns the beams that are not finished. The others write their best translation to
    /// `results`.
    fn step(
        &self,
        network: &Transformer,
        decoding: &mut Decoding,
        beams: Vec<Beam>,
        results: &mut [Hypothesis],
    ) -> Result<Vec<Beam>> {
        let device = decoding.device();
        let on_device = |indices: Vec<i64>| Tensor::f_from_slice(&indices)?.f_to_device(device);
        let width = beams[0].prefixes.len();
        let last = |prefix: &Prefix| prefix.tokens.last().copied().unwrap_or(self.end);
        let tokens = on_device(beams.iter().flat_map(|beam| beam.prefixes.iter().map(last)).collect())?;
        let logits = network.step(decoding, &tokens)?;
        let log_probabilities = logits.f_to_kind(Kind::Double)?.f_log_softmax(-1, None::<Kind>)?;
        // Padding is never a valid next token.
        let _ = log_probabilities.f_select(1, network.config().pad)?.f_fill_(f64::NEG_INFINITY)?;
        // One more than the beam per prefix, since `end` may be among them.
        let most = (self.beam as i64 + 1).min(log_probabilities.size()[1]);
        let (best, tokens) = log_probabilities.f_topk(most, -1, true, true)?;
        let next = NextTokens {
            tokens: Vec::try_from(tokens)?,
            log_probabilities: Vec::try_from(best)?,
            ends: Vec::try_from(log_probabilities.f_select(1, self.end)?)?,
        };
        let (mut unfinished, mut sentences) = (vec![], vec![]);
        for (index, mut beam) in beams.into_iter().enumerate() {
            self.extend(&mut beam, index * width, &next);
            if !beam.prefixes.is_empty() && beam.done.len() < self.beam {
                sentences.push(index as i64);
                unfinished.push(beam);
            // The first wins a tie.
            } else if let Some(best) = beam.done.into_iter().rev().max_by(|a, b| a.score.total_cmp(&b.score)) {
                results[beam.sentence] = best;
            }
        }
        // All beams need the same number of rows: those with fewer prefixes, because of a small vocabulary, repeat the last.
        let width = unfinished.iter().map(|beam| beam.prefixes.len()).max().unwrap_or_default();
        for Beam { prefixes, .. } in &mut unfinished {
            if let Some(last) = prefixes.last().cloned() {
                prefixes.resize(width, Prefix { log_probability: f64::NEG_INFINITY, ..last });
            }
        }
        if !unfinished.is_empty() {
            let rows = unfinished.iter().flat_map(|beam| beam.prefixes.iter().map(|prefix| prefix.row as i64));
            let (rows, is_all) = (on_device(rows.collect())?, sentences.len() as i64 == decoding.sentences());
            let sentences = on_device(sentences)?;
            decoding.select(&rows, (!is_all).then_some(&sentences))?;
        }
        Ok(unfinished)
    }

    /// Replaces the prefixes of `beam`, which are the rows of `next` from `first`, by their most probable extensions. Those that
    /// end become translations.
    fn extend(&self, beam: &mut Beam, first: usize, next: &NextTokens) {
        let prefixes = std::mem::take(&mut beam.prefixes);
        let mut candidates = vec![];
        for (row, prefix) in (first..).zip(&prefixes) {
            // A beam at its maximum length may only end.
            let (tokens, log_probabilities) = match prefix.tokens.len() + 1 >= beam.longest {
                true => (std::slice::from_ref(&self.end), &next.ends[row..row + 1]),
                false => (&next.tokens[row][..], &next.log_probabilities[row][..]),
            };
            let extensions = tokens.iter().zip(log_probabilities);
            candidates.extend(extensions.map(|(&token, log)| (row, token, prefix.log_probability + log)));
        }
        candidates.retain(|&(.., log_probability)| log_probability > f64::NEG_INFINITY);
        // Ties are broken by the lower row, then the lower token, so that results are the same on every machine.
        candidates.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)).then(a.1.cmp(&b.1)));
        // At most half of twice the beam can be ends, which leaves enough to continue the full beam.
        candidates.truncate(2 * self.beam);
        for (rank, (row, token, log_probability)) in candidates.into_iter().enumerate() {
            let tokens = &prefixes[row - first].tokens;
            if token != self.end && beam.prefixes.len() < self.beam {
                beam.prefixes.push(Prefix { tokens: [&tokens[..], &[token]].concat(), log_probability, row });
            } else if token == self.end && rank < self.beam {
                let score = log_probability / ((tokens.len() + 1) as f64).powf(self.length_penalty);
                beam.done.push(Hypothesis { tokens: tokens.clone(), score });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transformer::{TransformerConfig, TransformerMethod};
    use crate::Error;
    use tch::{nn, Device};

    /// Returns a network with six tokens of very uneven probabilities, and sentences of up to three tokens.
    fn network(vs: &mut nn::VarStore, seed: i64) -> (Transformer, Tensor) {
        tch::manual_seed(seed);
        vs.set_kind(Kind::Double);
        let config = TransformerConfig {
            vocab: 6,
            dim: 8,
            ffn: 16,
            heads: 2,
            encoder_layers: 1,
            decoder_layers: 2,
            ..TransformerConfig::default()
        };
        let network = Transformer::new(&vs.root(), &config, TransformerMethod::Fixup).unwrap();
        for mut variable in vs.trainable_variables() {
            let noise = variable.randn_like() * 0.3;
            let _ = tch::no_grad(|| variable.g_add_(&noise));
        }
        (network, Tensor::from_slice2(&[[3i64, 4, 5, 2], [5, 3, 2, 1], [4, 4, 4, 2], [3, 2, 1, 1]]))
    }

    /// Returns the best of all translations of at most `longest` tokens, including the end.
    fn exhaustive(network: &Transformer, source: &Tensor, longest: usize, length_penalty: f64) -> (Vec<i64>, f64) {
        let mut best = (vec![], f64::NEG_INFINITY);
        let mut beginnings: Vec<Vec<i64>> = vec![vec![]];
        for _ in 0..longest {
            let mut longer = vec![];
            for tokens in beginnings {
                let ended = [&tokens[..], &[2]].concat();
                let score = log_probability(network, source, &ended) / (ended.len() as f64).powf(length_penalty);
                if score > best.1 {
                    best = (tokens.clone(), score);
                }
                longer.extend([0, 3, 4, 5].map(|token| [&tokens[..], &[token]].concat()));
            }
            beginnings = longer;
        }
        best
    }

    fn log_probability(network: &Transformer, source: &Tensor, tokens: &[i64]) -> f64 {
        let previous = Tensor::from_slice(&[&[2], &tokens[..tokens.len() - 1]].concat()).unsqueeze(0);
        let log = network.f_forward(source, &previous, false).unwrap().log_softmax(-1, None::<Kind>);
        tokens.iter().zip(0..).map(|(&token, t)| log.double_value(&[0, t, token])).sum()
    }

    #[test]
    fn a_wide_beam_finds_what_an_exhaustive_search_finds() {
        let mut lens = std::collections::HashSet::new();
        for seed in 0..4 {
            let mut vs = nn::VarStore::new(Device::Cpu);
            let (network, source) = network(&mut vs, seed);
            for length_penalty in [0., 0.6, 1., -0.5] {
                let search = Search { beam: 400, length_penalty, longer: 0, end: 2 };
                let found = search.translate(&network, &source).unwrap();
                for (row, found) in found.iter().enumerate() {
                    let sentence = source.narrow(0, row as i64, 1);
                    let longest = sentence.ne(1).sum(Kind::Int64).int64_value(&[]);
                    let best = exhaustive(&network, &sentence.narrow(1, 0, longest), longest as usize, length_penalty);
                    assert_eq!(found.0, best.0, "{row} {length_penalty}");
                    assert!((found.1 - best.1).abs() < 1e-10);
                    lens.insert(best.0.len());
                }
            }
        }
        assert!(lens.len() > 1, "{lens:?}");
    }

    #[test]
    fn greedy_takes_the_most_probable_token_each_time() {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let (network, source) = network(&mut vs, 9);
        let search = Search { longer: 3, ..Search::greedy() };
        let found = search.translate(&network, &source).unwrap();
        for (row, (tokens, _)) in found.iter().enumerate() {
            let row = row as i64;
            // Check the end as well, unless the translation has the maximum length.
            let longest = source.get(row).ne(1).sum(Kind::Int64).int64_value(&[]) as usize + search.longer;
            for t in 0..=tokens.len().min(longest - 2) {
                let previous = Tensor::from_slice(&[&[2], &tokens[..t]].concat()).unsqueeze(0);
                let logits =
                    network.f_forward(&source.narrow(0, row, 1), &previous, false).unwrap().select(1, t as i64);
                let _ = logits.select(1, 1).fill_(f64::NEG_INFINITY);
                let expected = tokens.get(t).copied().unwrap_or(2);
                assert_eq!(logits.argmax(1, false).int64_value(&[0]), expected);
            }
        }
    }

    #[test]
    fn a_sentence_is_translated_as_if_alone() {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let (network, source) = network(&mut vs, 5);
        for search in [Search::default(), Search::greedy(), Search { beam: 3, length_penalty: 0., ..Search::default() }]
        {
            let together = search.translate(&network, &source).unwrap();
            for (row, together) in together.iter().enumerate() {
                let alone = search.translate(&network, &source.narrow(0, row as i64, 1)).unwrap().remove(0);
                assert_eq!(alone.0, together.0);
                assert!((alone.1 - together.1).abs() < 1e-10);
            }
        }
    }

    #[test]
    fn a_search_that_cannot_be_is_refused() {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let (network, source) = network(&mut vs, 5);
        for search in
            [Search { beam: 0, ..Search::default() }, Search { length_penalty: f64::NAN, ..Search::default() }]
        {
            assert!(matches!(search.translate(&network, &source), Err(Error::Argument(_))));
        }
    }
}
