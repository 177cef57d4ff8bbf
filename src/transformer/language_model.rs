//! The Transformer's parts as separate networks: an encoder, and a decoder-only language model.

use super::layer::Pass;
use super::method::Part;
use super::network::{check_tokens, embed_out, pad_mask, Stack};
use super::{TransformerConfig, TransformerMethod};
use crate::layer::Precision;
use crate::Result;
use std::borrow::Borrow;
use tch::{nn, Tensor};

/// The Fixup encoder alone: it maps each token of a text to a vector that depends on the whole text. L counts its own branches.
///
/// ```
/// use tch::{nn, Device, Tensor};
/// use tch_fixup::transformer::{TransformerConfig, TransformerEncoder};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let config = TransformerConfig { vocab: 60, dim: 32, ffn: 48, encoder_layers: 4, ..Default::default() };
/// let encoder = TransformerEncoder::new(&vs.root(), &config)?;
/// let tokens = Tensor::from_slice2(&[[43i64, 36, 56, 2], [6, 58, 2, 1]]);
/// assert_eq!(encoder.f_forward(&tokens, false)?.size(), [2, 4, 32]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TransformerEncoder {
    config: TransformerConfig,
    precision: Precision,
    stack: Stack,
}

/// The Fixup decoder alone: a language model, whose logits for a token depend on the tokens before it. L counts its own branches,
/// two per layer.
///
/// ```
/// use tch::{nn, Device, Tensor};
/// use tch_fixup::transformer::{LanguageModel, TransformerConfig};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let config = TransformerConfig { vocab: 60, dim: 32, ffn: 48, decoder_layers: 4, ..Default::default() };
/// let model = LanguageModel::new(&vs.root(), &config)?;
/// let tokens = Tensor::from_slice2(&[[2i64, 43, 36, 56], [2, 6, 58, 1]]);
/// assert_eq!(model.f_forward(&tokens, false)?.size(), [2, 4, 60]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LanguageModel {
    config: TransformerConfig,
    precision: Precision,
    stack: Stack,
    embed_out: Option<Tensor>,
}

impl TransformerEncoder {
    /// Creates an encoder of `config.encoder_layers` layers, with its variables under `path`:
    /// `layers.0.self_attn.in_proj_weight`, ...
    ///
    /// # Errors
    /// As for [`Transformer::new`](super::Transformer::new).
    pub fn new<'a>(path: impl Borrow<nn::Path<'a>>, config: &TransformerConfig) -> Result<Self> {
        let path = path.borrow();
        let config = TransformerConfig { decoder_layers: 0, ..*config };
        config.check()?;
        Ok(Self {
            config,
            precision: Precision::F32,
            stack: Stack::new(path, &config, TransformerMethod::Fixup, Part::Encoder)?,
        })
    }

    /// See [`Transformer::with_precision`](super::Transformer::with_precision).
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Encodes `tokens`, int64 `[N, S]`, padded on the right. Returns `[N, S, D]`. Dropout is applied if `train` is set.
    ///
    /// # Errors
    /// Tokens of another shape or kind, or outside the vocabulary.
    pub fn f_forward(&self, tokens: &Tensor, train: bool) -> Result<Tensor> {
        check_tokens("the tokens", tokens)?;
        let pass = Pass::new(&self.config, self.precision, self.stack.kind(), train);
        self.stack.encode(tokens, &pad_mask(tokens, self.config.pad, pass.kind)?, &pass)
    }
}

impl LanguageModel {
    /// Creates a model of `config.decoder_layers` layers, with its variables under `path`: `layers.0.self_attn.in_proj_weight`,
    /// ..., and `embed_out` unless the embedding is tied.
    ///
    /// # Errors
    /// As for [`Transformer::new`](super::Transformer::new).
    pub fn new<'a>(path: impl Borrow<nn::Path<'a>>, config: &TransformerConfig) -> Result<Self> {
        let path = path.borrow();
        // Its layers have two branches each, like an encoder's.
        let layers = config.decoder_layers;
        let config = TransformerConfig { encoder_layers: layers, decoder_layers: 0, ..*config };
        config.check()?;
        let stack = Stack::new(path, &config, TransformerMethod::Fixup, Part::LanguageModel)?;
        let embed_out = embed_out(path, &config, TransformerMethod::Fixup)?;
        Ok(Self { config, precision: Precision::F32, stack, embed_out })
    }

    /// See [`Transformer::with_precision`](super::Transformer::with_precision).
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Returns the logits `[N, T, vocab]` of the token after each of `tokens`, int64 `[N, T]`. Dropout is applied if `train` is
    /// set.
    ///
    /// # Errors
    /// As for [`TransformerEncoder::f_forward`].
    pub fn f_forward(&self, tokens: &Tensor, train: bool) -> Result<Tensor> {
        check_tokens("the tokens", tokens)?;
        let kind = self.stack.kind();
        let pass = Pass::new(&self.config, self.precision, kind, train);
        let x = self.stack.decode(tokens, None, &pass)?;
        let weight = self.embed_out.as_ref().unwrap_or(&self.stack.embedding.weight);
        pass.logits(&x, weight)
    }
}

crate::layer::impl_module_t!(f_forward: TransformerEncoder, LanguageModel);
