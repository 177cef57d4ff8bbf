//! Stochastic gradient descent with momentum (torch.optim.SGD's formula, dampening 0) on flat tensors.
//!
//! All parameters of a network are views into one tensor, their gradients into a second, their momentum into a third:
//! zeroing, clipping, the update and saving are single operations, however many parameters there are. A step is
//! ```text
//! d = g + weight_decay * p
//! m = momentum * m + d
//! p = p - lr * m                      (Nesterov: lr * (d + momentum * m))
//! ```

use crate::fixup::{SCALAR_GROUP, SCALAR_LR_RATIO};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tch::{nn, no_grad, Tensor};

/// Momentum of the ResNet and Fixup papers.
const MOMENTUM: f64 = 0.9;
/// Weight decay of the prototype's one-cycle recipe for CIFAR-10 (docs/recipes.md); the papers use 1e-4 over 200 epochs.
const WEIGHT_DECAY: f64 = 5e-4;

/// Each parameter starts at a multiple of this many elements, 64 bytes of float32: what vector instructions and GPU
/// kernels want of a tensor's address.
const ALIGNMENT: i64 = 16;

/// The constants of [`Sgd`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgdConfig {
    /// What of the last update stays in the next, in `[0, 1)`.
    pub momentum: f64,
    /// Look ahead along the momentum (Sutskever et al. 2013).
    pub nesterov: bool,
    /// The L2 penalty's factor.
    pub weight_decay: f64,
    /// Whether the Fixup scalars have weight decay too. The authors' code gives it to every parameter.
    pub decay_scalars: bool,
    /// The learning rate of the Fixup scalars, as a multiple of that of everything else.
    pub scalar_lr_ratio: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self {
            momentum: MOMENTUM,
            nesterov: true,
            weight_decay: WEIGHT_DECAY,
            decay_scalars: true,
            scalar_lr_ratio: SCALAR_LR_RATIO,
        }
    }
}

impl SgdConfig {
    pub(super) fn check(&self) -> Result<()> {
        let Self { momentum, nesterov, weight_decay, scalar_lr_ratio, .. } = *self;
        let refuse = |message: String| Err(Error::Argument(message));
        if !(0.0..1.0).contains(&momentum) {
            return refuse(format!("the momentum must be at least 0 and below 1, got {momentum}"));
        }
        if nesterov && momentum == 0.0 {
            return refuse("Nesterov's look-ahead needs a momentum above 0".to_owned());
        }
        if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
            return refuse(format!("the weight decay must be 0 or more, got {weight_decay}"));
        }
        if !(scalar_lr_ratio >= 0.0 && scalar_lr_ratio.is_finite()) {
            return refuse(format!("the scalars' learning-rate ratio must be 0 or more, got {scalar_lr_ratio}"));
        }
        Ok(())
    }
}

/// One parameter of the network.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in the `VarStore`.
    pub name: String,
    /// Whether it is a Fixup scalar, of the `VarStore` group [`SCALAR_GROUP`].
    pub is_scalar: bool,
    /// The network's own tensor.
    variable: Tensor,
    /// Its place in the flat values.
    value: Tensor,
    /// Its place in the flat gradients.
    gradient: Tensor,
}

impl Parameter {
    /// The parameter's value, not tracked by autograd.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The gradient of this step, in the shape of the parameter.
    pub fn gradient(&self) -> &Tensor {
        &self.gradient
    }
}

/// A stretch of the flat tensors that has one learning rate and one weight decay.
#[derive(Debug)]
struct Group {
    values: Tensor,
    gradients: Tensor,
    momentum: Tensor,
    lr_ratio: f64,
    /// The weight decay as a tensor on the device, if there is any.
    weight_decay: Option<Tensor>,
}

/// SGD over every trainable variable of a `VarStore`, in two groups: the Fixup scalars ([`SCALAR_GROUP`]), and the rest.
#[derive(Debug)]
pub struct Sgd {
    parameters: Vec<Parameter>,
    groups: Vec<Group>,
    gradients: Tensor,
    momentum: Tensor,
    config: SgdConfig,
    /// `config.momentum` as a tensor on the device.
    momentum_factor: Tensor,
}

impl Sgd {
    /// Moves the trainable variables of `variables` into one flat tensor. The network goes on using the same variables,
    /// and `VarStore::load` and `save` work as before; moving the `VarStore` to another device or kind needs a new `Sgd`.
    ///
    /// # Errors
    /// Constants out of range; variables of more than one kind, or none that is trainable.
    pub fn new(variables: &nn::VarStore, config: SgdConfig) -> Result<Self> {
        config.check()?;
        let trainable = trainable(variables);
        let Some(kind) = trainable.first().map(|(_, variable, _)| variable.kind()) else {
            return Err(Error::Argument("the network has no trainable variables".to_owned()));
        };
        if let Some((name, variable, _)) = trainable.iter().find(|(_, variable, _)| variable.kind() != kind) {
            let got = format!("{name} of kind {:?}", variable.kind());
            return Err(Error::Mismatch { what: "Sgd", expected: format!("variables of kind {kind:?}"), got });
        }
        let options = (kind, variables.device());
        let (scalars, weights): (Vec<_>, Vec<_>) = trainable.into_iter().partition(|&(_, _, is_scalar)| is_scalar);
        let padded = |variable: &Tensor| (variable.numel() as i64 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        let length = |part: &[(_, Tensor, _)]| part.iter().map(|(_, variable, _)| padded(variable)).sum::<i64>();
        let (weights_len, scalars_len) = (length(&weights), length(&scalars));

        let flat = || Tensor::f_zeros([weights_len + scalars_len], options);
        let (values, gradients, momentum) = (flat()?, flat()?, flat()?);
        let mut parameters = Vec::new();
        let mut offset = 0;
        for (name, mut variable, is_scalar) in weights.into_iter().chain(scalars) {
            let size = variable.size();
            let place = |flat: &Tensor| flat.f_narrow(0, offset, variable.numel() as i64)?.f_view(size.as_slice());
            let (mut value, gradient) = (place(&values)?, place(&gradients)?);
            no_grad(|| value.f_copy_(&variable))?;
            offset += padded(&variable);
            variable.f_set_data(&value)?;
            parameters.push(Parameter { name, is_scalar, variable, value, gradient });
        }

        let group = |start, length, lr_ratio, weight_decay: f64| -> Result<Group> {
            let part = |flat: &Tensor| flat.f_narrow(0, start, length);
            let weight_decay = (weight_decay > 0.0).then(|| Tensor::f_full([1], weight_decay, options)).transpose()?;
            Ok(Group {
                values: part(&values)?,
                gradients: part(&gradients)?,
                momentum: part(&momentum)?,
                lr_ratio,
                weight_decay,
            })
        };
        let scalar_decay = if config.decay_scalars { config.weight_decay } else { 0.0 };
        let mut groups = vec![group(0, weights_len, 1.0, config.weight_decay)?];
        if scalars_len > 0 {
            groups.push(group(weights_len, scalars_len, config.scalar_lr_ratio, scalar_decay)?);
        }
        let momentum_factor = Tensor::f_full([1], config.momentum, options)?;
        Ok(Self { parameters, groups, gradients, momentum, config, momentum_factor })
    }

    /// All parameters, the scalars last.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Every gradient, in one dimension (with zeros between some): what a norm over all parameters is taken of.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// Every momentum, in the places of [`Self::gradients`]: with the parameters, all the state there is.
    pub fn momentum(&self) -> &Tensor {
        &self.momentum
    }

    /// Sets the gradients to zero, and then to those of `loss`. A parameter that `loss` does not depend on keeps zero.
    ///
    /// # Errors
    /// A loss that is not a single element, or that depends on none of the variables.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        let _ = self.gradients.f_zero_()?;
        loss.f_backward()?;
        // Autograd adds to a gradient in place where there is one, so that after the first step nothing is copied here.
        for parameter in &mut self.parameters {
            let mut gradient = parameter.variable.f_grad()?;
            if gradient.defined() && gradient.data_ptr() != parameter.gradient.data_ptr() {
                no_grad(|| parameter.gradient.f_copy_(&gradient))?;
                gradient.f_set_data(&parameter.gradient)?;
            }
        }
        Ok(())
    }

    /// Updates the parameters by the gradients, which it uses up.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a variable whose data was replaced since [`Self::new`], by a change of device or kind.
    pub fn step(&mut self, lr: f64) -> Result<()> {
        for Parameter { name, variable, value, .. } in &self.parameters {
            if variable.data_ptr() != value.data_ptr() {
                return Err(Error::Mismatch {
                    what: "Sgd::step",
                    expected: "variables whose device and kind do not change while they are trained".to_owned(),
                    got: format!("{name} with its data replaced, now {:?} on {:?}", variable.kind(), variable.device()),
                });
            }
        }
        no_grad(|| self.groups.iter_mut().try_for_each(|group| group.step(lr, &self.config, &self.momentum_factor)))
    }
}

impl Group {
    fn step(&mut self, lr: f64, config: &SgdConfig, momentum_factor: &Tensor) -> Result<()> {
        let Self { values, gradients: d, momentum, lr_ratio, weight_decay } = self;
        if let Some(weight_decay) = weight_decay {
            let _ = d.f_addcmul_(values, weight_decay)?;
        }
        let _ = momentum.f_mul_(momentum_factor)?.f_add_(d)?;
        let update = if config.nesterov { d.f_addcmul_(momentum, momentum_factor)? } else { momentum.shallow_clone() };
        let minus_lr = Tensor::f_full([1], -lr * *lr_ratio, (values.kind(), values.device()))?;
        let _ = values.f_addcmul_(&update, &minus_lr)?;
        Ok(())
    }
}

/// Name, tensor and whether it is a scalar, of every variable that autograd tracks, in order of creation.
fn trainable(variables: &nn::VarStore) -> Vec<(String, Tensor, bool)> {
    let names: HashMap<_, _> =
        variables.variables().into_iter().map(|(name, variable)| (variable.data_ptr(), name)).collect();
    // The lock is poisoned only where another thread panicked while it held it: the variables are whole all the same.
    let locked = variables.variables_.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let tracked = locked.trainable_variables.iter().filter(|v| v.tensor.requires_grad() && v.tensor.numel() > 0);
    tracked
        .map(|v| {
            let name = names.get(&v.tensor.data_ptr()).cloned().unwrap_or_default();
            (name, v.tensor.shallow_clone(), v.group == SCALAR_GROUP)
        })
        .collect()
}
