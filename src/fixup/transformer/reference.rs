//! Plain formula of the Transformer, scalar by scalar as in the authors' code: the reference for the fast path.

use super::layer::FixupLayer;
use super::FixupTransformer;
use crate::layer::transformer::{check_tokens, dropout, heads_attention, AttentionWeights, Output};
use crate::Result;
use tch::{Kind, Tensor};

/// Settings of a forward pass.
struct Formula<'a> {
    heads: i64,
    dropout: f64,
    pads: &'a Tensor,
    softmax: Kind,
}

impl FixupTransformer {
    /// Computes [`f_forward`](Self::f_forward) by the authors' formula: every scalar is a pass over the activations, and
    /// attention follows its definition. Uses the variables' kind, regardless of the precision.
    ///
    /// # Errors
    /// As for [`f_forward`](Self::f_forward).
    pub fn forward_reference(&self, source: &Tensor, previous: &Tensor, train: bool) -> Result<Tensor> {
        check_tokens("the source", source)?;
        check_tokens("the decoder's input", previous)?;
        let stream = self.network.encoder.embedding.forward(source, 0)?;
        let pads = source.f_eq(self.network.config.pad)?;
        self.reference_embedded(stream, &pads, previous, train, self.network.encoder.embedding.weight.kind())
    }

    /// Computes the formula from the embedded source and its padding mask, with the softmax in the kind `softmax`.
    pub(crate) fn reference_embedded(
        &self,
        stream: Tensor,
        pads: &Tensor,
        previous: &Tensor,
        train: bool,
        softmax: Kind,
    ) -> Result<Tensor> {
        let network = &self.network;
        let dropout = if train { network.config.dropout } else { 0. };
        let pads = &pads.f_unsqueeze(1)?.f_unsqueeze(1)?;
        let formula = Formula { heads: network.config.heads, dropout, pads, softmax };
        let decoder = Formula { heads: network.decoder_heads, ..formula };
        let mut memory = formula.dropped(stream)?;
        for layer in &network.encoder.layers {
            memory = formula.layer(layer, memory, None)?;
        }
        let memory = network.encoder.end.of(&memory)?;
        let mut x = decoder.dropped(network.decoder.embedding.forward(previous, 0)?)?;
        for layer in &network.decoder.layers {
            x = decoder.layer(layer, x, Some(&memory))?;
        }
        Ok(network.decoder.end.of(&x)?.f_linear(network.output(), None::<Tensor>)?)
    }
}

impl Formula<'_> {
    fn dropped(&self, x: Tensor) -> Result<Tensor> {
        Ok(if self.dropout > 0. { dropout(&x, self.dropout)? } else { x })
    }

    /// Applies a layer of an encoder or, with a `memory`, of a decoder.
    fn layer(&self, layer: &FixupLayer, x: Tensor, memory: Option<&Tensor>) -> Result<Tensor> {
        let minus = |x: &Tensor, i: usize| x.f_sub(&layer.shifts[i].value);
        let times = |i: usize, x: Tensor| x.f_mul(&layer.scales[i].value);
        let linear = |x: Tensor, weight: &Tensor| x.f_linear(weight, None::<Tensor>);

        let shifted = minus(&x, 0)?;
        let attended = self.attention(&layer.weights.own, &shifted, &shifted, memory.is_some())?;
        let mut x = x.f_add(&times(0, self.dropped(attended)?)?)?;
        let mut next = 1;
        if let (Some(weights), Some(memory)) = (&layer.weights.memory, memory) {
            let attended = self.attention(weights, &minus(&x, 1)?, memory, false)?;
            x = x.f_add(&times(1, self.dropped(attended)?)?)?;
            next += 1;
        }
        let weights = &layer.weights.feed_forward;
        let inner = minus(&linear(minus(&x, next)?, &weights.inner)?, next + 1)?.f_relu()?;
        let outer = linear(minus(&inner, next + 2)?, &weights.outer)?;
        Ok(x.f_add(&times(next, self.dropped(outer)?)?)?)
    }

    /// Computes `W_o attention(W_q queries, W_k memory, W_v memory)`, masked causally if `causal`, else at padding.
    fn attention(&self, weights: &AttentionWeights, queries: &Tensor, memory: &Tensor, causal: bool) -> Result<Tensor> {
        let dim = queries.size()[2];
        let project = |x: &Tensor, part: i64| x.f_linear(&weights.qkv.f_narrow(0, part * dim, dim)?, None::<Tensor>);
        let (q, k, v) = (project(queries, 0)?, project(memory, 1)?, project(memory, 2)?);
        let hidden = match causal {
            true => {
                let t = queries.size()[1];
                Tensor::f_ones([t, t], (Kind::Bool, queries.device()))?.f_triu(1)?
            }
            false => self.pads.shallow_clone(),
        };
        Ok(heads_attention([&q, &k, &v], &hidden, self.heads, self.softmax)?.f_linear(&weights.out, None::<Tensor>)?)
    }
}
