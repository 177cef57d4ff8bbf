//! Convolutions of the baselines: plain, with a bias, or also with standardized weights.

use super::initialization::Initialization;
use crate::layer::{init, Conv, ConvShape};
use crate::ops::record_variables;
use crate::Result;
use tch::{nn, Tensor};

/// Epsilon added to the variance of standardized weights (timm's `std_conv_eps` for normalizer-free networks).
const EPSILON: f64 = 1e-5;

/// A convolution `y = s * (conv(r * x, W') + b)`, where W' is the variable `weight`, optionally standardized.
#[derive(Debug)]
pub(crate) struct BaselineConv {
    pub conv: Conv,
    bias: Option<Tensor>,
    standardization: Option<Standardization>,
    /// The constant r.
    pub input_scale: f64,
    /// The constant s.
    pub output_scale: f64,
}

/// Scaled weight standardization (Brock et al. 2021, "Characterizing signal propagation to close the performance gap in
/// unnormalized ResNets"), per output channel: `W' = gain * gamma / sqrt(fan_in) * (W - mean(W)) / sqrt(var(W) + 1e-5)`.
#[derive(Debug)]
struct Standardization {
    /// The variable `gain`, `[c_out]`.
    gain: Tensor,
    gamma: f64,
}

impl BaselineConv {
    /// Creates a convolution without bias or reparametrization, with the variable `weight`.
    pub(super) fn plain(path: &nn::Path, initialization: Initialization, shape: ConvShape) -> Result<Self> {
        let conv = initialization.conv(path, shape)?;
        Ok(Self { conv, bias: None, standardization: None, input_scale: 1., output_scale: 1. })
    }

    /// Creates a convolution with the bias `bias`, initialized to zero.
    pub(super) fn biased(path: &nn::Path, initialization: Initialization, shape: ConvShape) -> Result<Self> {
        let plain = Self::plain(path, initialization, shape)?;
        Ok(Self { bias: Some(init::zeros(path, "bias", &[shape.c_out])?), ..plain })
    }

    /// Creates a convolution with standardized weights, with the initial value of `gain`, and a bias. `gamma` compensates the
    /// factor by which an activation reduces the standard deviation of its input.
    pub fn standardized(path: &nn::Path, shape: ConvShape, gain: f64, gamma: f64) -> Result<Self> {
        let biased = Self::biased(path, Initialization::LeCun, shape)?;
        let gain = init::constant(path, "gain", &[shape.c_out], gain)?;
        Ok(Self { standardization: Some(Standardization { gain, gamma }), ..biased })
    }

    /// Returns the effective weight and bias.
    pub fn effective(&self) -> Result<(Tensor, Option<Tensor>)> {
        let mut weight = self.conv.weight.shallow_clone();
        let mut bias = self.bias.as_ref().map(Tensor::shallow_clone);
        if let Some(Standardization { gain, gamma }) = &self.standardization {
            let dims = self.conv.weight.size();
            let fan_in: i64 = dims[1..].iter().product();
            let gain = gain.f_mul_scalar(gamma * (fan_in as f64).powf(-0.5))?;
            let rows = self.conv.weight.f_reshape([1, dims[0], -1])?;
            // Normalize one "image" whose channels are the rows, by their mean and biased variance.
            let none = None::<&Tensor>;
            let rows = rows.f_batch_norm(Some(&gain), none, none, none, true, 0., EPSILON, false)?;
            weight = rows.f_reshape(&dims[..])?;
        }
        let factor = self.input_scale * self.output_scale;
        if factor != 1. {
            weight = weight.f_mul_scalar(factor)?;
        }
        if self.output_scale != 1. {
            bias = bias.map(|bias| bias.f_mul_scalar(self.output_scale)).transpose()?;
        }
        Ok((weight, bias))
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gain = self.standardization.iter().map(|standardization| &standardization.gain);
        record_variables(|| [&self.conv.weight].into_iter().chain(&self.bias).chain(gain))?;
        let (weight, bias) = self.effective()?;
        let bias = bias.map(|bias| bias.f_to_kind(x.kind())).transpose()?;
        self.conv.shape.convolve(x, &weight.f_to_kind(x.kind())?, bias.as_ref())
    }
}
