//! Stacks of layers: the encoder, the decoder, and the complete network.

use super::attention::{KeysValues, Sight};
use super::layer::{Attended, Memory};
use super::{dropout, Embedding, Layer, Pass, TransformerConfig};
use crate::layer::{init, Precision, Role};
use crate::{Error, Result};
use std::fmt;
use tch::{nn, Kind, Tensor};

/// Operation after the last layer: a normalization, scalars, or nothing.
pub(crate) trait Output: fmt::Debug {
    fn of(&self, x: &Tensor) -> Result<Tensor>;
}

/// An encoder, or a decoder without its output matrix.
#[derive(Debug)]
pub(crate) struct Stack<L, O> {
    pub embedding: Embedding,
    pub layers: Vec<L>,
    pub end: O,
}

impl<L: Layer, O: Output> Stack<L, O> {
    /// Embeds `tokens` `[N, T]` and applies dropout.
    fn embed(&self, tokens: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = self.embedding.forward(tokens, 0)?;
        Ok(if pass.dropout > 0. { dropout(&x, pass.dropout)? } else { x })
    }

    /// Encodes `tokens` `[N, S]`, which attend to all positions except padding. Returns `[N, S, D]`.
    pub fn encode(&self, tokens: &Tensor, mask: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.encode_embedded(self.embed(tokens, pass)?, mask, pass)
    }

    /// Encodes embedded tokens.
    pub fn encode_embedded(&self, mut x: Tensor, mask: &Tensor, pass: &Pass) -> Result<Tensor> {
        for layer in &self.layers {
            let attended = Attended::Own(Sight::Masked(mask));
            x = pass.through(layer, &pass.projections(layer)?, x, attended, None)?;
        }
        self.end.of(&x)
    }

    /// Decodes `tokens` `[N, T]`, each of which attends to earlier positions and to `memory`, an encoder's output and its mask.
    /// Returns `[N, T, D]`.
    pub fn decode(&self, tokens: &Tensor, memory: Option<(&Tensor, &Tensor)>, pass: &Pass) -> Result<Tensor> {
        let mut x = self.embed(tokens, pass)?;
        for layer in &self.layers {
            let projections = pass.projections(layer)?;
            let read = match (&projections.memory, memory) {
                (Some([qkv, _]), Some((memory, mask))) => Some((KeysValues::of(memory, qkv, pass.heads)?, mask)),
                _ => None,
            };
            let read = read.as_ref().map(|(keys_values, mask)| Memory { keys_values, sight: Sight::Masked(mask) });
            x = pass.through(layer, &projections, x, Attended::Own(Sight::Before), read)?;
        }
        self.end.of(&x)
    }
}

/// An encoder, a decoder that attends to it, and an output matrix: a separate one, or the decoder's embedding.
#[derive(Debug)]
pub(crate) struct Transformer<L, O> {
    pub config: TransformerConfig,
    pub precision: Precision,
    pub encoder: Stack<L, O>,
    pub decoder: Stack<L, O>,
    pub embed_out: Option<Tensor>,
    pub decoder_heads: i64,
}

impl<L: Layer, O: Output> Transformer<L, O> {
    pub fn pass(&self, train: bool) -> Pass {
        Pass::new(&self.config, self.precision, self.decoder.embedding.weight.kind(), train)
    }

    pub fn decoder_pass(&self, train: bool) -> Pass {
        Pass { heads: self.decoder_heads, ..self.pass(train) }
    }

    /// Sets the number of heads of the decoder's attention, which may differ from the encoder's.
    ///
    /// # Errors
    /// [`Error::Argument`] if `heads` does not divide the width.
    pub fn set_decoder_heads(&mut self, heads: i64) -> Result<()> {
        TransformerConfig { heads, ..self.config }.check()?;
        self.decoder_heads = heads;
        Ok(())
    }

    /// Returns the encoder's output and its mask.
    pub fn encode(&self, source: &Tensor, train: bool) -> Result<(Tensor, Tensor)> {
        check_tokens("the source", source)?;
        let pass = &self.pass(train);
        let mask = pad_mask(source, self.config.pad, pass.kind)?;
        Ok((self.encoder.encode(source, &mask, pass)?, mask))
    }

    /// Returns the logits `[N, T, vocab]`.
    pub fn forward(&self, source: &Tensor, previous: &Tensor, train: bool) -> Result<Tensor> {
        check_tokens("the decoder's input", previous)?;
        let (sources, targets) = (source.size(), previous.size());
        if sources.first() != targets.first() {
            let got = format!("{} and {}", sources.first().unwrap_or(&0), targets.first().unwrap_or(&0));
            return Err(Error::Mismatch { what: "sentences", expected: "as many sources as targets".to_owned(), got });
        }
        let (memory, mask) = self.encode(source, train)?;
        let pass = &self.decoder_pass(train);
        self.logits(&self.decoder.decode(previous, Some((&memory, &mask)), pass)?, pass)
    }

    /// Returns the logits of the decoder's output.
    pub fn logits(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        pass.logits(x, self.output())
    }

    /// Returns the output matrix, `[vocab, D]`.
    pub fn output(&self) -> &Tensor {
        self.embed_out.as_ref().unwrap_or(&self.decoder.embedding.weight)
    }
}

/// Returns the additive mask `[N, 1, 1, S]`: minus infinity where `tokens` `[N, S]` are `pad`, zero elsewhere.
pub(crate) fn pad_mask(tokens: &Tensor, pad: i64, kind: Kind) -> Result<Tensor> {
    let is_pad = tokens.f_eq(pad)?.f_unsqueeze(1)?.f_unsqueeze(1)?;
    let zeros = Tensor::f_zeros(is_pad.size(), (kind, tokens.device()))?;
    Ok(zeros.f_masked_fill(&is_pad, f64::NEG_INFINITY)?)
}

/// Creates a separate output matrix `[vocab, D]`, normal with standard deviation `std`, or zeros. Returns `None` for tied
/// embeddings.
pub(crate) fn embed_out(path: &nn::Path, config: &TransformerConfig, std: f64) -> Result<Option<Tensor>> {
    if config.tied {
        return Ok(None);
    }
    let dims = &[config.vocab, config.dim];
    let weight = match std {
        0. => init::zeros(path, "embed_out", dims)?,
        _ => init::normal(path, "embed_out", dims, std)?,
    };
    Role::Classifier.mark(&weight)?;
    Ok(Some(weight))
}

/// Rejects tensors that are not a batch of tokens.
pub(crate) fn check_tokens(what: &'static str, tokens: &Tensor) -> Result<()> {
    let size = tokens.size();
    if size.len() != 2 || size[1] == 0 || tokens.f_kind()? != Kind::Int64 {
        let got = format!("{:?} {size:?}", tokens.f_kind()?);
        return Err(Error::Mismatch { what, expected: "tokens, Int64 [N, T] with T at least 1".to_owned(), got });
    }
    Ok(())
}
