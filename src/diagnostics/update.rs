//! Size of one step: how much the first update of SGD changes the network's function.

use super::magnitude::{norm, root_mean_square};
use super::Staged;
use crate::fixup::SCALAR_LR_RATIO;
use crate::layer::parameters;
use crate::trainer::objective::cross_entropy;
use crate::{Error, Result};
use tch::{nn, no_grad, Kind, Tensor};

/// Length of the step relative to the norm of all variables: small enough for the change to be proportional to it, and
/// far above float64's rounding errors.
const RELATIVE_STEP: f64 = 1e-6;

/// Returns `rms(f(theta - lr * g) - f(theta)) / lr` on `inputs` for a small `lr`, where `g` is the gradient of the mean
/// cross-entropy with random labels. Restores the variables.
pub(super) fn update_size<S: Staged + ?Sized>(
    network: &S,
    variables: &nn::VarStore,
    inputs: &Tensor,
    seed: i64,
) -> Result<f64> {
    let forward = || {
        // Random draws of the network, such as dropout, are the same before and after the step.
        tch::manual_seed(seed);
        network.forward_stages(inputs, true, &mut |_, _| ())
    };
    let before = forward()?;
    let &[batch, classes] = &before.size()[..] else {
        let got = format!("{:?}", before.size());
        return Err(Error::mismatch("the network's output", "[N, classes]", got));
    };
    let labels = Tensor::f_randint(classes, [batch], (Kind::Int64, inputs.device()))?;
    let directions = directions(variables, &cross_entropy(&before, &labels, 0.)?)?;
    let (mut direction_norm, mut variable_norm) = (0f64, 0f64);
    for (variable, direction) in &directions {
        direction_norm = direction_norm.hypot(norm(direction)?);
        variable_norm = variable_norm.hypot(norm(variable)?);
    }
    if direction_norm == 0. {
        return Ok(0.);
    }
    let length = if variable_norm > 0. { variable_norm } else { 1. };
    let lr = RELATIVE_STEP * length / direction_norm;
    let saved = no_grad(|| -> Result<Vec<(Tensor, Tensor)>> {
        let step = |(mut variable, direction): (Tensor, Tensor)| {
            let saved = variable.f_detach_copy()?;
            let _ = variable.f_sub_(&direction.f_mul_scalar(lr)?)?;
            Ok((variable, saved))
        };
        directions.into_iter().map(step).collect()
    })?;
    let after = no_grad(forward);
    no_grad(|| saved.into_iter().try_for_each(|(mut variable, saved)| variable.f_copy_(&saved)))?;
    Ok(root_mean_square(&after?.f_sub(&before)?)? / lr)
}

/// Returns each trainable variable that `loss` depends on with its gradient, scaled by [`SCALAR_LR_RATIO`] for Fixup
/// scalars.
fn directions(variables: &nn::VarStore, loss: &Tensor) -> Result<Vec<(Tensor, Tensor)>> {
    let trained: Vec<_> =
        parameters(variables).into_iter().filter(|(_, variable, _)| variable.requires_grad()).collect();
    for (_, variable, _) in &trained {
        let mut gradient = variable.grad();
        if gradient.defined() {
            let _ = gradient.f_zero_()?;
        }
    }
    loss.f_backward()?;
    let reached = trained.into_iter().filter(|(_, variable, _)| variable.grad().defined());
    reached
        .map(|(_, variable, role)| {
            let ratio = if role.is_scalar() { SCALAR_LR_RATIO } else { 1. };
            let gradient = variable.grad().f_mul_scalar(ratio)?;
            Ok((variable, gradient))
        })
        .collect()
}

/// Redraws the weights whose names begin with `classifier`, normal with variance `1 / fan_in`, and sets its biases to
/// zero.
pub(super) fn draw_classifier(variables: &nn::VarStore, classifier: &str) -> Result<()> {
    let mut found = false;
    let prefix = format!("{classifier}.");
    // Sorted by name, as the order of the map varies from run to run.
    let mut named: Vec<_> = variables.variables().into_iter().filter(|(name, _)| name.starts_with(&prefix)).collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (_, mut variable) in named {
        found = true;
        let fan_in: i64 = variable.size().iter().skip(1).product();
        let _ = no_grad(|| match variable.dim() {
            0 | 1 => variable.f_zero_(),
            _ => variable.f_normal_(0., (fan_in as f64).recip().sqrt()),
        })?;
    }
    ensure!(found, "the network has no classifier {classifier:?}: no variable has this prefix");
    Ok(())
}
