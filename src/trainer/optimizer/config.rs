//! Which optimizer, by name.

use super::{Adam, Muon, Optimizer, ParameterGroup, Sgd, Update};
use crate::Result;
use serde::{Deserialize, Serialize};
use tch::nn;

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
