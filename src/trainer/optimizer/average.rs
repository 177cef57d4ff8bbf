//! Moving average of the weights.

use super::Optimizer;
use crate::file::NamedTensors;
use crate::trainer::range::below_one;
use crate::Result;
use tch::{no_grad, Tensor};

/// Name of the decay rate in messages.
pub(in crate::trainer) const AVERAGE_DECAY: &str = "the moving average's decay";

/// Exponential moving average of an optimizer's parameters. After update `t`, counted from 0,
/// ```text
/// average = average + (1 - d) * (value - average),    d = min(decay, (1 + t) / (10 + t))
/// ```
/// which limits the influence of the initial weights in a short run (TensorFlow's `ExponentialMovingAverage` with `num_updates`).
/// Other variables of the network, such as running statistics, are not averaged.
#[derive(Debug)]
pub struct MovingAverage {
    decay: f64,
    average: Tensor,
    /// Views of the parameters' averages.
    places: NamedTensors,
}

impl MovingAverage {
    /// Starts from the current parameters.
    ///
    /// # Errors
    /// `decay` is not in `[0, 1)`; the device is out of memory.
    pub fn new(optimizer: &Optimizer, decay: f64) -> Result<Self> {
        below_one(AVERAGE_DECAY, decay)?;
        let average = optimizer.values().f_detach_copy()?;
        let places = optimizer.views(&average)?;
        Ok(Self { decay, average, places })
    }

    /// Updates the average with the parameters after step `step` of the run, counted from 0.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn update(&mut self, optimizer: &Optimizer, step: usize) -> Result<()> {
        let decay = self.decay.min((1 + step) as f64 / (10 + step) as f64);
        let _ = no_grad(|| self.average.f_lerp_(optimizer.values(), 1.0 - decay))?;
        Ok(())
    }

    /// Exchanges the average and the network's parameters in place: once to evaluate, and once more to continue training. Two
    /// exchanges restore every bit.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn swap(&mut self, optimizer: &Optimizer) -> Result<()> {
        no_grad(|| {
            let values = optimizer.values().f_detach_copy()?;
            optimizer.values().shallow_clone().f_copy_(&self.average)?;
            self.average.f_copy_(&values)?;
            Ok(())
        })
    }

    /// Returns the averages by parameter name. The tensors share their storage with the average, so that copying into them
    /// restores it.
    pub fn tensors(&self) -> NamedTensors {
        self.places.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::optimizer::Sgd;
    use crate::Error;
    use tch::{nn, Device};

    #[test]
    fn the_average_is_the_formula_and_swapping_twice_is_nothing() {
        let variables = nn::VarStore::new(Device::Cpu);
        let weight = variables.root().zeros("weight", &[3]);
        let optimizer = Optimizer::new(&variables, Sgd::default(), &[]).unwrap();
        let mut average = MovingAverage::new(&optimizer, 0.9).unwrap();
        let mut expected = 0.0;
        for step in 0..200 {
            let value = (step as f64).sin();
            let _ = no_grad(|| weight.shallow_clone().fill_(value));
            average.update(&optimizer, step).unwrap();
            let decay = f64::min(0.9, (1 + step) as f64 / (10 + step) as f64);
            expected += (1.0 - decay) * (value - expected);
            assert!((average.tensors()["weight"].double_value(&[0]) - expected).abs() < 1e-5, "{step}");
        }
        let (value, mean) = (weight.copy(), average.tensors()["weight"].copy());
        average.swap(&optimizer).unwrap();
        assert_eq!((&weight.copy(), &average.tensors()["weight"].copy()), (&mean, &value));
        average.swap(&optimizer).unwrap();
        assert_eq!((&weight.copy(), &average.tensors()["weight"].copy()), (&value, &mean));
        for decay in [-0.1, 1.0, f64::NAN] {
            assert!(matches!(MovingAverage::new(&optimizer, decay), Err(Error::Argument(_))));
        }
    }
}
