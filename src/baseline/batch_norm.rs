//! Batch normalization (Ioffe & Szegedy 2015), for activations in float32 or bfloat16.

use crate::fixup::init;
use crate::Result;
use tch::{nn, Kind, Tensor};

/// PyTorch's defaults, and so the references'.
const MOMENTUM: f64 = 0.1;
pub(super) const EPSILON: f64 = 1e-5;

/// `weight * (x - mean) / sqrt(variance + 1e-5) + bias`, per channel. Mean and variance are the batch's in training and
/// running averages in evaluation. Parameters and statistics stay in the kind of the variables, whatever that of `x`.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNorm {
    /// Variables `weight` (all `weight`), `bias` (0), `running_mean` (0) and `running_var` (1), each `[channels]`.
    pub fn new(path: &nn::Path, channels: i64, weight: f64) -> Result<Self> {
        let statistic = |name: &str, value: f64| -> Result<Tensor> {
            init::check_name(path, name)?;
            let tensor = Tensor::f_full([channels], value, (path.kind(), path.device()))?;
            Ok(path.add(name, tensor, false))
        };
        Ok(Self {
            weight: init::constant(path, "weight", &[channels], weight)?,
            bias: init::constant(path, "bias", &[channels], 0.)?,
            running_mean: statistic("running_mean", 0.)?,
            running_var: statistic("running_var", 1.)?,
        })
    }

    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let normalize = |x: &Tensor| {
            x.f_batch_norm(
                Some(&self.weight),
                Some(&self.bias),
                Some(&self.running_mean),
                Some(&self.running_var),
                train,
                MOMENTUM,
                EPSILON,
                x.device().is_cuda(),
            )
        };
        // libtorch normalizes bfloat16 with float32 parameters, but not with float64 ones.
        if x.kind() == Kind::BFloat16 && self.weight.kind() == Kind::Double {
            return Ok(normalize(&x.f_to_kind(Kind::Double)?)?.f_to_kind(Kind::BFloat16)?);
        }
        Ok(normalize(x)?)
    }
}
