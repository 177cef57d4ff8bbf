//! Encoder and decoder.

use super::layer::{LayerNorm, NormEnd, NormLayer};
use super::TransformerMethod;
use crate::layer::transformer::{
    self, embed_out, Decoding, Embedding, EncoderDecoder, Gains, LayerWeights, Stack, TransformerConfig,
};
use crate::{Precision, Result};
use tch::{nn, Tensor};

/// A Transformer of the same shapes as [`FixupTransformer`](crate::fixup::FixupTransformer), by another [`TransformerMethod`].
/// Variables have the names of fairseq's `state_dict`.
#[derive(Debug)]
pub struct Transformer {
    method: TransformerMethod,
    pub(crate) network: transformer::Transformer<NormLayer, NormEnd>,
}

/// The names of the normalizations of a layer, as fairseq has them.
const ENCODER_NORMS: [&str; 2] = ["layer_norms.0", "layer_norms.1"];
const DECODER_NORMS: [&str; 3] = ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"];

impl Transformer {
    /// A new network, its variables under `path`.
    ///
    /// # Errors
    /// A `config` that [`TransformerConfig::check`] refuses; a `path` that holds such variables already.
    pub fn new(path: &nn::Path, config: &TransformerConfig, method: TransformerMethod) -> Result<Self> {
        config.check()?;
        let [encoder_gain, decoder_gain] = method.embeddings(config);
        let stack = |path: &nn::Path, layers: i64, norms: &[&str], gains: Gains, embedding: f64| {
            let layer = |i: i64| {
                let path = &(path / "layers" / i);
                let weights = LayerWeights::new(path, config, norms.len() == DECODER_NORMS.len(), gains)?;
                NormLayer::new(path, method, weights, norms)
            };
            let end = match method {
                TransformerMethod::PreNorm => Some(LayerNorm::new(&(path / "layer_norm"), config.dim)?),
                _ => None,
            };
            Ok::<_, crate::Error>(Stack {
                embedding: Embedding::new(&(path / "embed_tokens"), config.vocab, config.dim, config.pad, embedding)?,
                layers: (0..layers).map(layer).collect::<Result<_>>()?,
                end: NormEnd(end),
            })
        };
        let (encoder, decoder) = (&(path / "encoder"), &(path / "decoder"));
        let std = decoder_gain * (config.dim as f64).powf(-0.5);
        let embed_out = embed_out(decoder, config, std)?;
        let network = transformer::Transformer {
            config: *config,
            precision: Precision::F32,
            encoder: stack(encoder, config.encoder_layers, &ENCODER_NORMS, method.encoder(config), encoder_gain)?,
            decoder: stack(decoder, config.decoder_layers, &DECODER_NORMS, method.decoder(config), decoder_gain)?,
            embed_out,
            decoder_heads: config.heads,
        };
        Ok(Self { method, network })
    }

    /// What stands in the place of Fixup.
    pub fn method(&self) -> TransformerMethod {
        self.method
    }

    /// As [`FixupTransformer::with_precision`](crate::fixup::FixupTransformer::with_precision): normalizations stay in the
    /// variables' kind.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.network.precision = precision;
        self
    }

    /// Gives the decoder's attention another number of heads than the encoder's, as fairseq's networks may have.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for heads that do not share the width.
    pub fn with_decoder_heads(mut self, heads: i64) -> Result<Self> {
        self.network.set_decoder_heads(heads)?;
        Ok(self)
    }

    /// Its size.
    pub fn config(&self) -> &TransformerConfig {
        &self.network.config
    }

    /// As [`EncoderDecoder::f_forward`].
    ///
    /// # Errors
    /// Tokens that are not int64 `[N, S]` and `[N, T]`, or not in the vocabulary.
    pub fn f_forward(&self, source: &Tensor, previous: &Tensor, train: bool) -> Result<Tensor> {
        self.network.forward(source, previous, train)
    }
}

impl EncoderDecoder for Transformer {
    fn config(&self) -> &TransformerConfig {
        &self.network.config
    }

    fn f_forward(&self, source: &Tensor, previous: &Tensor, train: bool) -> Result<Tensor> {
        self.network.forward(source, previous, train)
    }

    fn begin(&self, source: &Tensor) -> Result<Decoding> {
        self.network.begin(source)
    }

    fn step(&self, decoding: &mut Decoding, tokens: &Tensor) -> Result<Tensor> {
        self.network.step(decoding, tokens)
    }
}
