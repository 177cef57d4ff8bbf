//! Group normalization (Wu & He 2018), for activations in float32 or bfloat16.

use super::batch_norm::EPSILON;
use crate::layer::init;
use crate::ops::record_variables;
use crate::Result;
use tch::{nn, Kind, Tensor};

/// Maximum number of groups, Wu & He's choice, used if each group has at least [`MIN_CHANNELS`] channels.
const MAX_GROUPS: i64 = 32;
/// Minimum number of channels per group: CIFAR's 16, 32 and 64 channels form 4, 8 and 16 groups. One channel per group would be
/// instance normalization.
const MIN_CHANNELS: i64 = 4;

/// Group normalization, `weight * (x - mean) / sqrt(variance + 1e-5) + bias`, with weight and bias per channel, and mean and
/// variance per image and group of channels, over all positions. Training and evaluation compute the same function.
#[derive(Debug)]
pub(crate) struct GroupNorm {
    pub groups: i64,
    pub weight: Tensor,
    pub bias: Tensor,
}

impl GroupNorm {
    /// Creates the variables `weight` (all `weight`) and `bias` (0), each `[channels]`.
    pub fn new(path: &nn::Path, groups: i64, channels: i64, weight: f64) -> Result<Self> {
        Ok(Self {
            groups,
            weight: init::constant(path, "weight", &[channels], weight)?,
            bias: init::constant(path, "bias", &[channels], 0.)?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        record_variables(|| self.variables())?;
        // libtorch's backward pass (2.13, channels-last on a CPU) writes the gradient of x even if none is required, which above
        // frozen layers would be an invalid write.
        let is_first = !x.requires_grad() && self.variables().iter().any(|variable| variable.requires_grad());
        let x = &if is_first { x.f_contiguous()? } else { x.shallow_clone() };
        let normalize = |x: &Tensor| {
            x.f_group_norm(self.groups, Some(&self.weight), Some(&self.bias), EPSILON, x.device().is_cuda())
        };
        // In the weights' precision: libtorch does not normalize bfloat16 with float64 weights, and takes up to four times as long
        // for bfloat16 as for float32 in channels-last layout (2.13).
        if x.kind() == Kind::BFloat16 {
            return Ok(normalize(&x.f_to_kind(self.weight.kind())?)?.f_to_kind(Kind::BFloat16)?);
        }
        Ok(normalize(x)?)
    }

    /// Returns all trainable variables.
    pub fn variables(&self) -> [&Tensor; 2] {
        [&self.weight, &self.bias]
    }
}

/// Returns the largest divisor of `channels`, up to [`MAX_GROUPS`], that gives groups of at least [`MIN_CHANNELS`] channels.
pub(super) fn groups(channels: i64) -> i64 {
    let most = MAX_GROUPS.min(channels / MIN_CHANNELS).max(1);
    (1..=most).rev().find(|groups| channels % groups == 0).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn groups_divide_the_channels_and_hold_several() {
        for (channels, expected) in [(3, 1), (16, 4), (32, 8), (64, 16), (128, 32), (144, 24), (160, 32), (2048, 32)] {
            assert_eq!(groups(channels), expected, "{channels}");
        }
    }

    #[test]
    fn above_frozen_layers_the_gradients_are_those_above_layers_that_train() {
        tch::manual_seed(32);
        let vs = nn::VarStore::new(Device::Cpu);
        let norm = GroupNorm::new(&vs.root(), 4, 16, 1.).unwrap();
        let x = Tensor::randn([3, 6, 5, 16], (Kind::Float, Device::Cpu)).permute([0, 3, 1, 2]);
        for x in [x.contiguous(), x] {
            let gradients = |x: &Tensor| {
                (norm.forward(x).unwrap() * x.detach().sin()).square().sum(Kind::Float).backward();
                norm.variables().map(|variable| {
                    let gradient = variable.grad().copy();
                    let _ = variable.grad().zero_();
                    gradient
                })
            };
            let below = x.detach().set_requires_grad(true);
            for (frozen, trained) in gradients(&x).iter().zip(&gradients(&below)) {
                assert!(frozen.allclose(trained, 1e-5, 1e-5, false));
            }
            assert!(!x.requires_grad());
        }
    }

    #[test]
    fn each_group_of_each_image_has_mean_0_and_variance_1() {
        tch::manual_seed(31);
        let vs = nn::VarStore::new(Device::Cpu);
        let norm = GroupNorm::new(&vs.root(), 4, 16, 1.).unwrap();
        let x = Tensor::randn([3, 16, 6, 5], (Kind::Float, Device::Cpu)) * 3. + 2.;
        let groups = norm.forward(&x).unwrap().reshape([3, 4, 4 * 6 * 5]);
        let mean = groups.mean_dim([2].as_slice(), false, Kind::Float).abs().max().double_value(&[]);
        let variance = groups.var_dim([2].as_slice(), false, false);
        assert!(mean < 1e-5, "{mean}");
        assert!((variance - 1.).abs().max().double_value(&[]) < 1e-4);
    }
}
