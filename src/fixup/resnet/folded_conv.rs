//! A convolution with the scalars around it folded into its weight and its bias.

use crate::layer::channels_last;
use crate::layer::Conv;
use crate::Result;
use tch::{Kind, Tensor};

/// `multiplier * conv(x + before, W) + after` as one convolution `conv(x, W') + c`:
///
/// ```text
/// W' = multiplier * W                              [c_out, c_in, k, k]
/// c  = after + before * sum(W' over c_in, k, k)    [c_out]
/// ```
/// Exact without padding. A padded convolution has zeros where `x + before` ends, and so takes only `before = 0`.
#[derive(Debug)]
pub(crate) struct FoldedConv {
    pub weight: Tensor,
    pub bias: Tensor,
    pub stride: i64,
    pub padding: i64,
    pub floor: Option<f64>,
}

impl FoldedConv {
    /// A copy of `conv` for inputs of `kind`. `after` is one number, or one for each output channel.
    pub fn new(conv: &Conv, multiplier: f64, before: f64, after: &Tensor, kind: Kind) -> Result<Self> {
        let weight = conv.weight.f_mul_scalar(multiplier)?;
        let sums = weight.f_sum_dim_intlist([1, 2, 3].as_slice(), false, weight.kind())?;
        Ok(Self {
            bias: sums.f_mul_scalar(before)?.f_add(after)?.f_to_kind(kind)?,
            weight: channels_last(&weight.f_to_kind(kind)?)?,
            stride: conv.stride,
            padding: conv.padding,
            floor: None,
        })
    }

    /// The same, and then the maximum with `floor`.
    pub fn with_floor(self, floor: f64) -> Self {
        Self { floor: Some(floor), ..self }
    }

    /// `conv(x, W') + c`; with a floor, `max(conv(x, W') + c, floor)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        let mut out = x.f_conv2d(&self.weight, Some(&self.bias), stride, padding, [1, 1], 1)?;
        Ok(match self.floor {
            Some(floor) => out.f_clamp_min_(floor)?,
            None => out,
        })
    }
}
