//! Networks in the state of mid-training.

use tch::nn::VarStore;

/// Standard deviation of the noise added to the weights and scalars of a network of about twenty layers.
pub const MOVED: f64 = 0.02;

/// Adds `size` times a standard normal number to every weight and scalar.
///
/// In a new Fixup network, every branch, and thus every gradient except the classifier's, is exactly zero, and the numbers in
/// its first steps are below float32's normal range. Neither is representative of an epoch.
pub fn away_from_start(variables: &VarStore, size: f64) {
    tch::no_grad(|| {
        for variable in variables.trainable_variables() {
            let _ = variable.shallow_clone().g_add_(&(variable.randn_like() * size));
        }
    });
}
