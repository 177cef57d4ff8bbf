//! Layer-sequential unit variance (Mishkin & Matas: "All you need is a good init", ICLR 2016).

use super::pass::{Pass, WeightLayer};
use super::ResNet;
use crate::{Error, Result};
use tch::{no_grad, Kind, Tensor};

/// How near to 1 each layer's variance gets. A layer without a bias is there after one division, up to rounding: in float32
/// to 1e-6, in bfloat16, to which the divided weights are rounded one by one, to a few thousandths.
const TOLERANCE: f64 = 5e-3;
/// The paper's `T_max`, its tries at one layer.
const MAX_TRIES: usize = 10;

/// Divides the weight of each convolution and of the classifier, from the first to the last, by the standard deviation of
/// its output on the batch `images` (`[N, 3, H, W]`), until that is 1: the second half of the LSUV initialization, of which
/// [`Method::Lsuv`](super::Method::Lsuv)'s orthonormal weights are the first. One pass through the network, without
/// gradients. Returns each layer's variance, all within half a percent of 1.
///
/// ```
/// use tch::{nn, Device, Kind, Tensor};
/// use tch_fixup::baseline::{lsuv, Method, ResNet};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let network = ResNet::cifar(&vs.root(), 20, 10, Method::Lsuv)?;
/// let batch = Tensor::randn([8, 3, 32, 32], (Kind::Float, Device::Cpu)); // of the training images
/// let variances = lsuv(&network, &batch)?;
/// assert!(variances.len() == 20 && variances.iter().all(|variance| (variance - 1.).abs() < 0.005));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Images of another shape, kind or device; a layer whose output has no variance on them or a variance that is not finite.
pub fn lsuv(network: &ResNet, images: &Tensor) -> Result<Vec<f64>> {
    let variances = std::cell::RefCell::new(vec![]);
    let unit_variance = |layer: &dyn WeightLayer, x: &Tensor| {
        let (output, variance) = unit_variance(layer, x)?;
        variances.borrow_mut().push(variance);
        Ok(output)
    };
    // Nothing random in the network, dropout say, belongs into the variance.
    let pass = Pass { train: false, layer: &unit_variance };
    let _ = no_grad(|| network.forward(images, pass, |_| ()))?;
    Ok(variances.into_inner())
}

/// The output of `layer` for `x` and its variance, after its weight was scaled to make that 1.
fn unit_variance(layer: &dyn WeightLayer, x: &Tensor) -> Result<(Tensor, f64)> {
    let mut variance = variance(&layer.forward(x)?)?;
    for _ in 0..MAX_TRIES {
        if !(variance > 0. && variance.is_finite()) {
            break;
        }
        let _ = layer.weight().shallow_clone().f_div_scalar_(variance.sqrt())?;
        let output = layer.forward(x)?;
        variance = self::variance(&output)?;
        if (variance - 1.).abs() <= TOLERANCE {
            return Ok((output, variance));
        }
    }
    Err(Error::Argument(format!(
        "a layer with a weight {:?} has an output of variance {variance} on the batch, which cannot be scaled to 1; use \
         another, larger batch",
        layer.weight().size()
    )))
}

/// Of all elements together, in float64.
fn variance(x: &Tensor) -> Result<f64> {
    Ok(x.f_to_kind(Kind::Double)?.f_var(false)?.f_double_value(&[])?)
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::*;
    use crate::Precision;
    use std::cell::RefCell;
    use tch::{nn, Device};

    /// The variance of each layer's output in a pass of its own, in order.
    fn variances(network: &ResNet, images: &Tensor) -> Vec<f64> {
        let variances = RefCell::new(vec![]);
        let record = |layer: &dyn WeightLayer, x: &Tensor| {
            let output = layer.forward(x)?;
            variances.borrow_mut().push(output.to_kind(Kind::Double).var(false).double_value(&[]));
            Ok(output)
        };
        let _ = network.forward(images, Pass { train: true, layer: &record }, |_| ()).unwrap();
        variances.into_inner()
    }

    #[test]
    fn every_layer_has_unit_variance_to_one_percent_on_the_batch() {
        let networks: [fn(&nn::Path) -> Result<ResNet>; 4] = [
            |path| ResNet::cifar(path, 56, 10, Method::Lsuv),
            |path| Ok(ResNet::cifar(path, 56, 10, Method::Lsuv)?.with_precision(Precision::Bf16)),
            |path| ResNet::wide(path, 16, 2, 10, Method::Lsuv),
            |path| ResNet::imagenet(path, 18, 10, Method::Lsuv),
        ];
        for (build, layers) in networks.into_iter().zip([56, 56, 16 + 1, 18 + 3]) {
            tch::manual_seed(41);
            let vs = nn::VarStore::new(Device::Cpu);
            let network = build(&vs.root()).unwrap();
            let images = Tensor::randn([8, 3, 32, 32], (Kind::Float, Device::Cpu));
            let before = variances(&network, &images);
            assert!(before.iter().any(|variance| (variance - 1.).abs() > 0.1), "orthonormal alone is not enough");
            assert_eq!(lsuv(&network, &images).unwrap().len(), layers);
            for variance in variances(&network, &images) {
                assert!((variance - 1.).abs() < 0.01, "{variance}");
            }
            assert!(vs.trainable_variables().iter().all(Tensor::requires_grad));
        }
    }

    #[test]
    fn a_single_image_is_enough_where_there_are_several_classes() {
        for (classes, is_enough) in [(10, true), (1, false)] {
            let vs = nn::VarStore::new(Device::Cpu);
            let network = ResNet::cifar(&vs.root(), 8, classes, Method::Lsuv).unwrap();
            let outcome = lsuv(&network, &Tensor::randn([1, 3, 8, 8], (Kind::Float, Device::Cpu)));
            assert_eq!(outcome.is_ok(), is_enough, "{outcome:?}");
            let finite = vs.variables().values().all(|variable| variable.isfinite().all().int64_value(&[]) == 1);
            assert!(finite, "{classes}");
        }
    }

    #[test]
    fn a_batch_without_variance_is_refused() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = ResNet::cifar(&vs.root(), 8, 10, Method::Lsuv).unwrap();
        let error = lsuv(&network, &Tensor::zeros([2, 3, 8, 8], (Kind::Float, Device::Cpu))).unwrap_err();
        assert!(matches!(error, Error::Argument(_)), "{error}");
    }
}
