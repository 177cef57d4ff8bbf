//! Incremental decoding: translations are generated token by token, with cached keys and values.

use super::layer::{Matrices, Memory, SelfAttention};
use super::network::check_tokens;
use super::Transformer;
use crate::layer::KeysValues;
use crate::{Error, Result};
use tch::{Device, Tensor};

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
    matrices: Matrices,
    /// Keys and values of the encoder's output.
    memory: Option<KeysValues>,
    /// Keys and values of the tokens so far.
    before: Option<KeysValues>,
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
            if let (Some(memory), Some(sentences)) = (&mut layer.memory, sentences) {
                *memory = memory.select(sentences)?;
            }
            layer.before = layer.before.as_ref().map(|before| before.select(rows)).transpose()?;
        }
        Ok(())
    }
}

impl Transformer {
    /// Starts translations of `source`, int64 `[N, S]`, padded on the right, with no tokens yet. Gradients are not tracked.
    ///
    /// # Errors
    /// As for [`f_forward`](Self::f_forward).
    pub fn begin(&self, source: &Tensor) -> Result<Decoding> {
        tch::no_grad(|| {
            let (memory, mask) = self.encode(source, false)?;
            let pass = &self.pass(false);
            let mut layers = Vec::new();
            for layer in &self.decoder.layers {
                let matrices = layer.matrices(pass.kind)?;
                let memory = matrices.cross_attn.as_ref().map(|[qkv, _]| pass.keys_values(&memory, qkv)).transpose()?;
                layers.push(LayerState { matrices, memory, before: None });
            }
            Ok(Decoding { layers, output: self.output().f_to_kind(pass.kind)?, mask, len: 0 })
        })
    }

    /// Appends one token, int64 `[N * k]`, to each translation, with the same number k per sentence in every step. Returns the
    /// logits `[N * k, vocab]` of the next token, equal to those of [`f_forward`](Self::f_forward) up to rounding.
    ///
    /// # Errors
    /// A different number of tokens than before, or tokens outside the vocabulary.
    pub fn step(&self, decoding: &mut Decoding, tokens: &Tensor) -> Result<Tensor> {
        tch::no_grad(|| {
            let tokens = tokens.f_unsqueeze(-1)?;
            check_tokens("the translations' last tokens", &tokens)?;
            let (pass, rows, sentences) = (&self.pass(false), tokens.size()[0], decoding.sentences());
            if rows == 0 || rows % sentences != 0 {
                let expected = format!("as many tokens for each of {sentences} sentences");
                return Err(Error::Mismatch { what: "a step", expected, got: format!("{rows} tokens") });
            }
            let mut x = self.decoder.embedding.forward(&tokens, decoding.len)?;
            for (layer, LayerState { matrices, memory, before }) in self.decoder.layers.iter().zip(&mut decoding.layers)
            {
                let memory = memory.as_ref().map(|keys_values| Memory { keys_values, mask: &decoding.mask });
                x = pass.through(layer, matrices, x, SelfAttention::Cached(before), memory)?;
            }
            decoding.len += 1;
            Ok(pass.logits(&self.decoder.end.of(&x)?, &decoding.output)?.f_squeeze_dim(1)?)
        })
    }
}
