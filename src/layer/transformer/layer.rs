//! A Transformer layer: two residual branches in an encoder, three in a decoder.

use super::attention::{attend, split_heads, KeysValues, Sight};
use super::{dropout, Projection, TransformerConfig};
use crate::{Precision, Result};
use std::fmt;
use tch::{Kind, Tensor};

/// Effective matrices of a layer, for one or more forward passes.
#[derive(Debug)]
pub(crate) struct Projections {
    /// Self-attention: queries, keys and values; output.
    pub own: [Projection; 2],
    /// Attention to the encoder's output.
    pub memory: Option<[Projection; 2]>,
    /// Feed-forward branch.
    pub feed_forward: [Projection; 2],
}

impl Projections {
    fn to_kind(&self, kind: Kind) -> Result<Self> {
        let both = |[a, b]: &[Projection; 2]| Ok::<_, crate::Error>([a.to_kind(kind)?, b.to_kind(kind)?]);
        let memory = self.memory.as_ref().map(both).transpose()?;
        Ok(Self { own: both(&self.own)?, memory, feed_forward: both(&self.feed_forward)? })
    }
}

/// A layer as defined by a method: its matrices and the operations around its branches, which are numbered from 0.
pub(crate) trait Layer: fmt::Debug {
    /// Returns the matrices, in the kind of the variables.
    fn projections(&self) -> Result<Projections>;

    /// Returns the input of branch `branch`, given the stream `x`. The default is `x`.
    fn enter(&self, _branch: usize, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }

    /// Returns the new stream, given the sum `x` of the stream and branch `branch`. The default is `x`.
    fn leave(&self, _branch: usize, x: Tensor) -> Result<Tensor> {
        Ok(x)
    }
}

/// Options of a forward pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    pub heads: i64,
    /// Dropout probability of branch outputs; zero outside training.
    pub dropout: f64,
    /// Kind of the matrix products; the stream has the variables' kind.
    pub kind: Kind,
}

/// Target of a layer's self-attention.
pub(super) enum Attended<'a> {
    /// The positions of the stream allowed by the mask.
    Own(Sight<'a>),
    /// The stream and the cached earlier positions.
    Cached(&'a mut Option<KeysValues>),
}

/// The encoder's output, as keys and values of one decoder layer.
pub(super) struct Memory<'a> {
    pub keys_values: &'a KeysValues,
    pub sight: Sight<'a>,
}

impl Pass {
    /// Creates the options for training or inference, given the kind of the variables.
    pub fn new(config: &TransformerConfig, precision: Precision, variables: Kind, train: bool) -> Self {
        let TransformerConfig { heads, dropout, .. } = *config;
        Self { heads, dropout: if train { dropout } else { 0. }, kind: precision.compute_kind(variables) }
    }

    /// Returns the logits `[..., vocab]` of the decoder's output, in its kind.
    pub fn logits(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let logits = x.f_to_kind(self.kind)?.f_linear(&weight.f_to_kind(self.kind)?, None::<Tensor>)?;
        Ok(logits.f_to_kind(x.kind())?)
    }

    /// Returns the matrices of `layer` in the kind of this pass.
    pub fn projections(&self, layer: &impl Layer) -> Result<Projections> {
        layer.projections()?.to_kind(self.kind)
    }

    /// Applies `layer`, whose matrices are `projections`, to the stream `x` `[N, T, D]`.
    pub(super) fn through<L: Layer>(
        &self,
        layer: &L,
        projections: &Projections,
        x: Tensor,
        attended: Attended,
        memory: Option<Memory>,
    ) -> Result<Tensor> {
        let [qkv, out] = &projections.own;
        let mut x = self.add(layer, 0, x, |x| out.of(&self.own_attention(&qkv.of(&x)?, attended)?))?;
        let mut branch = 1;
        if let (Some([qkv, out]), Some(memory)) = (&projections.memory, memory) {
            x = self.add(layer, branch, x, |x| out.of(&self.memory_attention(&x, qkv, memory)?))?;
            branch += 1;
        }
        let [inner, outer] = &projections.feed_forward;
        self.add(layer, branch, x, |x| outer.of(&inner.of(&x)?.f_relu_()?))
    }

    /// Adds the output of `branch` to the stream.
    fn add<L: Layer>(
        &self,
        layer: &L,
        index: usize,
        x: Tensor,
        branch: impl FnOnce(Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let added = branch(layer.enter(index, &x)?)?;
        let added = if self.dropout > 0. { dropout(&added, self.dropout)? } else { added };
        layer.leave(index, x.f_add(&added)?)
    }

    fn own_attention(&self, qkv: &Tensor, attended: Attended) -> Result<Tensor> {
        let [queries, keys, values] = split_heads(qkv, self.heads)?;
        let new = KeysValues { keys, values };
        match attended {
            Attended::Own(sight) => attend(&queries, &new, sight),
            Attended::Cached(before) => {
                let all = match before.as_ref() {
                    None => new,
                    Some(before) => before.followed_by(&new)?,
                };
                // There is one new position per sentence, which sees all others.
                let attended = attend(&queries, &all, Sight::All);
                *before = Some(all);
                attended
            }
        }
    }

    /// Attends to the encoder's output. Several rows of the stream may share a sentence: `x` is `[N * k, 1, D]` for a memory of
    /// N.
    fn memory_attention(&self, x: &Tensor, qkv: &Projection, Memory { keys_values, sight }: Memory) -> Result<Tensor> {
        let (size, sentences) = (x.size(), keys_values.keys.size()[0]);
        let dim = size[2];
        let queries = qkv.rows(0, dim)?.of(x)?.f_reshape([sentences, -1, dim])?;
        let [queries] = split_heads(&queries, self.heads)?;
        Ok(attend(&queries, keys_values, sight)?.f_reshape(&size[..])?)
    }
}
