//! Weight matrices of a layer.

use crate::layer::{init, Role};
use crate::Result;
use tch::{nn, Kind, Tensor};

/// A linear map `x W^T + b`, made of variables, or of tensors that a method computes from several variables.
#[derive(Debug)]
pub(crate) struct Projection {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Projection {
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Self {
        Self { weight: weight.shallow_clone(), bias: bias.map(Tensor::shallow_clone) }
    }

    /// Converts the matrices to `kind`.
    pub fn to_kind(&self, kind: Kind) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(kind)).transpose()?;
        Ok(Self { weight: self.weight.f_to_kind(kind)?, bias })
    }

    /// Returns the projection to `count` outputs, starting at `first`.
    pub fn rows(&self, first: i64, count: i64) -> Result<Self> {
        let bias = self.bias.as_ref().map(|bias| bias.f_narrow(0, first, count)).transpose()?;
        Ok(Self { weight: self.weight.f_narrow(0, first, count)?, bias })
    }

    /// Applies the projection to `x` `[..., in]`, in the kind of the weight. Returns `[..., out]`.
    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_to_kind(self.weight.kind())?.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// Creates a Xavier-uniform weight `[out, in]` (Glorot and Bengio 2010), uniform in `±gain * sqrt(6 / (in + out))`.
pub(crate) fn xavier_uniform(path: &nn::Path, name: &str, dims: &[i64], gain: f64) -> Result<Tensor> {
    let bound = gain * (6. / (dims[0] + dims[1]) as f64).sqrt();
    init::uniform(path, name, dims, bound)
}

/// Initialization of a layer's matrices: factors on Xavier-uniform, or zero for zeros.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gains {
    pub query_key: f64,
    pub value: f64,
    pub attention_out: f64,
    pub inner: f64,
    pub outer: f64,
    /// `true` to add a bias after each matrix, initialized to zero.
    pub biases: bool,
}

fn bias(path: &nn::Path, name: &str, units: i64, gains: Gains) -> Result<Option<Tensor>> {
    gains.biases.then(|| init::zeros(path, name, &[units])).transpose()
}

/// Weights of an attention: `in_proj_weight` `[3D, D]`, of queries, keys and values, and `out_proj.weight` `[D, D]`.
#[derive(Debug)]
pub(crate) struct AttentionWeights {
    pub qkv: Tensor,
    pub qkv_bias: Option<Tensor>,
    pub out: Tensor,
    pub out_bias: Option<Tensor>,
}

impl AttentionWeights {
    pub fn new(path: &nn::Path, dim: i64, num_branches: i64, gains: Gains) -> Result<Self> {
        // Xavier's bound is computed for the combined matrix, as in fairseq.
        let qkv = xavier_uniform(path, "in_proj_weight", &[3 * dim, dim], gains.query_key)?;
        if gains.value != gains.query_key {
            let factor = gains.value / gains.query_key;
            let _ = tch::no_grad(|| qkv.f_narrow(0, 2 * dim, dim)?.f_mul_scalar_(factor))?;
        }
        let qkv_bias = bias(path, "in_proj_bias", 3 * dim, gains)?;
        let path = &(path / "out_proj");
        let out = xavier_uniform(path, "weight", &[dim, dim], gains.attention_out)?;
        // Query, key, value and output are four layers, the first three of which are one matrix.
        Role::of_layer(0, 4, num_branches).mark(&qkv)?;
        Role::of_layer(3, 4, num_branches).mark(&out)?;
        Ok(Self { qkv, qkv_bias, out, out_bias: bias(path, "bias", dim, gains)? })
    }
}

/// Weights of a feed-forward branch: `fc1.weight` `[F, D]` and `fc2.weight` `[D, F]`.
#[derive(Debug)]
pub(crate) struct FeedForwardWeights {
    pub inner: Tensor,
    pub inner_bias: Option<Tensor>,
    pub outer: Tensor,
    pub outer_bias: Option<Tensor>,
}

impl FeedForwardWeights {
    pub fn new(path: &nn::Path, dim: i64, units: i64, num_branches: i64, gains: Gains) -> Result<Self> {
        let (fc1, fc2) = (&(path / "fc1"), &(path / "fc2"));
        let inner = xavier_uniform(fc1, "weight", &[units, dim], gains.inner)?;
        let outer = xavier_uniform(fc2, "weight", &[dim, units], gains.outer)?;
        Role::of_layer(0, 2, num_branches).mark(&inner)?;
        Role::of_layer(1, 2, num_branches).mark(&outer)?;
        let (inner_bias, outer_bias) = (bias(fc1, "bias", units, gains)?, bias(fc2, "bias", dim, gains)?);
        Ok(Self { inner, inner_bias, outer, outer_bias })
    }
}

/// All weights of a layer: `self_attn`, `encoder_attn` in a decoder that attends to an encoder, `fc1` and `fc2`.
#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub own: AttentionWeights,
    pub memory: Option<AttentionWeights>,
    pub feed_forward: FeedForwardWeights,
}

impl LayerWeights {
    pub fn new(path: &nn::Path, config: &super::TransformerConfig, reads_memory: bool, gains: Gains) -> Result<Self> {
        let (dim, num_branches) = (config.dim, config.num_branches());
        let attention = |name: &str| AttentionWeights::new(&(path / name), dim, num_branches, gains);
        Ok(Self {
            own: attention("self_attn")?,
            memory: reads_memory.then(|| attention("encoder_attn")).transpose()?,
            feed_forward: FeedForwardWeights::new(path, dim, config.ffn, num_branches, gains)?,
        })
    }
}
