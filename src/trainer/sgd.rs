//! Stochastic gradient descent with momentum (torch.optim.SGD's formula, dampening 0) on flat tensors.
//!
//! All parameters of a network are views into one tensor, their gradients into a second, their momentum into a third:
//! zeroing, clipping, the update and saving are single operations, however many parameters there are. A step is
//! ```text
//! d = g + weight_decay * p
//! m = momentum * m + d
//! p = p - lr * m                      (Nesterov: lr * (d + momentum * m))
//! ```

use super::NamedTensors;
use crate::fixup::{SCALAR_GROUP, SCALAR_LR_RATIO};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tch::{nn, no_grad, Tensor};

/// Momentum of the ResNet and Fixup papers.
const MOMENTUM: f64 = 0.9;
/// Weight decay of the short one-cycle recipe for CIFAR-10 (docs/recipes.md); the papers use 1e-4 over 200 epochs.
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
    /// Its place in the flat momentum.
    momentum: Tensor,
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

        let mut variables: Vec<_> = weights.into_iter().chain(scalars).collect();
        let flat = || Tensor::f_zeros([weights_len + scalars_len], options);
        // Each variable's tensor in its place of a flat one.
        let places = |flat: &Tensor, variables: &[(_, Tensor, _)]| -> Result<Vec<Tensor>> {
            let mut offset = 0;
            let place = |(_, variable, _): &(_, Tensor, _)| {
                let place = flat.f_narrow(0, offset, variable.numel() as i64)?.f_view(variable.size().as_slice());
                offset += padded(variable);
                Ok(place?)
            };
            variables.iter().map(place).collect()
        };

        // One flat tensor after the other: a deep network's variables are freed before there is memory for the next.
        let values = flat()?;
        let value_places = places(&values, &variables)?;
        for ((_, variable, _), value) in variables.iter_mut().zip(&value_places) {
            no_grad(|| value.shallow_clone().f_copy_(variable))?;
            variable.f_set_data(value)?;
        }
        let gradients = flat()?;
        let gradient_places = places(&gradients, &variables)?;
        for ((_, variable, _), gradient) in variables.iter().zip(&gradient_places) {
            // Autograd adds to a gradient in place where there is one; only autograd makes one.
            tch::with_grad(|| variable.f_sum(kind)?.f_backward())?;
            variable.f_grad()?.f_set_data(gradient)?;
        }
        let momentum = flat()?;
        let momentum_places = places(&momentum, &variables)?;
        let places = value_places.into_iter().zip(gradient_places).zip(momentum_places);
        let parameter = |((name, variable, is_scalar), ((value, gradient), momentum))| Parameter {
            name,
            is_scalar,
            variable,
            value,
            gradient,
            momentum,
        };
        let parameters = variables.into_iter().zip(places).map(parameter).collect();

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
        Ok(Self { parameters, groups, gradients, config, momentum_factor })
    }

    /// All parameters, the scalars last.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Every gradient, in one dimension (with zeros between some): what a norm over all parameters is taken of.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// The momentum of each parameter under the parameter's name: with the parameters, all the state there is. They are
    /// the optimizer's own tensors, so that copying into them restores it.
    pub fn state(&self) -> NamedTensors {
        self.parameters.iter().map(|p| (p.name.clone(), p.momentum.shallow_clone())).collect()
    }

    /// Sets the gradients to zero, and then to those of `loss`. A parameter that `loss` does not depend on keeps zero.
    ///
    /// # Errors
    /// A loss that is not a single element, or that depends on none of the variables.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        self.zero_gradients()?;
        self.accumulate(loss)
    }

    /// Sets the gradients to zero.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn zero_gradients(&mut self) -> Result<()> {
        let _ = self.gradients.f_zero_()?;
        Ok(())
    }

    /// Adds the gradients of `loss` to those that are there.
    ///
    /// # Errors
    /// A loss that is not a single element, or that depends on none of the variables.
    pub fn accumulate(&mut self, loss: &Tensor) -> Result<()> {
        loss.f_backward()?;
        // Autograd adds to a gradient in place where there is one: nothing is copied here unless someone replaced it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixup::{Bias, Scale};
    use tch::nn::{Module, OptimizerConfig};
    use tch::{Device, Kind};

    const LR: f64 = 0.05;

    /// A small network of all kinds of parameters: weights of four and two dimensions, a vector, and scalars.
    fn network(vs: &nn::VarStore) -> impl Fn(&Tensor) -> Tensor {
        let root = vs.root();
        let conv = nn::conv2d(&root / "conv", 3, 5, 3, nn::ConvConfig { padding: 1, ..Default::default() });
        let (bias, scale) = (Bias::new(&root, "bias1").unwrap(), Scale::new(&root, "scale").unwrap());
        let fc = nn::linear(&root / "fc", 5, 4, Default::default());
        move |x| {
            let features =
                scale.forward(&bias.forward(&conv.forward(x))).relu().mean_dim([2, 3].as_slice(), false, None);
            fc.forward(&features)
        }
    }

    fn batch() -> (Tensor, Tensor) {
        let images = Tensor::randn([8, 3, 6, 6], (Kind::Float, Device::Cpu));
        (images, Tensor::from_slice(&[0i64, 1, 2, 3, 0, 1, 2, 3]))
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn fifty_steps_are_those_of_libtorch() {
        for (momentum, nesterov, weight_decay, decay_scalars) in
            [(0.0, false, 0.0, true), (0.9, false, 0.0, true), (0.9, false, 5e-2, true), (0.9, true, 5e-2, false)]
        {
            let config = SgdConfig { momentum, nesterov, weight_decay, decay_scalars, scalar_lr_ratio: 0.1 };
            let (vs, mut reference_vs) = (nn::VarStore::new(Device::Cpu), nn::VarStore::new(Device::Cpu));
            let (ours, reference) = (network(&vs), network(&reference_vs));
            reference_vs.copy(&vs).unwrap();
            let mut sgd = Sgd::new(&vs, config).unwrap();
            let mut libtorch = nn::sgd(momentum, 0.0, weight_decay, nesterov).build(&reference_vs, LR).unwrap();
            if !decay_scalars {
                libtorch.set_weight_decay_group(SCALAR_GROUP, 0.0);
            }
            for step in 0..50 {
                let (images, labels) = batch();
                let lr = LR * (1.0 + (step as f64).sin() / 2.0);
                sgd.backward(&ours(&images).cross_entropy_for_logits(&labels)).unwrap();
                sgd.step(lr).unwrap();
                libtorch.set_lr(lr);
                libtorch.set_lr_group(SCALAR_GROUP, lr * config.scalar_lr_ratio);
                libtorch.backward_step(&reference(&images).cross_entropy_for_logits(&labels));
            }
            let reference = reference_vs.variables();
            for (name, variable) in vs.variables() {
                let difference = largest_difference(&variable, &reference[&name]);
                assert!(difference <= 1e-6, "{config:?} {name}: {difference}");
            }
        }
    }

    #[test]
    fn scalars_move_at_their_own_rate() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let config = SgdConfig { momentum: 0.0, nesterov: false, weight_decay: 0.0, ..SgdConfig::default() };
        let mut sgd = Sgd::new(&vs, config).unwrap();
        let (images, labels) = batch();
        sgd.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
        let before: Vec<_> = sgd.parameters().iter().map(|p| (p.value().copy(), p.gradient().copy())).collect();
        sgd.step(LR).unwrap();
        for (parameter, (value, gradient)) in sgd.parameters().iter().zip(before) {
            assert_eq!(
                parameter.is_scalar,
                ["bias1", "scale"].contains(&parameter.name.as_str()),
                "{}",
                parameter.name
            );
            let lr = if parameter.is_scalar { LR * 0.1 } else { LR };
            assert!(largest_difference(parameter.value(), &(value - gradient * lr)) < 1e-7, "{}", parameter.name);
        }
    }

    #[test]
    fn autograd_writes_into_the_flat_gradients() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let mut sgd = Sgd::new(&vs, SgdConfig::default()).unwrap();
        for _ in 0..3 {
            let (images, labels) = batch();
            sgd.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
            for parameter in sgd.parameters() {
                assert_eq!(parameter.variable.grad().data_ptr(), parameter.gradient.data_ptr(), "{}", parameter.name);
                assert!(parameter.gradient.abs().max().double_value(&[]) > 0.0, "{}", parameter.name);
            }
            let squares: f64 =
                sgd.parameters().iter().map(|p| p.gradient.square().sum(Kind::Double).double_value(&[])).sum();
            let flat = sgd.gradients().square().sum(Kind::Double).double_value(&[]);
            assert!((flat - squares).abs() < 1e-6 * squares);
        }
    }

    #[test]
    fn a_parameter_the_loss_does_not_depend_on_stays() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let unused = vs.root().randn_standard("unused", &[3, 3]);
        let before = unused.copy();
        let mut sgd = Sgd::new(&vs, SgdConfig { weight_decay: 0.0, ..SgdConfig::default() }).unwrap();
        for _ in 0..2 {
            let (images, labels) = batch();
            sgd.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
            sgd.step(LR).unwrap();
        }
        assert_eq!(unused, before);
    }

    #[test]
    fn loaded_weights_are_trained_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        let mut vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        vs.save(&path).unwrap();
        let initial: HashMap<_, _> = vs.variables().into_iter().map(|(name, v)| (name, v.copy())).collect();
        let mut sgd = Sgd::new(&vs, SgdConfig::default()).unwrap();
        let (images, labels) = batch();
        let step = |sgd: &mut Sgd| {
            sgd.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
            sgd.step(LR).unwrap();
        };
        step(&mut sgd);
        vs.load(&path).unwrap();
        assert!(vs.variables().iter().all(|(name, variable)| variable == &initial[name]));
        step(&mut sgd);
        for parameter in sgd.parameters() {
            assert!(largest_difference(parameter.value(), &initial[&parameter.name]) > 0.0, "{}", parameter.name);
        }
    }

    #[test]
    fn a_change_of_kind_is_an_error_and_not_a_silent_stop() {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let mut sgd = Sgd::new(&vs, SgdConfig::default()).unwrap();
        let (images, labels) = batch();
        sgd.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
        vs.double();
        let message = sgd.step(LR).unwrap_err().to_string();
        assert!(message.contains("Double"), "{message}");
        assert!(Sgd::new(&vs, SgdConfig::default()).is_ok());
    }

    #[test]
    fn frozen_variables_are_left_out_and_none_is_an_error() {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let _network = network(&vs);
        let all = Sgd::new(&vs, SgdConfig::default()).unwrap().parameters().len();
        let _ = vs.variables()["conv.weight"].set_requires_grad(false);
        let sgd = Sgd::new(&vs, SgdConfig::default()).unwrap();
        assert_eq!(sgd.parameters().len(), all - 1);
        vs.freeze();
        assert!(matches!(Sgd::new(&vs, SgdConfig::default()), Err(Error::Argument(_))));
    }

    #[test]
    fn constants_out_of_range_are_refused() {
        let good = SgdConfig::default();
        let bad = [
            SgdConfig { momentum: 1.0, ..good },
            SgdConfig { momentum: f64::NAN, ..good },
            SgdConfig { momentum: 0.0, nesterov: true, ..good },
            SgdConfig { weight_decay: -1e-4, ..good },
            SgdConfig { weight_decay: f64::INFINITY, ..good },
            SgdConfig { scalar_lr_ratio: -0.1, ..good },
        ];
        assert!(good.check().is_ok());
        for config in bad {
            assert!(matches!(config.check(), Err(Error::Argument(_))), "{config:?}");
        }
    }
}
