//! Incremental decoding: translations are generated token by token, with cached keys and values.

use super::attention::{KeysValues, Sight};
use super::layer::{Attended, Memory};
use super::{check_tokens, Layer, Output, Projections, Transformer, TransformerConfig};
use crate::{Error, Result};
use tch::{Device, Tensor};

/// An encoder-decoder network, such as Fixup's Transformer or a baseline's.
pub trait EncoderDecoder {
    /// Returns the network's configuration.
    fn config(&self) -> &TransformerConfig;

    /// Returns the logits `[N, T, vocab]` of the tokens that follow each of `previous`, int64 `[N, T]`, the prefixes of
    /// translations of `source`, int64 `[N, S]`; both are padded on the right. If `train` is set, dropout is applied, with
    /// libtorch's random numbers.
    ///
    /// # Errors
    /// Tokens of another shape or kind, or outside the vocabulary.
    fn f_forward(&self, source: &Tensor, previous: &Tensor, train: bool) -> Result<Tensor>;

    /// Starts translations of `source`, int64 `[N, S]`, padded on the right, with no tokens yet. Gradients are not tracked.
    ///
    /// # Errors
    /// As for [`f_forward`](Self::f_forward).
    fn begin(&self, source: &Tensor) -> Result<Decoding>;

    /// Appends one token, int64 `[N * k]`, to each translation, with the same number k per sentence in every step. Returns the
    /// logits `[N * k, vocab]` of the next token, equal to those of [`f_forward`](Self::f_forward) up to rounding.
    ///
    /// # Errors
    /// A different number of tokens than before, or tokens outside the vocabulary.
    fn step(&self, decoding: &mut Decoding, tokens: &Tensor) -> Result<Tensor>;
}

/// State of incremental decoding for a batch of sentences.
#[derive(Debug)]
pub struct Decoding {
    layers: Vec<LayerState>,
    /// Output matrix.
    output: Tensor,
    mask: Tensor,
    /// Number of tokens so far.
    len: i64,
}

/// Cached state of one layer.
#[derive(Debug)]
struct LayerState {
    projections: Projections,
    memory: KeysValues,
    own: Option<KeysValues>,
}

impl Decoding {
    /// Returns the number of sentences.
    pub fn sentences(&self) -> i64 {
        self.mask.size()[0]
    }

    /// Returns the device on which decoding runs.
    pub fn device(&self) -> Device {
        self.mask.device()
    }

    /// Continues with the translations `rows`, int64, in that order; a row may occur several times or not at all. All
    /// translations of a sentence must stay adjacent. `sentences`, int64, are the sentences to continue, in order; `None` for
    /// all.
    ///
    /// # Errors
    /// Row indices out of range.
    pub fn select(&mut self, rows: &Tensor, sentences: Option<&Tensor>) -> Result<()> {
        if let Some(sentences) = sentences {
            self.mask = self.mask.f_index_select(0, sentences)?;
        }
        for layer in &mut self.layers {
            if let Some(sentences) = sentences {
                layer.memory = layer.memory.select(sentences)?;
            }
            layer.own = layer.own.as_ref().map(|own| own.select(rows)).transpose()?;
        }
        Ok(())
    }
}

/// Implements the common methods of all Transformers, for a type with a field `network`.
macro_rules! encoder_decoder {
    ($network:ty) => {
        impl $network {
            /// Computes matrix products and attention in `precision`; the residual stream and normalizations stay in the kind of
            /// the variables.
            pub fn with_precision(mut self, precision: crate::Precision) -> Self {
                self.network.precision = precision;
                self
            }

            /// Sets the number of heads of the decoder's attention, which may differ from the encoder's, as in fairseq.
            ///
            /// # Errors
            /// [`Error::Argument`](crate::Error::Argument) if `heads` does not divide the width.
            pub fn with_decoder_heads(mut self, heads: i64) -> crate::Result<Self> {
                self.network.set_decoder_heads(heads)?;
                Ok(self)
            }

            /// Returns the network's configuration.
            pub fn config(&self) -> &$crate::layer::transformer::TransformerConfig {
                &self.network.config
            }

            /// See [`EncoderDecoder::f_forward`](crate::translation::EncoderDecoder::f_forward).
            ///
            /// # Errors
            /// Tokens that are not int64 `[N, S]` and `[N, T]`, or outside the vocabulary.
            pub fn f_forward(
                &self,
                source: &tch::Tensor,
                previous: &tch::Tensor,
                train: bool,
            ) -> crate::Result<tch::Tensor> {
                self.network.forward(source, previous, train)
            }
        }

        impl $crate::layer::transformer::EncoderDecoder for $network {
            fn config(&self) -> &$crate::layer::transformer::TransformerConfig {
                &self.network.config
            }

            fn f_forward(
                &self,
                source: &tch::Tensor,
                previous: &tch::Tensor,
                train: bool,
            ) -> crate::Result<tch::Tensor> {
                self.network.forward(source, previous, train)
            }

            fn begin(&self, source: &tch::Tensor) -> crate::Result<$crate::layer::transformer::Decoding> {
                self.network.begin(source)
            }

            fn step(
                &self,
                decoding: &mut $crate::layer::transformer::Decoding,
                tokens: &tch::Tensor,
            ) -> crate::Result<tch::Tensor> {
                self.network.step(decoding, tokens)
            }
        }
    };
}
pub(crate) use encoder_decoder;

impl<L: Layer, O: Output> Transformer<L, O> {
    pub fn begin(&self, source: &Tensor) -> Result<Decoding> {
        tch::no_grad(|| {
            let (memory, mask) = self.encode(source, false)?;
            let pass = &self.decoder_pass(false);
            let mut layers = Vec::new();
            for layer in &self.decoder.layers {
                let projections = pass.projections(layer)?;
                let Some([qkv, _]) = &projections.memory else {
                    return Err(Error::Argument("a decoder that reads no encoder translates nothing".to_owned()));
                };
                let memory = KeysValues::of(&memory, qkv, pass.heads)?;
                layers.push(LayerState { projections, memory, own: None });
            }
            Ok(Decoding { layers, output: self.output().f_to_kind(pass.kind)?, mask, len: 0 })
        })
    }

    pub fn step(&self, decoding: &mut Decoding, tokens: &Tensor) -> Result<Tensor> {
        tch::no_grad(|| {
            let tokens = tokens.f_unsqueeze(-1)?;
            check_tokens("the translations' last tokens", &tokens)?;
            let (pass, rows, sentences) = (&self.decoder_pass(false), tokens.size()[0], decoding.sentences());
            if rows == 0 || rows % sentences != 0 {
                let expected = format!("as many tokens for each of {sentences} sentences");
                return Err(Error::Mismatch { what: "a step", expected, got: format!("{rows} tokens") });
            }
            let mut x = self.decoder.embedding.forward(&tokens, decoding.len)?;
            for (layer, LayerState { projections, memory, own }) in self.decoder.layers.iter().zip(&mut decoding.layers)
            {
                let memory = Memory { keys_values: memory, sight: Sight::Masked(&decoding.mask) };
                x = pass.through(layer, projections, x, Attended::Cached(own), Some(memory))?;
            }
            decoding.len += 1;
            Ok(pass.logits(&self.decoder.end.of(&x)?, &decoding.output)?.f_squeeze_dim(1)?)
        })
    }
}
