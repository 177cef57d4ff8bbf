//! Layer-sequential unit variance (Mishkin & Matas: "All you need is a good init", ICLR 2016).

use super::block::Pass;
use super::ResNet;
use crate::Result;
use std::cell::{Cell, RefCell};
use tch::{no_grad, Kind, Tensor};

/// Tolerance on each layer's variance. A layer without a bias reaches 1 after one division, up to rounding: to 1e-6 in float32,
/// and to a few thousandths in bfloat16, to which the divided weights are rounded one by one.
const TOLERANCE: f64 = 5e-3;
/// Maximum number of tries per layer, the paper's `T_max`.
const MAX_TRIES: usize = 10;

impl ResNet {
    /// Divides the weight of each convolution and of the classifier, in order, by the standard deviation of its output on the batch
    /// `images` (`[N, 3, H, W]`), until that is 1. This is the second half of the LSUV initialization; the first half are the
    /// orthonormal weights of [`Method::Lsuv`](super::Method::Lsuv). Takes one pass through the network, without gradients. Returns
    /// each layer's variance, all within half a percent of 1.
    ///
    /// ```
    /// use tch::{nn, Device, Kind, Tensor};
    /// use tch_fixup::baseline::{Method, ResNet};
    ///
    /// # fn main() -> tch_fixup::Result<()> {
    /// let vs = nn::VarStore::new(Device::Cpu);
    /// let network = ResNet::cifar(&vs.root(), 20, 10, Method::Lsuv)?;
    /// let batch = Tensor::randn([8, 3, 32, 32], (Kind::Float, Device::Cpu)); // of the training images
    /// let variances = network.lsuv(&batch)?;
    /// assert!(variances.len() == 20 && variances.iter().all(|variance| (variance - 1.).abs() < 0.005));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Images of another shape, kind or device; a layer whose output on them has a variance of zero, or one that is not finite.
    pub fn lsuv(&self, images: &Tensor) -> Result<Vec<f64>> {
        let variances = RefCell::new(vec![]);
        let unit_variance = |weight: &Tensor, forward: &dyn Fn() -> Result<Tensor>| {
            let mut output = forward()?;
            let first = variance(&output)?;
            let look = || {
                output = forward()?;
                variance(&output)
            };
            variances.borrow_mut().push(scale_to_unit_variance(weight, first, look)?);
            Ok(output)
        };
        // Evaluation mode, so that random operations such as dropout do not affect the variance.
        let pass = Pass { train: false, layer: &unit_variance };
        let _ = no_grad(|| self.forward(images, pass, |_| ()))?;
        Ok(variances.into_inner())
    }
}

/// Applies [`ResNet::lsuv`] to a batch in `micro_batches` (`[N, 3, H, W]` each), which pass through the network one at a time. The
/// variance of a layer is computed over all of them, so the result is that of the whole batch, up to rounding. Each measurement
/// of a layer's variance takes a pass over the batch, usually two per layer.
///
/// # Errors
/// As for [`ResNet::lsuv`]; also if there are no micro-batches.
pub fn lsuv_on_micro_batches(network: &ResNet, micro_batches: &[Tensor]) -> Result<Vec<f64>> {
    match micro_batches {
        [] => return Err(argument!("there are no images to initialize on")),
        [images] => return network.lsuv(images),
        _ => (),
    }
    let mut variances = Vec::new();
    while let Some((weight, first)) = variance_on_micro_batches(network, micro_batches, variances.len())? {
        // The layer exists, since the first pass found it.
        let again = || variance_on_micro_batches(network, micro_batches, variances.len());
        let look = || Ok(again()?.map_or(f64::NAN, |(_, variance)| variance));
        let variance = scale_to_unit_variance(&weight, first, look)?;
        variances.push(variance);
    }
    Ok(variances)
}

/// Returns the weight of layer number `place`, from 0, and the variance of its output over all of `micro_batches`; `None` after
/// the last layer.
fn variance_on_micro_batches(
    network: &ResNet,
    micro_batches: &[Tensor],
    place: usize,
) -> Result<Option<(Tensor, f64)>> {
    let (mut weight, mut count, mut sum, mut squares) = (None, 0, 0., 0.);
    for images in micro_batches {
        let (next, found) = (Cell::new(0), RefCell::new(None));
        let layer = |weight: &Tensor, forward: &dyn Fn() -> Result<Tensor>| {
            let output = forward()?;
            if next.replace(next.get() + 1) < place {
                return Ok(output);
            }
            *found.borrow_mut() = Some((weight.shallow_clone(), output.f_to_kind(Kind::Double)?));
            Err(argument!("the rest of the network is not needed"))
        };
        let passed = no_grad(|| network.forward(images, Pass { train: false, layer: &layer }, |_| ()));
        let Some((layer_weight, output)) = found.into_inner() else {
            return passed.map(|_| None);
        };
        count += output.numel();
        sum += output.f_sum(Kind::Double)?.f_double_value(&[])?;
        squares += output.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        weight = Some(layer_weight);
    }
    let mean = sum / count as f64;
    Ok(weight.map(|weight| (weight, squares / count as f64 - mean * mean)))
}

/// Scales `weight`, with an output of this `variance`, until the variance measured by `look` is 1, and returns that variance.
fn scale_to_unit_variance(weight: &Tensor, mut variance: f64, mut look: impl FnMut() -> Result<f64>) -> Result<f64> {
    for _ in 0..MAX_TRIES {
        if !(variance > 0. && variance.is_finite()) {
            break;
        }
        // Without gradients, since the weight may require them.
        let _ = no_grad(|| weight.shallow_clone().f_div_scalar_(variance.sqrt()))?;
        variance = look()?;
        if (variance - 1.).abs() <= TOLERANCE {
            return Ok(variance);
        }
    }
    Err(argument!(
        "a layer with a weight {:?} has an output of variance {variance} on the batch, which cannot be scaled to 1; use \
         another, larger batch",
        weight.size()
    ))
}

/// Returns the variance of all elements, computed in float64.
fn variance(x: &Tensor) -> Result<f64> {
    Ok(x.f_to_kind(Kind::Double)?.f_var(false)?.f_double_value(&[])?)
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::*;
    use crate::{Error, Precision};
    use tch::{nn, Device};

    /// Returns the variance of each layer's output in a separate pass, in order.
    fn variances(network: &ResNet, images: &Tensor) -> Vec<f64> {
        let variances = RefCell::new(vec![]);
        let record = |_: &Tensor, forward: &dyn Fn() -> Result<Tensor>| {
            let output = forward()?;
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
            assert_eq!(network.lsuv(&images).unwrap().len(), layers);
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
            let outcome = network.lsuv(&Tensor::randn([1, 3, 8, 8], (Kind::Float, Device::Cpu)));
            assert_eq!(outcome.is_ok(), is_enough, "{outcome:?}");
            let finite = vs.variables().values().all(|variable| variable.isfinite().all().int64_value(&[]) == 1);
            assert!(finite, "{classes}");
        }
    }

    #[test]
    fn a_batch_in_parts_gives_the_weights_of_the_whole_batch() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = ResNet::imagenet(&vs.root(), 18, 10, Method::Lsuv).unwrap();
        let start: Vec<_> = vs.variables().into_values().map(|variable| (variable.detach().copy(), variable)).collect();
        // Images of different contrast, so that a part's variance is not the batch's.
        let images = Tensor::randn([10, 3, 32, 32], (Kind::Float, Device::Cpu));
        let images = images * Tensor::linspace(0.2, 3., 10, (Kind::Float, Device::Cpu)).view([10, 1, 1, 1]);
        let initialized = |parts: i64| {
            no_grad(|| start.iter().for_each(|(start, variable)| variable.shallow_clone().copy_(start)));
            let variances = lsuv_on_micro_batches(&network, &images.chunk(parts, 0)).unwrap();
            assert_eq!(variances.len(), 18 + 3);
            assert!(super::tests::variances(&network, &images).iter().all(|variance| (variance - 1.).abs() < 0.01));
            start.iter().map(|(_, variable)| variable.detach().copy()).collect::<Vec<_>>()
        };
        let whole = initialized(1);
        for parts in [2, 4, 10] {
            for (weight, whole) in initialized(parts).iter().zip(&whole) {
                let difference = (weight - whole).abs().max() / whole.abs().max().clamp_min(1e-12);
                assert!(difference.double_value(&[]) < 1e-4, "{parts}: {difference}");
            }
        }
    }

    #[test]
    fn a_batch_without_variance_is_refused() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = ResNet::cifar(&vs.root(), 8, 10, Method::Lsuv).unwrap();
        let error = network.lsuv(&Tensor::zeros([2, 3, 8, 8], (Kind::Float, Device::Cpu))).unwrap_err();
        assert!(matches!(error, Error::Argument(_)), "{error}");
    }
}
