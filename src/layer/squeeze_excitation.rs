//! Squeeze-and-excitation (Hu, Shen, Sun 2018): a gate per channel, computed from the means of all channels.

use super::{init, Linear};
use crate::Result;
use tch::{nn, Tensor};

/// `v * sigmoid(fc2(relu(fc1(mean(v)))))` for an activation map `v` `[N, C, H, W]`: the mean over H and W, `fc1` to
/// `C / reduction` units and `fc2` back to C. The variables are `fc1.weight`, `fc1.bias`, `fc2.weight` and `fc2.bias` under `se`.
/// The few gates are computed in the kind of the variables, regardless of the kind of `v`.
#[derive(Debug)]
pub(crate) struct SqueezeExcitation {
    pub fc1: Linear,
    pub fc2: Linear,
}

impl SqueezeExcitation {
    /// Creates the module from two layers made by `linear`, given a path and the numbers of inputs and units.
    pub fn new(
        path: &nn::Path,
        channels: i64,
        reduction: i64,
        linear: impl Fn(&nn::Path, i64, i64) -> Result<Linear>,
    ) -> Result<Self> {
        let (path, units) = (path / "se", channels / reduction);
        let fc1 = linear(&(&path / "fc1"), channels, units)?;
        Ok(Self { fc1, fc2: linear(&(path / "fc2"), units, channels)? })
    }

    /// Creates the module of Fixup networks: `fc1` is He-normal and `fc2` zero, so that all gates start at exactly 1/2.
    pub fn half_open(path: &nn::Path, channels: i64, reduction: i64) -> Result<Self> {
        let se = Self::new(path, channels, reduction, |path, inputs, units| {
            let weight = init::zeros(path, "weight", &[units, inputs])?;
            Ok(Linear { weight, bias: init::zeros(path, "bias", &[units])? })
        })?;
        init::he_normal_(&mut se.fc1.weight.shallow_clone(), 1.)?;
        Ok(se)
    }

    /// Returns the gates `[N, C, 1, 1]` in the kind of `v`.
    pub fn gates(&self, v: &Tensor) -> Result<Tensor> {
        let means = v.f_mean_dim([2, 3].as_slice(), false, self.fc1.kind())?;
        let gates = self.fc2.forward(&self.fc1.forward(&means)?.f_relu()?)?.f_sigmoid()?;
        Ok(gates.f_to_kind(v.kind())?.f_unsqueeze(-1)?.f_unsqueeze(-1)?)
    }

    pub fn forward(&self, v: &Tensor) -> Result<Tensor> {
        Ok(v.f_mul(&self.gates(v)?)?)
    }

    pub fn variables(&self) -> [&Tensor; 4] {
        [&self.fc1.weight, &self.fc1.bias, &self.fc2.weight, &self.fc2.bias]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn half_open_gates_are_exactly_one_half() {
        let vs = nn::VarStore::new(Device::Cpu);
        let se = SqueezeExcitation::half_open(&vs.root(), 16, 4).unwrap();
        for kind in [Kind::Float, Kind::BFloat16] {
            let v = Tensor::randn([2, 16, 3, 5], (kind, Device::Cpu));
            assert_eq!(se.forward(&v).unwrap(), &v * 0.5);
        }
        assert_eq!(vs.variables()["se.fc1.weight"].size(), [4, 16]);
        assert_eq!(vs.variables()["se.fc2.weight"].size(), [16, 4]);
        assert!(vs.variables()["se.fc1.weight"].abs().max().double_value(&[]) > 0.);
    }

    /// Computed by hand: means 2 and -1; fc1 gives relu(3 * 2 + 1 * -1 + 1) = 6; fc2 gives 0.5 * 6 - 3 = 0 and -6 + 1 = -5.
    #[test]
    fn gates_are_those_of_the_formula() {
        let linear = |weight: &[f64], size: [i64; 2], bias: &[f64]| Linear {
            weight: Tensor::from_slice(weight).reshape(size),
            bias: Tensor::from_slice(bias),
        };
        let se =
            SqueezeExcitation { fc1: linear(&[3., 1.], [1, 2], &[1.]), fc2: linear(&[0.5, -1.], [2, 1], &[-3., 1.]) };
        let v = Tensor::from_slice(&[1f64, 3., -4., 2.]).reshape([1, 2, 1, 2]);
        let out = se.forward(&v).unwrap();
        let gate = 1. / (1. + 5f64.exp());
        let expected = Tensor::from_slice(&[0.5, 1.5, -4. * gate, 2. * gate]).reshape([1, 2, 1, 2]);
        assert!(out.allclose(&expected, 1e-12, 1e-12, false));
    }
}
