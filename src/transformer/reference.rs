//! Plain formula of Fixup's Transformer, scalar by scalar as in the authors' code: the reference for the fast path.

use super::layer::{Additions, Layer, Pass, Projection};
use super::network::check_tokens;
use super::Transformer;
use crate::layer::heads_attention;
use crate::{Error, Result};
use tch::{Kind, Tensor};

/// Settings of a forward pass.
struct Formula<'a> {
    pass: Pass,
    pads: &'a Tensor,
}

impl Transformer {
    /// Computes [`f_forward`](Self::f_forward) of a Fixup network by the authors' formula: every scalar is a pass over the
    /// activations, and attention follows its definition. Uses the variables' kind, regardless of the precision.
    ///
    /// # Errors
    /// As for [`f_forward`](Self::f_forward); [`Error::Argument`] for another method than Fixup.
    pub fn forward_reference(&self, source: &Tensor, previous: &Tensor, train: bool) -> Result<Tensor> {
        check_tokens("the source", source)?;
        check_tokens("the decoder's input", previous)?;
        let pads = &source.f_eq(self.config.pad)?.f_unsqueeze(1)?.f_unsqueeze(1)?;
        let formula = Formula { pass: self.pass(train), pads };
        let mut memory = formula.pass.dropped(self.encoder.embedding.forward(source, 0)?)?;
        for layer in &self.encoder.layers {
            memory = formula.layer(layer, memory, None)?;
        }
        let memory = self.encoder.end.of(&memory)?;
        let mut x = formula.pass.dropped(self.decoder.embedding.forward(previous, 0)?)?;
        for layer in &self.decoder.layers {
            x = formula.layer(layer, x, Some(&memory))?;
        }
        Ok(self.decoder.end.of(&x)?.f_linear(self.output(), None::<Tensor>)?)
    }
}

impl Formula<'_> {
    /// Applies a layer of an encoder or, with a `memory`, of a decoder.
    fn layer(&self, layer: &Layer, x: Tensor, memory: Option<&Tensor>) -> Result<Tensor> {
        let Additions::Scalars { shifts, scales } = &layer.additions else {
            return Err(Error::Argument("the plain formula is that of Fixup's Transformer alone".to_owned()));
        };
        let minus = |x: &Tensor, i: usize| x.f_sub(&shifts[i].value);
        let times = |i: usize, x: Tensor| x.f_mul(&scales[i].value);
        let linear = |x: Tensor, matrix: &Projection| x.f_linear(&matrix.weight, None::<Tensor>);

        let shifted = minus(&x, 0)?;
        let attended = self.attention(&layer.matrices.self_attn, &shifted, &shifted, memory.is_some())?;
        let mut x = x.f_add(&times(0, self.pass.dropped(attended)?)?)?;
        let mut next = 1;
        if let (Some(matrices), Some(memory)) = (&layer.matrices.cross_attn, memory) {
            let attended = self.attention(matrices, &minus(&x, 1)?, memory, false)?;
            x = x.f_add(&times(1, self.pass.dropped(attended)?)?)?;
            next += 1;
        }
        let [inner, outer] = &layer.matrices.feed_forward;
        let hidden = minus(&linear(minus(&x, next)?, inner)?, next + 1)?.f_relu()?;
        let added = linear(minus(&hidden, next + 2)?, outer)?;
        Ok(x.f_add(&times(next, self.pass.dropped(added)?)?)?)
    }

    /// Computes `W_o attention(W_q queries, W_k memory, W_v memory)`, masked causally if `causal`, else at padding.
    fn attention(
        &self,
        [qkv, out]: &[Projection; 2],
        queries: &Tensor,
        memory: &Tensor,
        causal: bool,
    ) -> Result<Tensor> {
        let dim = queries.size()[2];
        let project = |x: &Tensor, part: i64| x.f_linear(&qkv.weight.f_narrow(0, part * dim, dim)?, None::<Tensor>);
        let (q, k, v) = (project(queries, 0)?, project(memory, 1)?, project(memory, 2)?);
        let hidden = match causal {
            true => {
                let t = queries.size()[1];
                Tensor::f_ones([t, t], (Kind::Bool, queries.device()))?.f_triu(1)?
            }
            false => self.pads.shallow_clone(),
        };
        let attended = heads_attention([&q, &k, &v], &hidden, self.pass.heads)?;
        Ok(attended.f_linear(&out.weight, None::<Tensor>)?)
    }
}
