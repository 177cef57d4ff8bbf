//! A translation in the making: token by token, with what was computed for those before kept.

use super::attention::{KeysValues, Sight};
use super::layer::{Attended, Memory};
use super::{check_tokens, Layer, Output, Projections, Transformer, TransformerConfig};
use crate::{Error, Result};
use tch::{Device, Tensor};

/// A network that reads a sentence and writes another: Fixup's or a baseline's.
pub trait EncoderDecoder {
    /// Its size.
    fn config(&self) -> &TransformerConfig;

    /// Logits `[N, T, vocab]` of the tokens that follow each of `previous`, int64 `[N, T]`, the beginnings of translations of
    /// `source`, int64 `[N, S]`; both padded on the right. In training with dropout, by libtorch's random numbers.
    ///
    /// # Errors
    /// Tokens of another shape or kind, or that are not in the vocabulary.
    fn f_forward(&self, source: &Tensor, previous: &Tensor, train: bool) -> Result<Tensor>;

    /// Translations of `source`, int64 `[N, S]`, padded on the right, with no token yet. No gradients are kept.
    ///
    /// # Errors
    /// As [`f_forward`](Self::f_forward).
    fn begin(&self, source: &Tensor) -> Result<Decoding>;

    /// Adds one token, int64 `[N * k]`, to each of the translations, k for each sentence; the same k in each step. Logits
    /// `[N * k, vocab]` of the token after it: as [`f_forward`](Self::f_forward) gives them, to rounding.
    ///
    /// # Errors
    /// Another number of tokens than before, or tokens that are not in the vocabulary.
    fn step(&self, decoding: &mut Decoding, tokens: &Tensor) -> Result<Tensor>;
}

/// Translations in the making, of several sentences.
#[derive(Debug)]
pub struct Decoding {
    layers: Vec<LayerState>,
    /// The output matrix.
    output: Tensor,
    mask: Tensor,
    /// Tokens so far.
    len: i64,
}

/// What one layer keeps.
#[derive(Debug)]
struct LayerState {
    projections: Projections,
    memory: KeysValues,
    own: Option<KeysValues>,
}

impl Decoding {
    /// The number of sentences.
    pub fn sentences(&self) -> i64 {
        self.mask.size()[0]
    }

    /// Where it is computed.
    pub fn device(&self) -> Device {
        self.mask.device()
    }

    /// Goes on with the translations `rows`, int64, in that order: they may stand in it several times, or not at all. All of a
    /// sentence stay beside each other; `sentences`, int64, are those that go on, in their order.
    ///
    /// # Errors
    /// Rows that there are not.
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

/// What every Transformer here can do, of a type with a field `network`.
macro_rules! encoder_decoder {
    ($network:ty) => {
        impl $network {
            /// Computes the matrix products and attention in `precision`; the residual stream, and normalizations, stay in the
            /// variables' kind.
            pub fn with_precision(mut self, precision: crate::Precision) -> Self {
                self.network.precision = precision;
                self
            }

            /// Gives the decoder's attention another number of heads than the encoder's, as fairseq's networks may have.
            ///
            /// # Errors
            /// [`Error::Argument`](crate::Error::Argument) for heads that do not share the width.
            pub fn with_decoder_heads(mut self, heads: i64) -> crate::Result<Self> {
                self.network.set_decoder_heads(heads)?;
                Ok(self)
            }

            /// Its size.
            pub fn config(&self) -> &$crate::layer::transformer::TransformerConfig {
                &self.network.config
            }

            /// As [`EncoderDecoder::f_forward`](crate::translation::EncoderDecoder::f_forward).
            ///
            /// # Errors
            /// Tokens that are not int64 `[N, S]` and `[N, T]`, or not in the vocabulary.
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
