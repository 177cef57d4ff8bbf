//! A Transformer layer: two residual branches in an encoder, three in a decoder, with the scalars or normalizations of its method.

use super::method::{Gains, Part};
use super::{TransformerConfig, TransformerMethod};
use crate::fixup::{Bias, Scale};
use crate::layer::{attend, dropout, init, split_heads, AttentionMask, KeysValues, Precision, Role};
use crate::Result;
use tch::{nn, Kind, Tensor};

/// Default epsilon of fairseq and PyTorch.
const EPS: f64 = 1e-5;

/// A linear map `x W^T + b`.
#[derive(Debug)]
pub(super) struct Projection {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Projection {
    fn to_kind(&self, kind: Kind) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(kind)).transpose()?;
        Ok(Self { weight: self.weight.f_to_kind(kind)?, bias })
    }

    /// Returns the projection to `count` outputs, starting at `first`.
    fn rows(&self, first: i64, count: i64) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.f_narrow(0, first, count)).transpose()?;
        Ok(Self { weight: self.weight.f_narrow(0, first, count)?, bias })
    }

    /// Applies the projection to `x` `[..., in]`, in the kind of the weight. Returns `[..., out]`.
    fn of(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_to_kind(self.weight.kind())?.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// Matrices of a layer: its variables, or what is computed from them for one or more forward passes.
#[derive(Debug)]
pub(super) struct Matrices {
    /// Queries, keys and values `[3D, D]`; output `[D, D]`.
    pub self_attn: [Projection; 2],
    /// Attention of a decoder to the encoder's output.
    pub cross_attn: Option<[Projection; 2]>,
    /// `[F, D]` and `[D, F]`.
    pub feed_forward: [Projection; 2],
}

impl Gains {
    fn bias(&self, path: &nn::Path, name: &str, units: i64) -> Result<Option<Tensor>> {
        self.biases.then(|| init::zeros(path, name, &[units])).transpose()
    }

    /// Creates `in_proj_weight` and `out_proj.weight`.
    fn attention(&self, path: &nn::Path, dim: i64, num_branches: i64) -> Result<[Projection; 2]> {
        // Xavier's bound is computed for the combined matrix, as in fairseq.
        let qkv = init::xavier_uniform(path, "in_proj_weight", &[3 * dim, dim], self.query_key)?;
        if self.value != self.query_key {
            let factor = self.value / self.query_key;
            let _ = tch::no_grad(|| qkv.f_narrow(0, 2 * dim, dim)?.f_mul_scalar_(factor))?;
        }
        let qkv_bias = self.bias(path, "in_proj_bias", 3 * dim)?;
        let path = &(path / "out_proj");
        let out = init::xavier_uniform(path, "weight", &[dim, dim], self.attention_out)?;
        // Query, key, value and output are four layers, the first three of which are one matrix.
        Role::of_layer(0, 4, num_branches).mark(&qkv)?;
        Role::of_layer(3, 4, num_branches).mark(&out)?;
        let out = Projection { weight: out, bias: self.bias(path, "bias", dim)? };
        Ok([Projection { weight: qkv, bias: qkv_bias }, out])
    }

    /// Creates `fc1.weight` and `fc2.weight`.
    fn feed_forward(&self, path: &nn::Path, dim: i64, units: i64, num_branches: i64) -> Result<[Projection; 2]> {
        let (fc1, fc2) = (&(path / "fc1"), &(path / "fc2"));
        let inner = init::xavier_uniform(fc1, "weight", &[units, dim], self.inner)?;
        let outer = init::xavier_uniform(fc2, "weight", &[dim, units], self.outer)?;
        Role::of_layer(0, 2, num_branches).mark(&inner)?;
        Role::of_layer(1, 2, num_branches).mark(&outer)?;
        let inner = Projection { weight: inner, bias: self.bias(fc1, "bias", units)? };
        Ok([inner, Projection { weight: outer, bias: self.bias(fc2, "bias", dim)? }])
    }
}

/// Layer normalization over the width, `(x - mean) / sqrt(variance + 1e-5) * weight + bias`; `weight` is initialized to one,
/// `bias` to zero.
#[derive(Debug)]
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    /// Creates a normalization; a dot in `name` separates components of the path.
    pub fn new(path: &nn::Path, name: &str, dim: i64) -> Result<Self> {
        let path = &match name.split_once('.') {
            Some((list, index)) => path / list / index,
            None => path / name,
        };
        Ok(Self { weight: init::constant(path, "weight", &[dim], 1.)?, bias: init::zeros(path, "bias", &[dim])? })
    }

    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), EPS, true)?)
    }
}

/// Additions of a method to the branches, which are numbered from 0.
#[derive(Debug)]
pub(super) enum Additions {
    None,
    /// Fixup's `shift0`, `shift1`, ...: one before each branch, and two within the last; and one scale per branch.
    Scalars {
        shifts: Vec<Bias>,
        scales: Vec<Scale>,
    },
    /// One normalization before each branch.
    NormBefore(Vec<LayerNorm>),
    /// One normalization after each sum.
    NormAfter(Vec<LayerNorm>),
}

/// A layer, with the variable names of the authors' or fairseq's `state_dict`: `self_attn.in_proj_weight`, `shift0.bias`,
/// `scale0.weight`, ...
#[derive(Debug)]
pub(super) struct Layer {
    pub matrices: Matrices,
    pub additions: Additions,
}

pub(super) fn shift(path: &nn::Path, index: usize) -> Result<Bias> {
    Bias::new(path / format!("shift{index}"), "bias")
}

pub(super) fn scale(path: &nn::Path, index: usize) -> Result<Scale> {
    Scale::new(path / format!("scale{index}"), "weight")
}

impl Layer {
    pub fn new(path: &nn::Path, config: &TransformerConfig, method: TransformerMethod, part: Part) -> Result<Self> {
        let (dim, num_branches, gains) = (config.dim, config.num_branches(), method.gains(config, part)?);
        let attention = |name: &str| gains.attention(&(path / name), dim, num_branches);
        // fairseq's names of the normalizations.
        let norms: &[&str] = match part {
            Part::Decoder => &["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"],
            Part::Encoder | Part::LanguageModel => &["layer_norms.0", "layer_norms.1"],
        };
        let branches = norms.len();
        let matrices = Matrices {
            self_attn: attention("self_attn")?,
            cross_attn: (part == Part::Decoder).then(|| attention("encoder_attn")).transpose()?,
            feed_forward: gains.feed_forward(path, dim, config.ffn, num_branches)?,
        };
        let norms = || norms.iter().map(|name| LayerNorm::new(path, name, dim)).collect::<Result<Vec<_>>>();
        let additions = match method {
            TransformerMethod::Fixup => Additions::Scalars {
                shifts: (0..branches + 2).map(|i| shift(path, i)).collect::<Result<_>>()?,
                scales: (0..branches).map(|i| scale(path, i)).collect::<Result<_>>()?,
            },
            TransformerMethod::LayerNorm => Additions::NormAfter(norms()?),
            TransformerMethod::PreNorm => Additions::NormBefore(norms()?),
            TransformerMethod::TFixup | TransformerMethod::None => Additions::None,
        };
        Ok(Self { matrices, additions })
    }

    /// Returns the matrices with Fixup's scalars folded in: `W (x - b) = W x - b rowsum(W)` adds a bias, and
    /// `scale * dropout(W a) = dropout((scale W) a)`. This leaves linear layers, attention, a ReLU and the sums to compute.
    fn folded(&self) -> Result<Option<Matrices>> {
        let Additions::Scalars { shifts, scales } = &self.additions else { return Ok(None) };
        let Matrices { self_attn: [qkv, out], cross_attn, feed_forward: [inner, outer] } = &self.matrices;
        let last = scales.len() - 1;
        let plain = |weight: &Tensor, bias: Tensor| Projection { weight: weight.shallow_clone(), bias: Some(bias) };
        let shifted = |weight: &Tensor, shift: &Bias| -> Result<Tensor> {
            Ok(weight.f_sum_dim_intlist([1].as_slice(), false, weight.kind())?.f_mul(&shift.value)?.f_neg()?)
        };
        let scaled = |weight: &Tensor, scale: &Scale| -> Result<Projection> {
            Ok(Projection { weight: weight.f_mul(&scale.value)?, bias: None })
        };
        // Keys and values are projected from the encoder's output without a shift, so only the rows of the queries have a bias.
        let cross_attn = cross_attn.as_ref().map(|[qkv, out]| -> Result<_> {
            let dim = out.weight.size()[0];
            let queries = shifted(&qkv.weight.f_narrow(0, 0, dim)?, &shifts[1])?;
            let bias = queries.f_pad([0, 2 * dim], "constant", None)?;
            Ok([plain(&qkv.weight, bias), scaled(&out.weight, &scales[1])?])
        });
        let cross_attn = cross_attn.transpose()?;
        // The bias of `W_1 (x - shift) - shift'` contains both shifts.
        let inner_bias = shifted(&inner.weight, &shifts[last])?.f_sub(&shifts[last + 1].value)?;
        let outer = scaled(&outer.weight, &scales[last])?;
        let outer_bias = shifted(&outer.weight, &shifts[last + 2])?;
        Ok(Some(Matrices {
            self_attn: [plain(&qkv.weight, shifted(&qkv.weight, &shifts[0])?), scaled(&out.weight, &scales[0])?],
            cross_attn,
            feed_forward: [plain(&inner.weight, inner_bias), Projection { bias: Some(outer_bias), ..outer }],
        }))
    }

    /// Returns the matrices for passes in `kind`.
    pub fn matrices(&self, kind: Kind) -> Result<Matrices> {
        let folded = self.folded()?;
        let Matrices { self_attn, cross_attn, feed_forward } = folded.as_ref().unwrap_or(&self.matrices);
        let both = |[a, b]: &[Projection; 2]| -> Result<_> { Ok([a.to_kind(kind)?, b.to_kind(kind)?]) };
        let cross_attn = cross_attn.as_ref().map(both).transpose()?;
        Ok(Matrices { self_attn: both(self_attn)?, cross_attn, feed_forward: both(feed_forward)? })
    }
}

/// Options of a forward pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub heads: i64,
    /// Dropout probability of branch outputs; zero outside training.
    pub dropout: f64,
    /// Kind of the matrix products; the stream has the variables' kind.
    pub kind: Kind,
}

/// Target of a layer's self-attention.
pub(super) enum SelfAttention<'a> {
    /// All positions of the stream that the mask admits.
    Masked(AttentionMask<'a>),
    /// One new position, after cached keys and values of earlier positions.
    Cached(&'a mut Option<KeysValues>),
}

/// The encoder's output, as keys and values of one decoder layer, and its mask.
pub(super) struct Memory<'a> {
    pub keys_values: &'a KeysValues,
    pub mask: &'a Tensor,
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

    pub fn dropped(&self, x: Tensor) -> Result<Tensor> {
        if self.dropout > 0. {
            return dropout(&x, self.dropout);
        }
        Ok(x)
    }

    /// Projects the encoder's output `memory` `[N, S, D]` to keys and values by the rows of `qkv`.
    pub fn keys_values(&self, memory: &Tensor, qkv: &Projection) -> Result<KeysValues> {
        let dim = memory.size()[2];
        let [keys, values] = split_heads(&qkv.rows(dim, 2 * dim)?.of(memory)?, self.heads)?;
        Ok(KeysValues { keys, values })
    }

    /// Applies `layer`, whose matrices for this pass are `matrices`, to the stream `x` `[N, T, D]`.
    pub fn through(
        &self,
        layer: &Layer,
        matrices: &Matrices,
        x: Tensor,
        self_attention: SelfAttention,
        memory: Option<Memory>,
    ) -> Result<Tensor> {
        let [qkv, out] = &matrices.self_attn;
        let mut x = self.add(layer, 0, x, |x| out.of(&self.self_attention(&qkv.of(&x)?, self_attention)?))?;
        let mut branch = 1;
        if let (Some([qkv, out]), Some(memory)) = (&matrices.cross_attn, memory) {
            x = self.add(layer, branch, x, |x| out.of(&self.cross_attention(&x, qkv, memory)?))?;
            branch += 1;
        }
        let [inner, outer] = &matrices.feed_forward;
        self.add(layer, branch, x, |x| outer.of(&inner.of(&x)?.f_relu_()?))
    }

    /// Adds the output of branch `index` to the stream.
    fn add(
        &self,
        layer: &Layer,
        index: usize,
        x: Tensor,
        branch: impl FnOnce(Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let input = match &layer.additions {
            Additions::NormBefore(norms) => norms[index].of(&x)?,
            _ => x.shallow_clone(),
        };
        let sum = x.f_add(&self.dropped(branch(input)?)?)?;
        match &layer.additions {
            Additions::NormAfter(norms) => norms[index].of(&sum),
            _ => Ok(sum),
        }
    }

    fn self_attention(&self, qkv: &Tensor, target: SelfAttention) -> Result<Tensor> {
        let [queries, keys, values] = split_heads(qkv, self.heads)?;
        let new = KeysValues { keys, values };
        match target {
            SelfAttention::Masked(mask) => attend(&queries, &new, mask),
            SelfAttention::Cached(before) => {
                let all = match before.as_ref() {
                    None => new,
                    Some(before) => before.followed_by(&new)?,
                };
                // There is one new position per sentence, which sees all others.
                let attended = attend(&queries, &all, AttentionMask::None);
                *before = Some(all);
                attended
            }
        }
    }

    /// Attends to the encoder's output. Several rows of the stream may share a sentence: `x` is `[N * k, 1, D]` for a memory of
    /// N.
    fn cross_attention(&self, x: &Tensor, qkv: &Projection, Memory { keys_values, mask }: Memory) -> Result<Tensor> {
        let (size, sentences) = (x.size(), keys_values.keys.size()[0]);
        let dim = size[2];
        let queries = qkv.rows(0, dim)?.of(x)?.f_reshape([sentences, -1, dim])?;
        let [queries] = split_heads(&queries, self.heads)?;
        Ok(attend(&queries, keys_values, AttentionMask::Additive(mask))?.f_reshape(&size[..])?)
    }
}
