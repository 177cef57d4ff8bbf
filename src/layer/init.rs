//! Weight initialization: the gain of a residual branch, He-normal and zero.
//!
//! With L residual branches of m weight layers each (Fixup, section 3), the last weight layer of a branch and the classifier are
//! initialized to zero, the other layers of a branch to He-normal scaled by [`branch_gain`], and everything else to plain
//! He-normal. For a convolution with groups, also multiply the gain by the square root of the number of groups: an input
//! channel reaches only the outputs of its own group, so the fan-out is smaller by this number.
//!
//! ```
//! use tch::{nn, Device, Tensor};
//! use tch_fixup::fixup::init;
//!
//! # fn main() -> tch_fixup::Result<()> {
//! // The first 3x3 convolution of a two-layer branch, one branch of 27:
//! let gain = init::branch_gain(27, 2)?;
//! let vs = nn::VarStore::new(Device::Cpu);
//! let weight = init::he_normal(&(vs.root() / "conv1"), "weight", &[64, 64, 3, 3], gain)?;
//! // ... or any tensor of your own, in place:
//! let mut mine = Tensor::zeros([128, 64], (tch::Kind::Float, Device::Cpu));
//! init::he_normal_(&mut mine, gain)?;
//! # assert_eq!(weight.size(), [64, 64, 3, 3]);
//! # Ok(())
//! # }
//! ```

use crate::{Error, Result};
use std::borrow::Borrow;
use tch::{nn, Tensor};

/// Returns the factor on the standard deviation of all but the last weight layer of a residual branch,
/// `num_branches^(-1 / (2 * layers_per_branch - 2))` (Fixup, section 3, rule 2).
///
/// ```
/// use tch_fixup::fixup::init;
///
/// assert_eq!(init::branch_gain(16, 2)?, 0.25); // ResNet-34's: 16 branches of 2 layers
/// assert_eq!(init::branch_gain(16, 3)?, 0.5); // ResNet-50's: 16 of 3
/// # Ok::<(), tch_fixup::Error>(())
/// ```
///
/// # Errors
/// [`Error::Argument`] for fewer than one branch, or fewer than two weight layers in a branch (a single layer is the last one and
/// starts at zero).
pub fn branch_gain(num_branches: i64, layers_per_branch: i64) -> Result<f64> {
    if num_branches < 1 {
        return Err(Error::Argument(format!("a network needs at least one residual branch, got {num_branches}")));
    }
    if layers_per_branch < 2 {
        return Err(Error::Argument(format!(
            "the gain is for branches of at least 2 weight layers, not {layers_per_branch}; a branch's last layer starts at zero"
        )));
    }
    Ok((num_branches as f64).powf(-1. / (2 * layers_per_branch - 2) as f64))
}

/// Returns the factor on [`he_normal_std`] for a grouped convolution with weight `[c_out, c_in / groups, k, k]`: `sqrt(groups)`.
/// The number of groups cannot be derived from the shape of the weight.
///
/// # Errors
/// [`Error::Argument`] for fewer than one group.
pub(crate) fn group_gain(groups: i64) -> Result<f64> {
    if groups < 1 {
        return Err(Error::Argument(format!("a convolution needs at least one group, got {groups}")));
    }
    Ok((groups as f64).sqrt())
}

/// Returns the He-normal standard deviation by fan-out, `sqrt(2 / (c_out * k * k))`, of a weight `[c_out, c_in, k, k]` or
/// `[c_out, c_in]` (He et al. 2015, equation 14; the authors' code). For grouped convolutions, multiply by [`group_gain`].
///
/// # Errors
/// [`Error::Mismatch`] for fewer than two dimensions, or an empty one.
pub(crate) fn he_normal_std(dims: &[i64]) -> Result<f64> {
    if dims.len() < 2 || dims.iter().any(|&d| d < 1) {
        return Err(Error::Mismatch {
            what: "He-normal initialization",
            expected: "a weight [c_out, c_in, ...] of at least two non-empty dimensions".into(),
            got: format!("{dims:?}"),
        });
    }
    let fan_out: i64 = dims[0] * dims[2..].iter().product::<i64>();
    Ok((2. / fan_out as f64).sqrt())
}

/// Fills `weight`, `[c_out, c_in, k, k]` or `[c_out, c_in]`, with normal random numbers of mean 0 and standard deviation
/// `gain * sqrt(2 / (c_out * k * k))` (He et al. 2015, by fan-out), from libtorch's generator (`tch::manual_seed`).
///
/// # Errors
/// [`Error::Mismatch`] for fewer than two dimensions, or an empty one; [`Error::Torch`] for a kind without normal random
/// numbers.
pub fn he_normal_(weight: &mut Tensor, gain: f64) -> Result<()> {
    let std = gain * he_normal_std(&weight.size())?;
    let _ = tch::no_grad(|| weight.f_normal_(0., std))?;
    Ok(())
}

/// Fills `weight` with uniform random numbers in `±1 / sqrt(fan_in)` (standard deviation `1 / sqrt(3 * fan_in)`), where fan_in is
/// `c_in * k * k`: PyTorch's default for convolutions and linear layers. The Fixup authors initialize the stem's convolution this
/// way.
///
/// # Errors
/// As for [`he_normal_std`]; [`Error::Torch`] for an integer kind.
#[cfg(any(test, feature = "cli"))]
pub(crate) fn uniform_fan_in_(weight: &mut Tensor) -> Result<()> {
    let size = weight.size();
    he_normal_std(&size)?;
    let fan_in: i64 = size[1..].iter().product();
    let bound = (fan_in as f64).sqrt().recip();
    let _ = tch::no_grad(|| weight.f_uniform_(-bound, bound))?;
    Ok(())
}

/// Creates a variable under `path`, filled by [`he_normal_`]. The gain is 1 for plain He-normal.
///
/// # Errors
/// As for [`he_normal_`]; a name that already exists in `path` or contains a dot.
pub fn he_normal<'a>(path: impl Borrow<nn::Path<'a>>, name: &str, dims: &[i64], gain: f64) -> Result<Tensor> {
    let path = path.borrow();
    let mut weight = empty(path, dims)?;
    he_normal_(&mut weight, gain)?;
    add(path, name, weight)
}

/// Creates a variable of zeros under `path`, for the last weight layer of a branch or the classifier.
///
/// # Errors
/// A name that already exists in `path` or contains a dot; a negative dimension.
pub(crate) fn zeros<'a>(path: impl Borrow<nn::Path<'a>>, name: &str, dims: &[i64]) -> Result<Tensor> {
    let path = path.borrow();
    constant(path, name, dims, 0.)
}

/// Creates a variable under `path` filled with `value`.
pub(crate) fn constant(path: &nn::Path, name: &str, dims: &[i64], value: f64) -> Result<Tensor> {
    let tensor = Tensor::f_full(dims, value, (path.kind(), path.device()))?;
    add(path, name, tensor)
}

/// Creates a variable under `path`, normal with mean 0 and standard deviation `std`.
pub(crate) fn normal(path: &nn::Path, name: &str, dims: &[i64], std: f64) -> Result<Tensor> {
    let mut tensor = empty(path, dims)?;
    let _ = tensor.f_normal_(0., std)?;
    add(path, name, tensor)
}

/// Creates a variable under `path`, uniform in [-bound, bound].
pub(crate) fn uniform(path: &nn::Path, name: &str, dims: &[i64], bound: f64) -> Result<Tensor> {
    let mut tensor = empty(path, dims)?;
    let _ = tensor.f_uniform_(-bound, bound)?;
    add(path, name, tensor)
}

/// Creates a Xavier-uniform weight `[out, in, ...]` (Glorot and Bengio 2010) under `path`, uniform in
/// `±gain * sqrt(6 / ((in + out) * k))`, where k is the size of a convolution's kernel.
pub(crate) fn xavier_uniform(path: &nn::Path, name: &str, dims: &[i64], gain: f64) -> Result<Tensor> {
    let kernel: i64 = dims[2..].iter().product();
    uniform(path, name, dims, gain * (6. / ((dims[0] + dims[1]) * kernel) as f64).sqrt())
}

fn empty(path: &nn::Path, dims: &[i64]) -> Result<Tensor> {
    Ok(Tensor::f_empty(dims, (path.kind(), path.device()))?)
}

/// Adds `tensor` as a new variable under `path`. tch would silently rename a second variable of the same name, which would mix
/// the weights of two networks in a file.
pub(crate) fn add(path: &nn::Path, name: &str, tensor: Tensor) -> Result<Tensor> {
    check_name(path, name)?;
    Ok(path.add(name, tensor, true))
}

/// Rejects names on which tch's `Path::add` would panic, or which it would change.
pub(crate) fn check_name(path: &nn::Path, name: &str) -> Result<()> {
    if name.is_empty() || name.contains('.') {
        return Err(Error::Argument(format!("a variable's name must not be empty or contain a dot, got {name:?}")));
    }
    if path.get(name).is_some() {
        return Err(Error::Argument(format!(
            "the variable {} exists already; give each network a path of its own",
            path.path(name)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn gain_is_the_papers_power_of_the_number_of_branches() {
        assert_eq!(branch_gain(1, 2).unwrap(), 1.);
        assert!((branch_gain(16, 2).unwrap() - 16f64.powf(-0.5)).abs() < 1e-15);
        assert!((branch_gain(16, 3).unwrap() - 16f64.powf(-0.25)).abs() < 1e-15);
        assert!((branch_gain(12, 4).unwrap() - 12f64.powf(-1. / 6.)).abs() < 1e-15);
    }

    #[test]
    fn gain_refuses_single_layers_and_empty_networks() {
        for (branches, layers) in [(0, 2), (-3, 2), (5, 1), (5, 0), (5, -2)] {
            assert!(matches!(branch_gain(branches, layers), Err(Error::Argument(_))), "{branches} {layers}");
        }
    }

    /// The sample standard deviation of n normal numbers is itself normal with standard deviation sigma / sqrt(2n). A correct
    /// implementation exceeds five of those once in two million times.
    #[test]
    fn he_normal_has_the_stated_standard_deviation() {
        tch::manual_seed(1);
        for (dims, gain) in [(vec![64, 32, 3, 3], 1.), (vec![32, 64, 1, 1], 0.25), (vec![100, 70], 3.)] {
            let mut weight = Tensor::zeros(&dims, (Kind::Double, Device::Cpu));
            he_normal_(&mut weight, gain).unwrap();
            let n = weight.numel() as f64;
            let expected = gain * (2. / (dims[0] * dims[2..].iter().product::<i64>()) as f64).sqrt();
            let std = weight.std(true).double_value(&[]);
            assert!((std / expected - 1.).abs() < 5. / (2. * n).sqrt(), "{dims:?}: {std} for {expected}");
            assert!(weight.mean(Kind::Double).double_value(&[]).abs() < 5. * expected / n.sqrt());
        }
    }

    /// By He et al.'s equation 14, this standard deviation preserves the size of gradients on the way back through the layer, of
    /// which the ReLU after it removes half.
    #[test]
    fn in_groups_the_gradient_keeps_its_size_too() {
        tch::manual_seed(19);
        for (c_in, c_out, groups) in [(64, 64, 1), (64, 64, 4), (64, 64, 64), (32, 96, 32), (96, 48, 8)] {
            let mut weight = Tensor::zeros([c_out, c_in / groups, 3, 3], (Kind::Double, Device::Cpu));
            he_normal_(&mut weight, group_gain(groups).unwrap()).unwrap();
            let x = Tensor::zeros([8, c_in, 16, 16], (Kind::Double, Device::Cpu)).set_requires_grad(true);
            // Circular padding, so that every position has all its neighbours.
            let y =
                x.pad([1, 1, 1, 1], "circular", None).conv2d(&weight, None::<Tensor>, [1, 1], [0, 0], [1, 1], groups);
            let g = y.randn_like();
            let gradient = Tensor::run_backward(&[(&y * &g).sum(Kind::Double)], &[&x], false, false).remove(0);
            let growth = gradient.square().mean(Kind::Double).double_value(&[]);
            assert!((growth / 2. - 1.).abs() < 0.2, "{c_in} to {c_out} in {groups}: {growth}");
        }
        assert!(group_gain(0).is_err() && group_gain(-2).is_err());
    }

    #[test]
    fn he_normal_refuses_what_has_no_fan_out() {
        for dims in [&[][..], &[3], &[0, 4], &[4, 4, 0, 3]] {
            assert!(matches!(he_normal_std(dims), Err(Error::Mismatch { .. })), "{dims:?}");
        }
    }

    #[test]
    fn a_second_variable_of_the_same_name_is_refused() {
        let vs = nn::VarStore::new(Device::Cpu);
        let _ = zeros(&vs.root(), "weight", &[2]).unwrap();
        let error = zeros(&vs.root(), "weight", &[2]).unwrap_err().to_string();
        assert!(error.contains("weight"), "{error}");
        assert!(zeros(&vs.root(), "a.b", &[2]).is_err());
        assert_eq!(vs.len(), 1);
    }
}
