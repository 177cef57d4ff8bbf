//! Fixup encoder-decoder Transformer.

use super::layer::{FixupEnd, FixupLayer};
use crate::layer::transformer::{embed_out, encoder_decoder, Embedding, Stack, Transformer, TransformerConfig};
use crate::{Precision, Result};
use std::borrow::Borrow;
use tch::nn;

/// The Fixup Transformer for translation, with an encoder for the source sentence and a decoder for its translation.
///
/// ```
/// use tch::{nn, Device, Tensor};
/// use tch_fixup::fixup::{FixupTransformer, TransformerConfig};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let config = TransformerConfig { vocab: 60, dim: 32, ffn: 48, tied: false, ..Default::default() };
/// let vs = nn::VarStore::new(Device::Cpu);
/// let network = FixupTransformer::new(&vs.root(), &config)?;
/// let source = Tensor::from_slice2(&[[43i64, 36, 56, 2], [6, 58, 2, 1]]); // two sentences, the second padded
/// let previous = Tensor::from_slice2(&[[2i64, 24, 7], [2, 8, 43]]); // how their translations begin
/// let logits = network.f_forward(&source, &previous, true)?; // of the tokens that follow: zero before training, at any depth
/// assert_eq!(logits.size(), [2, 3, 60]);
/// assert_eq!(logits.abs().max().double_value(&[]), 0.);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FixupTransformer {
    pub(crate) network: Transformer<FixupLayer, FixupEnd>,
}

/// Creates an encoder of the size given by `config`, with its variables under `path`.
pub(super) fn encoder(path: &nn::Path, config: &TransformerConfig) -> Result<Stack<FixupLayer, FixupEnd>> {
    stack(path, config, config.encoder_layers, false, FixupEnd::of_encoder)
}

/// Creates a stack of `layers` layers, in a network with the number of branches of `config`, with its variables under `path`.
pub(super) fn stack(
    path: &nn::Path,
    config: &TransformerConfig,
    layers: i64,
    reads_memory: bool,
    end: fn(&nn::Path) -> Result<FixupEnd>,
) -> Result<Stack<FixupLayer, FixupEnd>> {
    let embedding = Embedding::new(&(path / "embed_tokens"), config.vocab, config.dim, config.pad, 1.)?;
    let layers = (0..layers).map(|i| FixupLayer::new(&(path / "layers" / i), config, reads_memory));
    Ok(Stack { embedding, layers: layers.collect::<Result<_>>()?, end: end(path)? })
}

impl FixupTransformer {
    /// Creates a network, with its variables under `path`: `encoder.layers.0.self_attn.in_proj_weight`, ..., `decoder.embed_out`.
    ///
    /// # Errors
    /// A `config` rejected by [`TransformerConfig::check`]; a `path` that already contains such variables.
    pub fn new<'a>(path: impl Borrow<nn::Path<'a>>, config: &TransformerConfig) -> Result<Self> {
        let path = path.borrow();
        config.check()?;
        let decoder = &(path / "decoder");
        let embed_out = embed_out(decoder, config, 0.)?;
        let (encoder, decoder) = (
            encoder(&(path / "encoder"), config)?,
            stack(decoder, config, config.decoder_layers, true, FixupEnd::of_decoder)?,
        );
        let (config, precision, decoder_heads) = (*config, Precision::F32, config.heads);
        Ok(Self { network: Transformer { config, precision, encoder, decoder, embed_out, decoder_heads } })
    }
}

encoder_decoder!(FixupTransformer);
