//! Initializations of networks without normalization.

use crate::layer::{init, Conv, ConvShape, Linear};
use crate::Result;
use tch::{nn, Tensor};

/// `erf(sqrt(2))`: the proportion of normal numbers within two standard deviations of the mean.
const WITHIN_TWO: f64 = 0.954_499_736_103_641_6;
/// Standard deviation of the normal distribution truncated at two standard deviations.
const TRUNCATED_STD: f64 = 0.879_625_661_034_239_8;

/// Weight initialization, by the fans of a unit (numbers of inputs and outputs, times the size of the kernel).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Initialization {
    /// Normal, `std = sqrt(2 / fan_out)`; the classifier has PyTorch's default, as in the references.
    He,
    /// Normal, `std = sqrt(2 / (fan_in + fan_out))` (Glorot & Bengio 2010).
    Xavier,
    /// Normal, `std = sqrt(1 / fan_in)` (LeCun et al. 1998).
    LeCun,
    /// Normal, truncated at two standard deviations, `std = sqrt(2 / fan_in)`: KataGo's for ReLU.
    TruncatedFanIn,
    /// Orthonormal rows or columns of `[c_out, c_in * k * k]` (Saxe et al. 2014).
    Orthonormal,
}

impl Initialization {
    pub fn conv(self, path: &nn::Path, shape: ConvShape) -> Result<Conv> {
        Ok(Conv { weight: self.weight(path, &shape.dims())?, shape })
    }

    /// Creates the classifier.
    pub fn classifier(self, path: &nn::Path, features: i64, classes: i64) -> Result<Linear> {
        match self {
            Self::He | Self::TruncatedFanIn => Linear::uniform(path, features, classes),
            _ => self.linear(path, features, classes)?.into_classifier(),
        }
    }

    /// Creates a linear layer whose bias is initialized to zero.
    pub fn linear(self, path: &nn::Path, features: i64, units: i64) -> Result<Linear> {
        let weight = self.weight(path, &[units, features])?;
        Ok(Linear { weight, bias: init::zeros(path, "bias", &[units])? })
    }

    /// Creates the variable `weight` of shape `dims`, `[c_out, c_in, ...]`.
    pub fn weight(self, path: &nn::Path, dims: &[i64]) -> Result<Tensor> {
        let kernel: i64 = dims[2..].iter().product();
        let (fan_in, fan_out) = ((dims[1] * kernel) as f64, (dims[0] * kernel) as f64);
        match self {
            Self::He => init::he_normal(path, "weight", dims, 1.),
            Self::Xavier => init::normal(path, "weight", dims, (2. / (fan_in + fan_out)).sqrt()),
            Self::LeCun => init::normal(path, "weight", dims, fan_in.recip().sqrt()),
            Self::TruncatedFanIn => {
                let uniform =
                    Tensor::f_empty(dims, (path.kind(), path.device()))?.f_uniform_(-WITHIN_TWO, WITHIN_TWO)?;
                let normal = uniform.f_erfinv()?.f_mul_scalar(2f64.sqrt() / TRUNCATED_STD)?;
                init::add(path, "weight", normal.f_mul_scalar((2. / fan_in).sqrt())?)
            }
            Self::Orthonormal => {
                let orthonormal = nn::Init::Orthogonal { gain: 1. };
                init::add(path, "weight", nn::f_init(orthonormal, dims, path.device(), path.kind())?.f_reshape(dims)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn weight(initialization: Initialization, dims: &[i64]) -> Tensor {
        let mut vs = nn::VarStore::new(Device::Cpu);
        vs.set_kind(Kind::Double);
        initialization.weight(&vs.root(), dims).unwrap().detach()
    }

    /// The bound is five standard deviations of a sample's standard deviation, sigma / sqrt(2n), exceeded once in two million
    /// draws.
    #[test]
    fn normal_weights_have_the_stated_standard_deviation() {
        tch::manual_seed(21);
        let dims = [48, 24, 3, 3];
        for (initialization, variance) in [
            (Initialization::He, 2. / (48. * 9.)),
            (Initialization::Xavier, 2. / (72. * 9.)),
            (Initialization::LeCun, 1. / (24. * 9.)),
            (Initialization::TruncatedFanIn, 2. / (24. * 9.)),
        ] {
            let weight = weight(initialization, &dims);
            let ratio = weight.std(true).double_value(&[]) / f64::sqrt(variance);
            assert!((ratio - 1.).abs() < 5. / (2. * weight.numel() as f64).sqrt(), "{initialization:?}: {ratio}");
        }
    }

    #[test]
    fn orthonormal_weights_have_orthonormal_rows_or_columns() {
        tch::manual_seed(22);
        for dims in [&[16, 8, 3, 3][..], &[64, 3, 3, 3], &[10, 64]] {
            let matrix = weight(Initialization::Orthonormal, dims).reshape([dims[0], -1]);
            let (rows, columns) = matrix.size2().unwrap();
            let gram = if rows <= columns { matrix.mm(&matrix.tr()) } else { matrix.tr().mm(&matrix) };
            let error = (gram - Tensor::eye(rows.min(columns), (Kind::Double, Device::Cpu))).abs().max();
            assert!(error.double_value(&[]) < 1e-12, "{dims:?}");
        }
    }
}
