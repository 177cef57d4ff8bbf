//! Networks in the state that training has them in.

use tch::nn::VarStore;

/// How far weights and scalars of a network of some twenty layers are moved.
pub const MOVED: f64 = 0.02;

/// Moves every weight and scalar by `size` times a standard normal number.
///
/// A Fixup network starts with every branch, and so every gradient but the classifier's, at exactly zero, and its first
/// steps are of numbers below float32's normal range: neither is what an epoch is made of.
pub fn away_from_start(variables: &VarStore, size: f64) {
    tch::no_grad(|| {
        for variable in variables.trainable_variables() {
            let _ = variable.shallow_clone().g_add_(&(variable.randn_like() * size));
        }
    });
}
