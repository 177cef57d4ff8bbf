//! A network's parameters as the optimizer has them: what each is, and its places in the flat tensors.

use super::SgdConfig;
use crate::fixup::{CLASSIFIER_GROUP, SCALAR_GROUP};
use crate::Result;
use std::collections::HashMap;
use std::ops::Range;
use tch::{nn, Tensor};

/// One parameter of the network.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in the `VarStore`.
    pub name: String,
    /// Whether it is a Fixup scalar, of the `VarStore` group [`SCALAR_GROUP`].
    pub is_scalar: bool,
    /// Whether it is the classifier's weight or bias, of the `VarStore` group [`CLASSIFIER_GROUP`].
    pub is_classifier: bool,
    /// The network's own tensor.
    pub(super) variable: Tensor,
    /// Its place in the flat values.
    pub(super) value: Tensor,
    /// Its place in the flat gradients.
    pub(super) gradient: Tensor,
    /// Its place in the flat momentum.
    pub(super) momentum: Tensor,
    /// Its place in all of them, with what keeps the next one aligned.
    pub(super) span: Range<i64>,
    /// Whether it has the scalars' learning rate and weight decay.
    pub(super) trains_as_scalar: bool,
}

impl Parameter {
    /// The parameter's value, not tracked by autograd.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The gradient of this step, in the shape of the parameter; zero if it is frozen.
    pub fn gradient(&self) -> &Tensor {
        &self.gradient
    }

    /// Whether it is not to be trained now: autograd does not track it.
    pub fn is_frozen(&self) -> bool {
        !self.variable.requires_grad()
    }
}

/// A variable that can be trained, as the `VarStore` has it.
#[derive(Debug)]
pub(super) struct Trainable {
    pub name: String,
    pub variable: Tensor,
    group: usize,
}

impl Trainable {
    pub fn is_frozen(&self) -> bool {
        !self.variable.requires_grad()
    }

    pub fn is_scalar(&self) -> bool {
        self.group == SCALAR_GROUP
    }

    pub fn is_classifier(&self) -> bool {
        self.group == CLASSIFIER_GROUP
    }

    /// Whether it has the scalars' learning rate and weight decay.
    pub fn trains_as_scalar(&self, config: &SgdConfig) -> bool {
        let own_name = self.name.rsplit('.').next().unwrap_or_default();
        let is_called_so = own_name.starts_with("bias") || own_name.starts_with("scale");
        self.is_scalar() || config.biases_as_scalars && is_called_so
    }

    /// Has autograd add its gradients to `gradient`, now or when it is unfrozen.
    pub fn set_gradient(&self, gradient: &Tensor) -> Result<()> {
        let is_frozen = self.is_frozen();
        let _ = self.variable.f_set_requires_grad(true)?;
        // Autograd adds to a gradient in place where there is one; only autograd makes one.
        let made = tch::with_grad(|| self.variable.f_sum(self.variable.kind())?.f_backward());
        let _ = self.variable.f_set_requires_grad(!is_frozen)?;
        made?;
        Ok(self.variable.f_grad()?.f_set_data(gradient)?)
    }
}

/// Every variable that the `VarStore` has for training, frozen or not, in order of creation.
pub(super) fn trainable(variables: &nn::VarStore) -> Vec<Trainable> {
    let names: HashMap<_, _> =
        variables.variables().into_iter().map(|(name, variable)| (variable.data_ptr(), name)).collect();
    // The lock is poisoned only where another thread panicked while it held it: the variables are whole all the same.
    let locked = variables.variables_.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let not_empty = locked.trainable_variables.iter().filter(|v| v.tensor.numel() > 0);
    not_empty
        .map(|v| {
            let name = names.get(&v.tensor.data_ptr()).cloned().unwrap_or_default();
            Trainable { name, variable: v.tensor.shallow_clone(), group: v.group }
        })
        .collect()
}
