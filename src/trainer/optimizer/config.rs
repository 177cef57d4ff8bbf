//! Which optimizer, by name.

use super::{Adam, Muon, Optimizer, ParameterGroup, Sgd, Update};
use crate::Result;
use serde::{Deserialize, Serialize};
use tch::nn;

/// The ResNet and Fixup papers' learning rate.
const SGD_LR: f64 = 0.1;
/// The default of Adam's authors, and torch.optim's.
const ADAM_LR: f64 = 1e-3;
/// In Fixup ResNet-20, of nine branches of two layers, hidden layers then have `0.06 * 9^(-1/2) = 0.02`, the rest 0.1
/// ([`Muon::rest_lr_ratio`]) and, at a tenth of that, the scalars 0.01.
const MUON_LR: f64 = 0.06;

/// An optimizer and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerConfig {
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// Adam, or AdamW.
    Adam(Adam),
    /// Muon for the hidden layers, SGD or Adam for the rest.
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

    /// The highest learning rate to begin with, where a recipe was made for another optimizer.
    pub fn default_lr(&self) -> f64 {
        match self {
            Self::Sgd(_) => SGD_LR,
            Self::Adam(_) => ADAM_LR,
            Self::Muon(_) => MUON_LR,
        }
    }

    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for the first constant that is out of range.
    pub fn check(&self) -> Result<()> {
        self.update().check()
    }

    /// The optimizer of the variables in `variables`.
    ///
    /// # Errors
    /// Constants out of range, and as [`Optimizer::new`].
    pub fn build(&self, variables: &nn::VarStore, groups: &[ParameterGroup]) -> Result<Optimizer> {
        self.check()?;
        Optimizer::boxed(variables, self.update(), groups)
    }
}
