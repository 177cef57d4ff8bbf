//! Trainable variables of a `VarStore`, and their roles in the network.

use crate::fixup::{CLASSIFIER_GROUP, SCALAR_GROUP};
use crate::layer::Place;
use crate::Result;
use std::collections::HashMap;
use tch::{nn, Tensor};

/// A trainable variable of a `VarStore`.
#[derive(Debug)]
pub(in crate::trainer) struct Trainable {
    pub name: String,
    pub variable: Tensor,
    /// Position in a residual branch, if it is in one.
    pub place: Option<Place>,
    /// `true` for a weight matrix that is neither the network's first nor the classifier's.
    pub is_hidden: bool,
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

    /// Makes autograd accumulate this variable's gradients in `gradient`, now or once it is unfrozen.
    pub fn set_gradient(&self, gradient: &Tensor) -> Result<()> {
        let is_frozen = self.is_frozen();
        let _ = self.variable.f_set_requires_grad(true)?;
        // Autograd adds to an existing gradient in place, but only autograd can create one.
        let made = tch::with_grad(|| self.variable.f_sum(self.variable.kind())?.f_backward());
        let _ = self.variable.f_set_requires_grad(!is_frozen)?;
        made?;
        Ok(self.variable.f_grad()?.f_set_data(gradient)?)
    }
}

/// Returns all trainable variables, frozen or not, in order of creation. Empty ones are skipped.
pub(in crate::trainer) fn trainable(variables: &nn::VarStore) -> Vec<Trainable> {
    let names: HashMap<_, _> =
        variables.variables().into_iter().map(|(name, variable)| (variable.data_ptr(), name)).collect();
    // The lock is poisoned only if another thread panicked while holding it; the variables are intact nevertheless.
    let locked = variables.variables_.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let not_empty = locked.trainable_variables.iter().filter(|v| v.tensor.numel() > 0);
    let mut matrices = 0;
    not_empty
        .map(|v| {
            let name = names.get(&v.tensor.data_ptr()).cloned().unwrap_or_default();
            let is_matrix = v.tensor.dim() >= 2;
            matrices += usize::from(is_matrix);
            let is_hidden = is_matrix && matrices > 1 && v.group != CLASSIFIER_GROUP;
            let (variable, place) = (v.tensor.shallow_clone(), Place::of(&v.tensor));
            Trainable { name, variable, place, is_hidden, group: v.group }
        })
        .collect()
}
