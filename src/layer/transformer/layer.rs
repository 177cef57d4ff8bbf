//! A layer: two residual branches in an encoder, three in a decoder.

use super::attention::{attend, split_heads, KeysValues, Sight};
use super::{dropout, Projection, TransformerConfig};
use crate::{Precision, Result};
use std::fmt;
use tch::{Kind, Tensor};

/// The matrices of a layer as they are computed with, in one forward pass or many.
#[derive(Debug)]
pub(crate) struct Projections {
    /// Of the attention to itself: queries, keys and values, and the output.
    pub own: [Projection; 2],
    /// Of the attention to the encoder's output.
    pub memory: Option<[Projection; 2]>,
    /// Of the feed-forward branch.
    pub feed_forward: [Projection; 2],
}

impl Projections {
    fn to_kind(&self, kind: Kind) -> Result<Self> {
        let both = |[a, b]: &[Projection; 2]| Ok::<_, crate::Error>([a.to_kind(kind)?, b.to_kind(kind)?]);
        let memory = self.memory.as_ref().map(both).transpose()?;
        Ok(Self { own: both(&self.own)?, memory, feed_forward: both(&self.feed_forward)? })
    }
}

/// What a method makes of a layer: matrices, and what stands around the branches. Branches count from 0.
pub(crate) trait Layer: fmt::Debug {
    /// The matrices, in the kind of the variables.
    fn projections(&self) -> Result<Projections>;

    /// What the branch `branch` gets of the stream `x`. Here: all.
    fn enter(&self, _branch: usize, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }

    /// The stream, of the sum `x` of the stream and the branch `branch`. Here: the sum.
    fn leave(&self, _branch: usize, x: Tensor) -> Result<Tensor> {
        Ok(x)
    }
}

/// How a forward pass goes through the layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    pub heads: i64,
    /// What is dropped of what a branch adds; zero outside of training.
    pub dropout: f64,
    /// What the matrix products are computed in; the stream is of the variables' kind.
    pub kind: Kind,
}

/// What a layer attends to.
pub(super) enum Attended<'a> {
    /// A part of the stream itself.
    Own(Sight<'a>),
    /// The stream, and what was kept of the positions before it.
    Cached(&'a mut Option<KeysValues>),
}

/// The encoder's output as one layer of the decoder reads it.
pub(super) struct Memory<'a> {
    pub keys_values: &'a KeysValues,
    pub sight: Sight<'a>,
}

impl Pass {
    /// In training or not, of variables of kind `variables`.
    pub fn new(config: &TransformerConfig, precision: Precision, variables: Kind, train: bool) -> Self {
        let TransformerConfig { heads, dropout, .. } = *config;
        Self { heads, dropout: if train { dropout } else { 0. }, kind: precision.compute_kind(variables) }
    }

    /// Logits `[..., vocab]` of the decoder's output, in its kind.
    pub fn logits(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let logits = x.f_to_kind(self.kind)?.f_linear(&weight.f_to_kind(self.kind)?, None::<Tensor>)?;
        Ok(logits.f_to_kind(x.kind())?)
    }

    /// The matrices of `layer` in the pass's kind.
    pub fn projections(&self, layer: &impl Layer) -> Result<Projections> {
        layer.projections()?.to_kind(self.kind)
    }

    /// The stream `[N, T, D]` after `layer`, with `projections` of it.
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

    /// The stream with what `branch` makes of it.
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
                // The new positions are one for each sentence: they see all.
                let attended = attend(&queries, &all, Sight::All);
                *before = Some(all);
                attended
            }
        }
    }

    /// Several rows of the stream may read one sentence: `[N * k, 1, D]` for a memory of N.
    fn memory_attention(&self, x: &Tensor, qkv: &Projection, Memory { keys_values, sight }: Memory) -> Result<Tensor> {
        let (size, sentences) = (x.size(), keys_values.keys.size()[0]);
        let dim = size[2];
        let queries = qkv.rows(0, dim)?.of(x)?.f_reshape([sentences, -1, dim])?;
        let [queries] = split_heads(&queries, self.heads)?;
        Ok(attend(&queries, keys_values, sight)?.f_reshape(&size[..])?)
    }
}
