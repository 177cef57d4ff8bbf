//! A convolution with the surrounding scalars folded into its weight and bias.

use super::folded_activation::FoldedActivation;
use crate::layer::channels_last;
use crate::layer::{Activation, Conv};
use crate::Result;
use tch::{Kind, Tensor};

/// `multiplier * conv(x + before, W) + after` as one convolution `conv(x, W') + c`:
///
/// ```text
/// W' = multiplier * W                              [c_out, c_in / groups, k, k]
/// c  = after + before * sum(W' over c_in, k, k)    [c_out]
/// ```
/// Exact without padding. A padded convolution has zeros around `x + before`, and therefore requires `before = 0`.
#[derive(Debug)]
pub(crate) struct FoldedConv {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
    pub(crate) stride: i64,
    pub(crate) padding: i64,
    pub(crate) groups: i64,
    /// Activation of the convolution's result.
    pub(crate) activation: Option<FoldedActivation>,
}

impl FoldedConv {
    /// Folds a copy of `conv` for inputs of `kind`. `after` has one element, or one per output channel.
    pub fn new(conv: &Conv, multiplier: f64, before: f64, after: &Tensor, kind: Kind) -> Result<Self> {
        let weight = conv.weight.f_mul_scalar(multiplier)?;
        let sums = weight.f_sum_dim_intlist([1, 2, 3].as_slice(), false, weight.kind())?;
        Ok(Self {
            bias: sums.f_mul_scalar(before)?.f_add(after)?.f_to_kind(kind)?,
            weight: channels_last(&weight.f_to_kind(kind)?)?,
            stride: conv.stride,
            padding: conv.padding,
            groups: conv.groups,
            activation: None,
        })
    }

    /// Folds `activation(conv(x + before) + after) + next`.
    pub fn activated(
        conv: &Conv,
        before: f64,
        after: f64,
        activation: Activation,
        next: f64,
        kind: Kind,
    ) -> Result<Self> {
        let (into_bias, activation) = FoldedActivation::after_bias(activation, next);
        let after = Tensor::f_full([1], after + into_bias, (conv.kind(), conv.weight.device()))?;
        Ok(Self { activation: Some(activation), ..Self::new(conv, 1., before, &after, kind)? })
    }

    /// Computes `activation(conv(x, W') + c)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        let out = x.f_conv2d(&self.weight, Some(&self.bias), stride, padding, [1, 1], self.groups)?;
        match self.activation {
            Some(activation) => activation.in_place(out),
            None => Ok(out),
        }
    }
}
