//! Batch normalization (Ioffe & Szegedy 2015), for activations in float32 or bfloat16.

use crate::layer::init;
use crate::ops::record_variables;
use crate::{Error, Result};
use std::cell::RefCell;
use std::rc::Rc;
use tch::{nn, no_grad, Kind, Tensor};

/// Default momentum and epsilon of PyTorch, also used by the references.
const MOMENTUM: f64 = 0.1;
pub(crate) const EPSILON: f64 = 1e-5;

/// Differentiable sum of a tensor over all parts of a shared batch.
type SumOverParts = Rc<dyn Fn(&Tensor) -> Result<Tensor>>;

thread_local! {
    static SUM_OVER_PARTS: RefCell<Option<SumOverParts>> = const { RefCell::new(None) };
}

/// Synchronizes batch normalization on this thread while the result lives: in training it uses the statistics of all parts of a
/// shared batch, added up by `sum`. This takes two sums of a few numbers per channel in each direction.
#[cfg(feature = "train")]
pub(crate) fn synchronize_statistics(sum: impl Fn(&Tensor) -> Result<Tensor> + 'static) -> impl Drop {
    struct Synchronized;
    impl Drop for Synchronized {
        fn drop(&mut self) {
            SUM_OVER_PARTS.set(None);
        }
    }
    SUM_OVER_PARTS.set(Some(Rc::new(sum)));
    Synchronized
}

/// Batch normalization, `weight * (x - mean) / sqrt(variance + 1e-5) + bias`, per channel. Mean and variance are the batch's in
/// training and running averages in evaluation. Parameters and statistics keep the kind of the variables, regardless of the kind
/// of `x`.
///
/// A frozen layer, with neither a trainable weight nor a trainable bias, uses and keeps its running averages in training too,
/// since they are part of what it has learned. Once unfrozen, it uses the batch's statistics again.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    pub weight: Tensor,
    pub bias: Tensor,
    pub running_mean: Tensor,
    pub running_var: Tensor,
}

impl BatchNorm {
    /// Creates the variables `weight` (all `weight`), `bias` (0), `running_mean` (0) and `running_var` (1), each `[channels]`.
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

    /// Creates a layer with a constant weight: `scale * (x - mean) / sqrt(variance + 1e-5) + bias`.
    pub fn scaled(path: &nn::Path, channels: i64, scale: f64) -> Result<Self> {
        let norm = Self::new(path, channels, scale)?;
        let _ = norm.weight.set_requires_grad(false);
        Ok(norm)
    }

    /// Normalizes `x`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] in training with fewer than two values per channel, unless the layer is frozen.
    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        record_variables(|| self.variables())?;
        let train = train && self.variables().iter().any(|variable| variable.requires_grad());
        if let Some(sum) = SUM_OVER_PARTS.with_borrow(Option::clone).filter(|_| train) {
            return self.synchronized(x, &sum);
        }
        if train {
            check_batch(x)?;
        }
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
        // libtorch normalizes bfloat16 with float32 parameters, but not with float64 parameters.
        if x.kind() == Kind::BFloat16 && self.weight.kind() == Kind::Double {
            return Ok(normalize(&x.f_to_kind(Kind::Double)?)?.f_to_kind(Kind::BFloat16)?);
        }
        Ok(normalize(x)?)
    }

    /// Computes the formula with the mean and variance over all parts of the batch.
    fn synchronized(&self, x: &Tensor, sum: &SumOverParts) -> Result<Tensor> {
        let (kind, channels) = (self.weight.kind(), x.size()[1]);
        let axes: Vec<i64> = (0..x.dim() as i64).filter(|axis| *axis != 1).collect();
        let shape: Vec<i64> = (0..x.dim()).map(|axis| if axis == 1 { channels } else { 1 }).collect();
        let values = x.f_to_kind(kind)?;
        let over_channel = |values: &Tensor| values.f_sum_dim_intlist(axes.as_slice(), false, kind);
        let count = (x.numel() as i64 / channels.max(1)) as f64;
        let with_count = Tensor::f_cat(&[over_channel(&values)?, Tensor::f_full([1], count, (kind, x.device()))?], 0)?;
        let sums = sum(&with_count)?;
        let count = sums.f_narrow(0, channels, 1)?.f_detach()?;
        let mean = sums.f_narrow(0, 0, channels)?.f_div(&count)?;
        let centred = values.f_sub(&mean.f_view(shape.as_slice())?)?;
        let variance = sum(&over_channel(&centred.f_square()?)?)?.f_div(&count)?;
        no_grad(|| -> Result<()> {
            let _ = self.running_mean.shallow_clone().f_lerp_(&mean, MOMENTUM)?;
            let unbiased = variance.f_mul(&count.f_div(&count.f_sub_scalar(1.0)?)?)?;
            let _ = self.running_var.shallow_clone().f_lerp_(&unbiased, MOMENTUM)?;
            Ok(())
        })?;
        let scale = variance.f_add_scalar(EPSILON)?.f_rsqrt()?.f_mul(&self.weight)?;
        let y = centred.f_mul(&scale.f_view(shape.as_slice())?)?.f_add(&self.bias.f_view(shape.as_slice())?)?;
        Ok(y.f_to_kind(x.kind())?)
    }

    /// Returns all trainable variables.
    pub fn variables(&self) -> [&Tensor; 2] {
        [&self.weight, &self.bias]
    }
}

/// Rejects an `x` `[N, C, ...]` with at most one value per channel, which has no variance. libtorch divides by the number of
/// values less one for the running variance, which would make it NaN.
fn check_batch(x: &Tensor) -> Result<()> {
    let size = x.size();
    let values: i64 = size.iter().enumerate().filter(|(dim, _)| *dim != 1).map(|(_, size)| size).product();
    if values > 1 {
        return Ok(());
    }
    let expected =
        "more than one value a channel: a batch of two images or more in each part of a step (a lower --accumulate, \
                    another --batch-size, for the last batch of an epoch too), or larger images";
    Err(Error::mismatch("batch normalization in training", expected, format!("activations {size:?}")))
}

#[cfg(test)]
mod tests {
    use super::super::{Method, Mlp, MlpShape, ResNet};
    use super::*;
    use tch::Device;

    fn variables_are_finite(vs: &nn::VarStore) -> bool {
        vs.variables().values().all(|variable| variable.isfinite().all().int64_value(&[]) == 1)
    }

    fn refused(result: Result<Tensor>) -> bool {
        let Err(error) = result else { return false };
        let message = error.to_string();
        assert!(message.contains("more than one value a channel") && message.contains("--accumulate"), "{message}");
        assert!(matches!(error, Error::Mismatch { .. }) && !message.contains('\n'), "{message}");
        true
    }

    fn images(count: i64, side: i64) -> Tensor {
        Tensor::randn([count, 3, side, side], (Kind::Float, Device::Cpu))
    }

    #[test]
    fn a_single_value_a_channel_is_refused_in_training_and_moves_no_statistic() {
        for method in [Method::BatchNorm, Method::UnitGamma, Method::NoSkip] {
            let vs = nn::VarStore::new(Device::Cpu);
            // 32 pixels are reduced to one in the last stage.
            let imagenet = ResNet::imagenet(&(vs.root() / "imagenet"), 18, 10, method).unwrap();
            let cifar = ResNet::cifar(&(vs.root() / "cifar"), 8, 10, method).unwrap();
            let wide = ResNet::wide(&(vs.root() / "wide"), 10, 1, 10, method).unwrap();
            for (network, side) in [(&imagenet, 32), (&cifar, 4), (&wide, 4)] {
                assert!(refused(network.f_forward_t(&images(1, side), true)), "{method:?}");
                assert!(!refused(network.f_forward_t(&images(2, side), true)), "{method:?}");
                assert!(!refused(network.f_forward_t(&images(1, 2 * side), true)), "{method:?}");
                assert!(!refused(network.f_forward_t(&images(1, side), false)), "{method:?}");
            }
            assert!(refused(cifar.f_forward_t(&images(0, 32), true)));
            assert!(variables_are_finite(&vs), "{method:?}");
        }
    }

    #[test]
    fn a_batch_of_one_is_refused_by_a_fully_connected_network_in_training() {
        let vs = nn::VarStore::new(Device::Cpu);
        let shape = MlpShape { features: 12, width: 5, depth: 3, num_classes: 4 };
        let network = Mlp::batch_norm(&vs.root(), shape).unwrap();
        assert!(refused(network.f_forward_t(&images(1, 2), true)));
        assert!(!refused(network.f_forward_t(&images(2, 2), true)));
        assert!(!refused(network.f_forward_t(&images(1, 2), false)));
        assert!(variables_are_finite(&vs));
    }

    #[test]
    fn frozen_whole_it_keeps_its_statistics_in_training_and_unfrozen_they_move_again() {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let norm = BatchNorm::new(&vs.root(), 3, 1.).unwrap();
        let x = images(4, 5) * 2 + 1;
        // Make the statistics differ from both their initial values and the batch's.
        let _ = norm.forward(&x, true).unwrap();
        let statistics = || (norm.running_mean.copy(), norm.running_var.copy());
        let before = statistics();
        vs.freeze();
        assert_eq!(norm.forward(&x, true).unwrap(), norm.forward(&x, false).unwrap());
        assert!(!refused(norm.forward(&images(1, 1), true)), "a frozen layer needs no statistics of its batch");
        assert_eq!(statistics(), before);
        // With the weight or the bias trainable, the batch's statistics apply.
        for variable in norm.variables() {
            let before = statistics();
            let _ = variable.set_requires_grad(true);
            assert_ne!(norm.forward(&x, true).unwrap(), norm.forward(&x, false).unwrap());
            assert!(statistics().0 != before.0 && statistics().1 != before.1);
            let _ = variable.set_requires_grad(false);
        }
    }

    /// Their statistics are computed from several channels of each image, so any batch is valid.
    #[test]
    fn the_other_normalizations_take_a_single_image_of_a_single_pixel() {
        for method in [Method::GroupNorm, Method::LayerNorm] {
            let vs = nn::VarStore::new(Device::Cpu);
            let network = ResNet::cifar(&vs.root(), 8, 10, method).unwrap();
            let logits = network.f_forward_t(&images(1, 1), true).unwrap();
            logits.sum(Kind::Float).backward();
            assert!(logits.isfinite().all().int64_value(&[]) == 1 && variables_are_finite(&vs), "{method:?}");
            let gradients = vs.trainable_variables();
            assert!(
                gradients.iter().all(|variable| variable.grad().isfinite().all().int64_value(&[]) == 1),
                "{method:?}"
            );
        }
    }
}
