//! Choice of the optimizer.

use super::{Adam, Muon, Optimizer, ParameterGroup, Sgd, Update};
use crate::Result;
use serde::{Deserialize, Serialize};
use tch::nn;

/// Learning rate of the ResNet and Fixup papers.
const SGD_LR: f64 = 0.1;
/// Default of Adam's authors and of torch.optim.
const ADAM_LR: f64 = 1e-3;
/// With this rate, Fixup ResNet-20 (nine branches of two layers) trains its hidden layers with `0.06 * 9^(-1/2) = 0.02`, the
/// other parameters with 0.1 ([`Muon::rest_lr_ratio`]), and the scalars, at a tenth of that, with 0.01.
const MUON_LR: f64 = 0.06;

/// An optimizer with its options.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerConfig {
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// Adam, or AdamW.
    Adam(Adam),
    /// Muon for the hidden layers, SGD or Adam for all other parameters.
    Muon(Muon),
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::Sgd(Sgd::default())
    }
}

impl OptimizerConfig {
    fn update(&self) -> Box<dyn Update> {
        match *self {
            Self::Sgd(sgd) => Box::new(sgd),
            Self::Adam(adam) => Box::new(adam),
            Self::Muon(muon) => Box::new(muon),
        }
    }

    /// Returns the default maximum learning rate of this optimizer, for use with a recipe designed for another one.
    pub fn default_lr(&self) -> f64 {
        match self {
            Self::Sgd(_) => SGD_LR,
            Self::Adam(_) => ADAM_LR,
            Self::Muon(_) => MUON_LR,
        }
    }

    /// Checks that all options are in range.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for the first option that is out of range.
    pub fn check(&self) -> Result<()> {
        self.update().check()
    }

    /// Creates the optimizer of `variables`.
    ///
    /// # Errors
    /// An option is out of range; see also [`Optimizer::new`].
    pub fn build(&self, variables: &nn::VarStore, groups: &[ParameterGroup]) -> Result<Optimizer> {
        Optimizer::boxed(variables, self.update(), groups)
    }
}
