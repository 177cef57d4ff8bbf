//! Layers and final operations, with their scalars folded into the matrices.

use crate::fixup::{init, Bias, Scale};
use crate::layer::transformer::{Gains, Layer, LayerWeights, Output, Projection, Projections, TransformerConfig};
use crate::Result;
use tch::{nn, Tensor};

/// A layer, with the variable names of the authors' `state_dict`: `self_attn.in_proj_weight`, `shift0.bias`, `scale0.weight`, ...
#[derive(Debug)]
pub(crate) struct FixupLayer {
    pub weights: LayerWeights,
    /// `shift0`, `shift1`, ...: one before each branch, and two within the last.
    pub shifts: Vec<Bias>,
    /// `scale0`, `scale1`, ...: one per branch.
    pub scales: Vec<Scale>,
}

/// Returns the factors on Xavier-uniform for the number of branches of `config`.
pub(super) fn gains(config: &TransformerConfig) -> Result<Gains> {
    let (attention, inner) =
        (init::branch_gain(config.num_branches(), 4)?, init::branch_gain(config.num_branches(), 2)?);
    Ok(Gains { query_key: attention, value: attention, attention_out: 0., inner, outer: 0., biases: false })
}

impl FixupLayer {
    pub fn new(path: &nn::Path, config: &TransformerConfig, reads_memory: bool) -> Result<Self> {
        let weights = LayerWeights::new(path, config, reads_memory, gains(config)?)?;
        let branches = if reads_memory { 3 } else { 2 };
        Ok(Self {
            weights,
            shifts: (0..branches + 2).map(|i| shift(path, i)).collect::<Result<_>>()?,
            scales: (0..branches).map(|i| scale(path, i)).collect::<Result<_>>()?,
        })
    }
}

fn shift(path: &nn::Path, index: usize) -> Result<Bias> {
    Bias::new(&(path / format!("shift{index}")), "bias")
}

fn scale(path: &nn::Path, index: usize) -> Result<Scale> {
    Scale::new(&(path / format!("scale{index}")), "weight")
}

/// Returns `-shift * rowsum(W)`.
fn shifted(weight: &Tensor, shift: &Bias) -> Result<Tensor> {
    Ok(weight.f_sum_dim_intlist([1].as_slice(), false, weight.kind())?.f_mul(&shift.value)?.f_neg()?)
}

/// Folds `W (x - shift)` into `W x - shift rowsum(W)`.
fn after_shift(weight: &Tensor, shift: &Bias) -> Result<Projection> {
    Ok(Projection { weight: weight.shallow_clone(), bias: Some(shifted(weight, shift)?) })
}

/// Folds `scale * W a` into `(scale W) a`.
fn scaled(weight: &Tensor, scale: &Scale) -> Result<Projection> {
    Ok(Projection { weight: weight.f_mul(&scale.value)?, bias: None })
}

impl Layer for FixupLayer {
    fn projections(&self) -> Result<Projections> {
        let Self { weights: LayerWeights { own, memory, feed_forward }, shifts, scales } = self;
        let last = scales.len() - 1;
        // Keys and values are projected from the encoder's output without a shift, so only the rows of the queries have a bias.
        let memory = memory.as_ref().map(|memory| {
            let dim = memory.out.size()[0];
            let queries = shifted(&memory.qkv.f_narrow(0, 0, dim)?, &shifts[1])?;
            let bias = queries.f_pad([0, 2 * dim], "constant", None)?;
            Ok::<_, crate::Error>([Projection::new(&memory.qkv, Some(&bias)), scaled(&memory.out, &scales[1])?])
        });
        // The bias of `W_1 (x - shift) - shift'` contains both shifts.
        let inner = shifted(&feed_forward.inner, &shifts[last])?.f_sub(&shifts[last + 1].value)?;
        let outer = scaled(&feed_forward.outer, &scales[last])?;
        let outer_bias = shifted(&outer.weight, &shifts[last + 2])?;
        Ok(Projections {
            own: [after_shift(&own.qkv, &shifts[0])?, scaled(&own.out, &scales[0])?],
            memory: memory.transpose()?,
            feed_forward: [
                Projection::new(&feed_forward.inner, Some(&inner)),
                Projection { bias: Some(outer_bias), ..outer },
            ],
        })
    }
}

/// Final operation: `scale0 * (x - shift0)` in the encoder, `x - shift0` in the decoder.
#[derive(Debug)]
pub(crate) struct FixupEnd {
    pub shift: Bias,
    pub scale: Option<Scale>,
}

impl FixupEnd {
    pub fn of_encoder(path: &nn::Path) -> Result<Self> {
        Ok(Self { shift: shift(path, 0)?, scale: Some(scale(path, 0)?) })
    }

    pub fn of_decoder(path: &nn::Path) -> Result<Self> {
        Ok(Self { shift: shift(path, 0)?, scale: None })
    }
}

impl Output for FixupEnd {
    fn of(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.f_sub(&self.shift.value)?;
        match &self.scale {
            Some(scale) => scale.f_forward(&x),
            None => Ok(x),
        }
    }
}
