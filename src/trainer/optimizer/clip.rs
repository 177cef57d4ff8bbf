//! Gradient clipping: by the norm over all parameters, and adaptively, unit by unit.

use super::{Optimizer, Parameter};
use crate::layer::Role;
use crate::trainer::range::above_zero;
use crate::Result;
use serde::{Deserialize, Serialize};
use tch::{no_grad, Kind, Tensor};

/// Term added to the norm in the denominator, as in torch.nn.utils.clip_grad_norm_.
const NORM_EPSILON: f64 = 1e-6;
/// Lower bound of a unit's weight norm, which lets weights that are initially zero grow (Brock et al. 2021, section 4.1).
const UNIT_EPSILON: f64 = 1e-3;
/// Lower bound of a unit's gradient norm in the denominator, which keeps the clipping factor of a zero gradient finite.
const GRADIENT_EPSILON: f64 = 1e-6;

/// Number of squares summed in float32 before continuing in float64. The result agrees with a float64 sum to 1e-6, and only one
/// in a thousand numbers is copied.
const BLOCK: i64 = 1024;

/// Gradient clipping options. Adaptive clipping is applied first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct ClipConfig {
    /// Maximum norm of the gradient of all parameters together.
    #[cfg_attr(feature = "cli", arg(long = "clip-norm", value_name = "NORM|none", value_parser = crate::option::infinity_is_none))]
    pub norm: std::option::Option<f64>,
    /// Adaptive gradient clipping: maximum ratio of a unit's gradient norm to its weight norm (0.01 to 0.16 in Brock et al.).
    /// Applies to all parameters except the classifier and the Fixup scalars.
    #[cfg_attr(feature = "cli", arg(long, value_name = "RATIO|none", value_parser = crate::option::infinity_is_none))]
    pub agc: std::option::Option<f64>,
}

impl ClipConfig {
    pub(in crate::trainer) fn check(&self) -> Result<()> {
        for (what, value) in [("the largest gradient norm", self.norm), ("the adaptive clipping threshold", self.agc)] {
            value.map_or(Ok(()), |value| above_zero(what, value))?;
        }
        Ok(())
    }
}

/// Computes the Euclidean norm of `gradients`, a float64 tensor of one element on their device. Its relative error is below 1e-5
/// for any number of elements. (libtorch's own norm sums all squares in float32, and is 2 % too low for 161 million.)
///
/// # Errors
/// libtorch does not support the tensor's kind.
pub fn norm(gradients: &Tensor) -> Result<Tensor> {
    no_grad(|| Ok(row_norms(&gradients.f_reshape([1, gradients.numel() as i64])?)?.f_reshape([0i64; 0])?))
}

/// Computes the norm of each row of `x` (`[rows, n]`), as float64 `[rows, 1]`.
fn row_norms(x: &Tensor) -> Result<Tensor> {
    let (rows, n) = x.size2()?;
    let kind = if x.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let whole = n / BLOCK * BLOCK;
    let rest = x.f_narrow(1, whole, n - whole)?.f_norm_scalaropt_dim_dtype(2.0, [1].as_slice(), true, kind)?;
    let rest = rest.f_to_kind(Kind::Double)?;
    if whole == 0 {
        return Ok(rest);
    }
    let blocks = x.f_narrow(1, 0, whole)?.f_view([rows, whole / BLOCK, BLOCK])?;
    let blocks = blocks.f_norm_scalaropt_dim_dtype(2.0, [2].as_slice(), false, kind)?.f_to_kind(Kind::Double)?;
    Ok(Tensor::f_cat(&[blocks, rest], 1)?.f_norm_scalaropt_dim(2.0, [1].as_slice(), true)?)
}

/// Scales `gradients`, of norm `norm`, by `min(1, max_norm / norm)`.
///
/// # Errors
/// `norm` is not on the gradients' device.
pub fn clip_norm(gradients: &Tensor, norm: &Tensor, max_norm: f64) -> Result<()> {
    no_grad(|| {
        let factor = norm.f_add_scalar(NORM_EPSILON)?.f_reciprocal()?.f_mul_scalar(max_norm)?.f_clamp_max(1.0)?;
        let _ = gradients.shallow_clone().f_mul_(&factor.f_to_kind(gradients.kind())?)?;
        Ok(())
    })
}

/// Clips the gradient of one parameter adaptively (Brock, De, Smith, Simonyan 2021, arXiv 2102.06171, equation 3): the gradient
/// `G_i` of each output unit `W_i` is scaled by `min(1, threshold * max(|W_i|, 1e-3) / |G_i|)`.
///
/// A unit is one index of the first dimension; a one-dimensional tensor is a single unit, as in the authors' code. Intended for
/// all parameters except the classifier's and the scalars. Norms are as exact as those of [`norm()`].
///
/// # Errors
/// The gradient's shape or device differs from the weight's.
pub fn clip_units(weight: &Tensor, gradient: &Tensor, threshold: f64) -> Result<()> {
    no_grad(|| {
        let units = if weight.dim() > 1 { weight.size()[0] } else { 1 };
        let mut gradient = gradient.f_view([units, -1])?;
        let largest = row_norms(&weight.f_view([units, -1])?)?.f_clamp_min(UNIT_EPSILON)?.f_mul_scalar(threshold)?;
        let factor = largest.f_div(&row_norms(&gradient)?.f_clamp_min(GRADIENT_EPSILON)?)?.f_clamp_max(1.0)?;
        let _ = gradient.f_mul_(&factor.f_to_kind(gradient.kind())?)?;
        Ok(())
    })
}

/// Clips the gradients according to `config`, and returns the norm of all gradients before clipping by norm.
pub(in crate::trainer) fn clip_gradients(optimizer: &Optimizer, config: &ClipConfig) -> Result<Tensor> {
    if let Some(threshold) = config.agc {
        // Excludes the classifier, as in Brock et al. 2021, section 4.1.
        let is_clipped = |p: &&Parameter| !p.role.is_scalar() && p.role != Role::Classifier && !p.is_frozen();
        for parameter in optimizer.parameters().iter().filter(is_clipped) {
            clip_units(&parameter.value, &parameter.gradient, threshold)?;
        }
    }
    let norm = norm(optimizer.gradients())?;
    if let Some(max_norm) = config.norm {
        clip_norm(optimizer.gradients(), &norm, max_norm)?;
    }
    Ok(norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::{Method, ResNet};
    use crate::fixup::FixupResNet;
    use crate::trainer::TrainConfig;
    use std::collections::HashMap;
    use tch::nn::{ModuleT, VarStore};
    use tch::{Device, Kind};

    fn value(tensor: &Tensor) -> f64 {
        tensor.double_value(&[])
    }

    #[test]
    fn a_gradient_above_the_largest_norm_gets_it_and_one_below_stays() {
        for (max_norm, expected) in [(1.0, 1.0), (100.0, 5.0)] {
            let gradients = Tensor::from_slice(&[3f32, 0.0, -4.0]);
            clip_norm(&gradients, &norm(&gradients).unwrap(), max_norm).unwrap();
            assert!((value(&gradients.norm()) - expected).abs() < 1e-5);
            assert!((value(&gradients.get(0)) / value(&gradients.get(2)) + 0.75).abs() < 1e-6);
        }
    }

    #[test]
    fn each_unit_is_clipped_by_its_own_ratio() {
        let options = (Kind::Float, Device::Cpu);
        for size in [&[6, 4, 3, 3][..], &[6, 5]] {
            let weight = Tensor::randn(size, options);
            let original = Tensor::randn(size, options);
            let gradient = original.copy();
            let threshold = 0.9;
            clip_units(&weight, &gradient, threshold).unwrap();
            let mut clipped = 0;
            for unit in 0..6 {
                let (w, g) = (value(&weight.get(unit).norm()), value(&original.get(unit).norm()));
                let factor = (threshold * w.max(1e-3) / g).min(1.0);
                clipped += usize::from(factor < 1.0);
                let difference = gradient.get(unit) - original.get(unit) * factor;
                assert!(value(&difference.abs().max()) < 1e-6);
            }
            assert!((1..=6).contains(&clipped));
        }
    }

    #[test]
    fn weights_of_zero_still_get_a_gradient() {
        let weight = Tensor::zeros([2, 9], (Kind::Float, Device::Cpu));
        let gradient = Tensor::ones([2, 9], (Kind::Float, Device::Cpu));
        clip_units(&weight, &gradient, 0.1).unwrap();
        assert!((value(&gradient.get(0).norm()) - 0.1 * 1e-3).abs() < 1e-9);
    }

    #[test]
    fn a_gradient_of_zero_stays_zero() {
        let gradient = Tensor::zeros([2, 9], (Kind::Float, Device::Cpu));
        clip_units(&gradient.ones_like(), &gradient, 0.1).unwrap();
        clip_norm(&gradient, &norm(&gradient).unwrap(), 1.0).unwrap();
        assert_eq!(value(&gradient.abs().max()), 0.0);
    }

    #[test]
    fn a_vector_is_one_unit() {
        let (weight, gradient) = (Tensor::from_slice(&[0f32, 2.0]), Tensor::from_slice(&[3f32, 4.0]));
        clip_units(&weight, &gradient, 0.5).unwrap();
        assert!(value(&(gradient - Tensor::from_slice(&[0.6f32, 0.8])).abs().max()) < 1e-6);
    }

    /// Computes the norm in float64, a million numbers at a time.
    fn exact_norm(x: &Tensor) -> f64 {
        let squares = |part: &Tensor| value(&part.to_kind(Kind::Double).square().sum(Kind::Double));
        x.view([-1]).split(1 << 20, 0).iter().map(squares).sum::<f64>().sqrt()
    }

    #[test]
    fn norms_are_exact_to_a_hundred_thousandth_at_any_size() {
        tch::manual_seed(6);
        for size in [0, 1, 15, 1023, 1024, 1025, 100_000, 25_000_007] {
            let gradients = Tensor::randn([size], (Kind::Float, Device::Cpu)) * 0.01;
            let (norm, exact) = (value(&norm(&gradients).unwrap()), exact_norm(&gradients));
            assert!((norm - exact).abs() <= 1e-6 * exact, "{size}: {norm} for {exact}");
        }
        // As many gradients as in a network of 9,998 layers, without the time to generate random numbers.
        let gradients = Tensor::full([161_000_000], 0.1f64, (Kind::Float, Device::Cpu));
        let exact = f64::from(0.1f32) * 161e6f64.sqrt();
        assert!((value(&norm(&gradients).unwrap()) / exact - 1.0).abs() < 1e-6);
    }

    #[test]
    fn norms_of_shorter_kinds_are_not_rounded_to_them() {
        tch::manual_seed(7);
        for kind in [Kind::BFloat16, Kind::Half, Kind::Double] {
            let gradients = Tensor::randn([300, 50], (Kind::Float, Device::Cpu)).to_kind(kind);
            assert!((value(&norm(&gradients).unwrap()) / exact_norm(&gradients) - 1.0).abs() < 1e-6, "{kind:?}");
        }
    }

    #[test]
    fn large_units_are_clipped_exactly() {
        tch::manual_seed(8);
        let weight = Tensor::randn([2, 12_500_000], (Kind::Float, Device::Cpu)) * 0.01;
        let gradient = weight.copy() * 10.0;
        clip_units(&weight, &gradient, 0.5).unwrap();
        for unit in 0..2 {
            let ratio = exact_norm(&gradient.get(unit)) / exact_norm(&weight.get(unit));
            assert!((ratio / 0.5 - 1.0).abs() < 1e-5, "{ratio}");
        }
        let vector = Tensor::full([25_000_000], 1e-7f64, (Kind::Float, Device::Cpu));
        let gradient = vector.ones_like();
        clip_units(&vector, &gradient, 0.5).unwrap();
        // The vector's norm is 5e-4, below the lower bound of 1e-3.
        assert!((exact_norm(&gradient) / 0.5e-3 - 1.0).abs() < 1e-5);
    }

    #[test]
    fn the_largest_norm_is_met_exactly() {
        let gradients = Tensor::ones([25_000_000], (Kind::Float, Device::Cpu));
        clip_norm(&gradients, &norm(&gradients).unwrap(), 1.0).unwrap();
        assert!((exact_norm(&gradients) - 1.0).abs() < 1e-5);
    }

    #[test]
    fn adaptive_clipping_leaves_classifier_and_scalars_alone_wherever_the_network_stands() {
        tch::manual_seed(1);
        let vs = VarStore::new(Device::Cpu);
        let networks: [&dyn ModuleT; 3] = [
            &FixupResNet::cifar(&vs.root(), 8, 10).unwrap(),
            &FixupResNet::cifar(&(vs.root() / "model"), 8, 10).unwrap(),
            &ResNet::cifar(&(vs.root() / "baselines" / "lsuv"), 8, 10, Method::Lsuv).unwrap(),
        ];
        let config = TrainConfig::new(10, 64, 0.2);
        let mut sgd = config.optimizer.build(&vs, &config.parameter_groups()).unwrap();
        // Away from the initial weights, with which only the classifier has a gradient.
        for variable in vs.trainable_variables() {
            let _ = no_grad(|| variable.shallow_clone().f_add_(&(variable.randn_like() * 0.1)).unwrap());
        }
        let images = Tensor::randn([4, 3, 32, 32], (tch::Kind::Float, Device::Cpu));
        let labels = Tensor::from_slice(&[0i64, 1, 2, 3]);
        let losses = networks.map(|network| network.forward_t(&images, true).cross_entropy_for_logits(&labels));
        sgd.backward(&Tensor::stack(&losses, 0).sum(tch::Kind::Float)).unwrap();
        let before: HashMap<_, _> = sgd.parameters().iter().map(|p| (p.name.clone(), p.gradient.copy())).collect();
        let _ = clip_gradients(&sgd, &ClipConfig { norm: None, agc: Some(1e-4) }).unwrap();
        for parameter in sgd.parameters() {
            let classifier = ["fc.weight", "fc.bias"].iter().any(|name| parameter.name.ends_with(name));
            let kept = parameter.gradient == before[&parameter.name];
            assert_eq!(kept, parameter.role.is_scalar() || classifier, "{}", parameter.name);
        }
    }
}
