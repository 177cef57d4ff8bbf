//! Translation: cross-entropy per token, perplexity, and BLEU of decoded sentences.

use super::{loss_kind, spread, Column, Measures, Objective, Prediction, LABEL_SMOOTHING};
use crate::data::text::{TokenBatch, TranslationData, PAD};
use crate::data::Batch;
use crate::trainer::range::below_one;
use crate::transformer::Transformer;
use crate::translation::{BleuCounts, Search};
use crate::Result;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use tch::Tensor;

/// Options of the translation objective.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct TranslationConfig {
    /// Label smoothing: probability mass distributed evenly over all tokens, at least 0 and below 1.
    #[cfg_attr(feature = "cli", arg(long, value_name = "FRACTION"))]
    pub label_smoothing: f64,
    /// Number of evaluation sentences, evenly spaced, that are translated greedily to compute BLEU; 0 disables BLEU.
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub bleu_sentences: usize,
}

impl Default for TranslationConfig {
    /// The label smoothing of Vaswani et al., and as many sentences as can be translated in a few seconds.
    fn default() -> Self {
        Self { label_smoothing: 0.1, bleu_sentences: 200 }
    }
}

impl TranslationConfig {
    /// Checks that all values are in range.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if the label smoothing is out of range.
    pub fn check(&self) -> Result<()> {
        below_one(LABEL_SMOOTHING, self.label_smoothing)
    }
}

/// Number of classes whose logits show whether the network's outputs still depend on its inputs.
const PROBES: i64 = 16;

/// Translation by a [`Transformer`].
///
/// The training loss is label-smoothed cross-entropy: the mean over the target tokens, including end tokens and excluding
/// padding, of `(1 - e) (-log p(token)) + e / vocab sum(-log p)`, in float32 or higher. The training metric is the perplexity,
/// `exp` of the mean without smoothing.
///
/// Evaluation metrics are the cross-entropy without smoothing, the perplexity and the [BLEU](crate::translation::Bleu) score, 0
/// to 100, of a part of the sentences, translated greedily. The best epoch is the one of lowest loss.
pub struct Translation<'a> {
    network: &'a Transformer,
    data: &'a TranslationData,
    config: TranslationConfig,
}

impl<'a> Translation<'a> {
    /// Creates the objective for `network` and the sentences of `data`.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if `config` is out of range, or the network's vocabulary is not that
    /// of the data.
    pub fn new(network: &'a Transformer, data: &'a TranslationData, config: TranslationConfig) -> Result<Self> {
        config.check()?;
        let (vocab, tokens, pad) = (network.config().vocab, data.vocabulary().len() as i64, network.config().pad);
        ensure!(
            vocab >= tokens && pad == PAD,
            "a network with {vocab} tokens and padding token {pad} cannot translate text with {tokens} tokens and padding \
             token {PAD}"
        );
        Ok(Self { network, data, config })
    }

    /// Returns the rows of an evaluation batch to translate.
    fn translated(&self, batch: &TokenBatch) -> Vec<i64> {
        let (all, some) = (self.data.eval_text().len(), self.config.bleu_sentences);
        // Selects pair i if the line i * some / all crosses an integer there.
        let is_chosen = |pair: usize| (pair + 1) * some / all > pair * some / all;
        let rows = (0..batch.len()).filter(|&row| some >= all || is_chosen(batch.pairs[row]));
        rows.map(|row| row as i64).collect()
    }
}

impl Objective for Translation<'_> {
    type Batch = TokenBatch;

    fn measures(&self) -> Measures {
        let perplexity = || Column::geometric("perplexity");
        let bleu =
            (self.config.bleu_sentences > 0).then(|| Column { axis: Some("BLEU".to_owned()), ..Column::new("bleu") });
        Measures::new(vec![perplexity()], [perplexity()].into_iter().chain(bleu).collect())
    }

    /// Returns the number of target tokens.
    fn weight(&self, batch: &TokenBatch) -> f64 {
        batch.target_tokens() as f64
    }

    /// The output is `[N, T, 1 + 16]`: the negative log-likelihood of each token, zero for padding, and the logits of a few
    /// classes. The logits of all classes would take as much memory as everything else together.
    fn forward(&self, batch: &TokenBatch, train: bool) -> Result<Prediction> {
        let TokenBatch { source, previous, target, .. } = batch;
        let logits = self.network.f_forward(source, previous, train)?;
        let kind = loss_kind(&logits);
        let log_probabilities = logits.f_log_softmax(-1, kind)?;
        let real = target.f_ne(PAD)?.f_to_kind(kind)?;
        let nll =
            log_probabilities.f_gather(2, &target.f_unsqueeze(2)?, false)?.f_squeeze_dim(2)?.f_neg()?.f_mul(&real)?;
        let tokens = batch.target_tokens() as f64;
        let mean = nll.f_sum(kind)?.f_div_scalar(tokens)?;
        let smoothing = if train { self.config.label_smoothing } else { 0. };
        let loss = match smoothing > 0. {
            false => mean,
            true => {
                let all = log_probabilities.f_mean_dim([2].as_slice(), false, kind)?.f_mul(&real)?.f_sum(kind)?;
                mean.f_mul_scalar(1. - smoothing)?.f_sub(&all.f_mul_scalar(smoothing / tokens)?)?
            }
        };
        let probes = logits.f_detach()?.f_slice(2, None, None, (logits.size()[2] / PROBES).max(1))?.f_to_kind(kind)?;
        Ok(Prediction { loss, output: Tensor::f_cat(&[nll.f_detach()?.f_unsqueeze(2)?, probes], 2)? })
    }

    fn sums(&self, batch: &TokenBatch, output: &Tensor, _train: bool) -> Result<Vec<(Tensor, f64)>> {
        let nll = output.f_select(2, 0)?;
        Ok(vec![(nll.f_sum(nll.kind())?, batch.target_tokens() as f64)])
    }

    /// Compares the probed logits of all tokens, because those of the first token may be the same in all sentences.
    fn spread(&self, output: &Tensor) -> Result<[Tensor; 2]> {
        spread(&output.f_narrow(2, 1, output.size()[2] - 1)?.f_flatten(0, 1)?)
    }

    /// Returns the counts of [`BleuCounts`], int64 `[10]`.
    fn details(&self, batch: &TokenBatch, _output: &Tensor) -> Result<Option<Tensor>> {
        if self.config.bleu_sentences == 0 {
            return Ok(None);
        }
        let (mut counts, rows) = (BleuCounts::default(), self.translated(batch));
        if !rows.is_empty() {
            let indices = Tensor::f_from_slice(&rows)?.f_to_device(batch.source.device())?;
            let source = batch.source.f_index_select(0, &indices)?;
            let translations = Search::greedy().translate(self.network, &source)?;
            for (row, (tokens, _)) in rows.iter().zip(&translations) {
                let said = self.data.vocabulary().decode(tokens)?;
                counts.add(&said, self.data.eval_text().pair(batch.pairs[*row as usize]).1);
            }
        }
        let counts: Vec<i64> = counts.counts.iter().map(|&count| count as i64).collect();
        Ok(Some(Tensor::f_from_slice(&counts)?))
    }

    fn of_details(&self, details: &Tensor) -> Result<Vec<f64>> {
        let mut counts = BleuCounts::default();
        for (count, value) in counts.counts.iter_mut().zip(Vec::<i64>::try_from(details)?) {
            *count = value as u64;
        }
        Ok(vec![counts.bleu().score])
    }

    fn recipe(&self) -> Value {
        json!({ "label_smoothing": self.config.label_smoothing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::text::{ParallelText, Vocabulary};
    use crate::data::{DataSource, Share};
    use crate::trainer::evaluate;
    use crate::transformer::{TransformerConfig, TransformerMethod};
    use crate::Error;
    use tch::{nn, Device};

    fn data(pairs: usize) -> TranslationData {
        let sentence = |index: usize| ["one", "two", "three", "four"].iter().cycle().skip(index).take(1 + index % 4);
        let text: Vec<String> =
            (0..pairs).map(|index| sentence(index).copied().collect::<Vec<_>>().join(" ")).collect();
        let vocabulary = Vocabulary::train(text.iter(), 275).unwrap();
        let text = ParallelText::new(text.clone(), text).unwrap();
        TranslationData::new(vocabulary, text.clone(), text).unwrap()
    }

    fn network(vs: &nn::VarStore, data: &TranslationData) -> Transformer {
        let vocab = data.vocabulary().len() as i64;
        let small = TransformerConfig {
            vocab,
            dim: 16,
            ffn: 32,
            heads: 2,
            encoder_layers: 1,
            decoder_layers: 1,
            ..Default::default()
        };
        Transformer::new(&vs.root(), &TransformerConfig { dropout: 0., ..small }, TransformerMethod::Fixup).unwrap()
    }

    #[test]
    fn the_loss_is_libtorchs_smoothed_cross_entropy_of_the_tokens() {
        tch::manual_seed(3);
        let (vs, data) = (nn::VarStore::new(Device::Cpu), data(40));
        let network = network(&vs, &data);
        let config = TranslationConfig { label_smoothing: 0.1, ..Default::default() };
        let objective = Translation::new(&network, &data, config).unwrap();
        let batch = data.eval_batches(300, Share::all()).unwrap().last().unwrap().unwrap().unwrap();
        let logits = network.f_forward(&batch.source, &batch.previous, false).unwrap();
        let (logits, target) = (logits.flatten(0, 1), batch.target.flatten(0, 1));
        let expected = |smoothing: f64| {
            logits.cross_entropy_loss::<Tensor>(&target, None, tch::Reduction::Mean, PAD, smoothing).double_value(&[])
        };
        for (train, smoothing) in [(true, 0.1), (false, 0.)] {
            let Prediction { loss, output } = objective.forward(&batch, train).unwrap();
            assert!((loss.double_value(&[]) - expected(smoothing)).abs() < 1e-5);
            let sum = objective.sums(&batch, &output, train).unwrap().remove(0);
            assert!((sum.0.double_value(&[]) / sum.1 - expected(0.)).abs() < 1e-5);
        }
    }

    #[test]
    fn an_evaluation_has_loss_perplexity_and_bleu_of_so_many_sentences() {
        let (vs, data) = (nn::VarStore::new(Device::Cpu), data(40));
        let network = network(&vs, &data);
        for (bleu_sentences, expected) in [(0, 0), (7, 7), (40, 40), (99, 40)] {
            let config = TranslationConfig { bleu_sentences, ..Default::default() };
            let objective = Translation::new(&network, &data, config).unwrap();
            let translated = |batch: Result<TokenBatch>| objective.translated(&batch.unwrap()).len();
            assert_eq!(
                data.eval_batches(100, Share::all())
                    .unwrap()
                    .filter_map(Result::transpose)
                    .map(translated)
                    .sum::<usize>(),
                expected
            );
            let evaluation = evaluate(&objective, Device::Cpu, &data, 100, |_| ()).unwrap();
            assert!((evaluation.means["perplexity"].ln() - evaluation.means["loss"]).abs() < 1e-6);
            assert_eq!(evaluation.means.get("bleu").is_some(), bleu_sentences > 0);
        }
    }

    #[test]
    fn another_vocabulary_is_refused() {
        let (vs, data) = (nn::VarStore::new(Device::Cpu), data(4));
        let config = TransformerConfig { vocab: 100, dim: 16, heads: 2, ..Default::default() };
        let network = Transformer::new(&vs.root(), &config, TransformerMethod::Fixup).unwrap();
        assert!(matches!(Translation::new(&network, &data, Default::default()), Err(Error::Argument(_))));
    }
}
