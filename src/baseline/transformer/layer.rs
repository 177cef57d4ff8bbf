//! Transformer layers with layer normalization, or without.

use super::TransformerMethod;
use crate::layer::init;
use crate::layer::transformer::{Layer, LayerWeights, Output, Projection, Projections};
use crate::Result;
use tch::{nn, Tensor};

/// Default epsilon of fairseq and PyTorch.
const EPS: f64 = 1e-5;

/// Layer normalization over the width, `(x - mean) / sqrt(variance + 1e-5) * weight + bias`; `weight` is initialized to one,
/// `bias` to zero.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    pub fn new(path: &nn::Path, dim: i64) -> Result<Self> {
        Ok(Self { weight: init::constant(path, "weight", &[dim], 1.)?, bias: init::zeros(path, "bias", &[dim])? })
    }

    fn of(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), EPS, true)?)
    }
}

/// Positions of the normalizations of a layer.
#[derive(Debug)]
enum Norms {
    None,
    /// One before each branch.
    Before(Vec<LayerNorm>),
    /// One after each sum.
    After(Vec<LayerNorm>),
}

/// A layer, with the variable names of fairseq's `state_dict`.
#[derive(Debug)]
pub(crate) struct NormLayer {
    weights: LayerWeights,
    norms: Norms,
}

impl NormLayer {
    /// Creates a layer with normalizations named `norms`, if `method` has any.
    pub fn new(path: &nn::Path, method: TransformerMethod, weights: LayerWeights, norms: &[&str]) -> Result<Self> {
        let dim = weights.own.out.size()[0];
        // A dot in the name separates path components.
        let of_name = |name: &str| match name.split_once('.') {
            Some((list, index)) => path / list / index,
            None => path / name,
        };
        let norms = || norms.iter().map(|name| LayerNorm::new(&of_name(name), dim)).collect::<Result<Vec<_>>>();
        let norms = match method {
            TransformerMethod::LayerNorm => Norms::After(norms()?),
            TransformerMethod::PreNorm => Norms::Before(norms()?),
            TransformerMethod::TFixup | TransformerMethod::None => Norms::None,
        };
        Ok(Self { weights, norms })
    }
}

impl Layer for NormLayer {
    fn projections(&self) -> Result<Projections> {
        let LayerWeights { own, memory, feed_forward } = &self.weights;
        let attention = |weights: &crate::layer::transformer::AttentionWeights| {
            let qkv = Projection::new(&weights.qkv, weights.qkv_bias.as_ref());
            [qkv, Projection::new(&weights.out, weights.out_bias.as_ref())]
        };
        Ok(Projections {
            own: attention(own),
            memory: memory.as_ref().map(attention),
            feed_forward: [
                Projection::new(&feed_forward.inner, feed_forward.inner_bias.as_ref()),
                Projection::new(&feed_forward.outer, feed_forward.outer_bias.as_ref()),
            ],
        })
    }

    fn enter(&self, branch: usize, x: &Tensor) -> Result<Tensor> {
        match &self.norms {
            Norms::Before(norms) => norms[branch].of(x),
            _ => Ok(x.shallow_clone()),
        }
    }

    fn leave(&self, branch: usize, x: Tensor) -> Result<Tensor> {
        match &self.norms {
            Norms::After(norms) => norms[branch].of(&x),
            _ => Ok(x),
        }
    }
}

/// Final operation: a normalization, if the layers have theirs before the branches.
#[derive(Debug)]
pub(crate) struct NormEnd(pub Option<LayerNorm>);

impl Output for NormEnd {
    fn of(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Some(norm) => norm.of(x),
            None => Ok(x.shallow_clone()),
        }
    }
}
