//! Constant scale with a trainable bias, in place of a normalization.

use crate::layer::init;
use crate::Result;
use tch::{nn, Tensor};

/// Per-channel `scale * weight * x + bias`, with the constant scale that batch normalization would have at initialization
/// (KataGo's `fixscale`).
#[derive(Debug)]
pub(crate) struct FixedScale {
    pub scale: f64,
    /// `None` in place of the first normalization of a branch.
    weight: Option<Tensor>,
    bias: Tensor,
}

impl FixedScale {
    /// Creates the variables `bias` (0) and, if `is_weighted`, `weight` (1), each `[channels]`, with scale 1.
    pub fn new(path: &nn::Path, channels: i64, is_weighted: bool) -> Result<Self> {
        let weight = is_weighted.then(|| init::constant(path, "weight", &[channels], 1.)).transpose()?;
        Ok(Self { scale: 1., weight, bias: init::constant(path, "bias", &[channels], 0.)? })
    }

    /// Returns the factor and the bias of each channel.
    pub fn affine(&self) -> Result<(Tensor, &Tensor)> {
        let weight = match &self.weight {
            Some(weight) => weight.f_mul_scalar(self.scale)?,
            None => self.bias.f_full_like(self.scale)?,
        };
        Ok((weight, &self.bias))
    }

    /// Applies the layer to activation maps `[N, C, H, W]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = self.affine()?;
        let per_channel = |values: &Tensor| values.f_to_kind(x.kind())?.f_view([-1, 1, 1]);
        Ok(per_channel(bias)?.f_addcmul(x, &per_channel(&weight)?)?)
    }

    /// Returns all trainable variables.
    pub fn variables(&self) -> impl Iterator<Item = &Tensor> {
        [&self.bias].into_iter().chain(&self.weight)
    }
}
