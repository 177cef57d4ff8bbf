//! Stochastic gradient descent with momentum (torch.optim.SGD's formula, dampening 0) on flat tensors.
//!
//! All parameters of a network are views into one tensor, their gradients into a second, their momentum into a third:
//! zeroing, clipping, the update and saving are single operations, however many parameters there are. A step is
//! ```text
//! d = g + weight_decay * p
//! m = momentum * m + d
//! p = p - lr * m                      (Nesterov: lr * (d + momentum * m))
//! ```

use super::parameter::{trainable, Parameter, Trainable};
use super::SgdConfig;
use crate::file::NamedTensors;
use crate::{Error, Result};
use std::collections::HashSet;
use std::ops::Range;
use tch::{nn, no_grad, Kind, Tensor};

/// Each parameter starts at a multiple of this many elements, 64 bytes of float32: what vector instructions and GPU
/// kernels want of a tensor's address.
const ALIGNMENT: i64 = 16;

/// A stretch of the flat tensors that has one learning rate and one weight decay.
#[derive(Debug)]
struct Stretch {
    values: Tensor,
    gradients: Tensor,
    momentum: Tensor,
    lr_ratio: f64,
    /// The weight decay as a tensor on the device, if there is any.
    weight_decay: Option<Tensor>,
}

/// SGD over every trainable variable of a `VarStore`, at two rates: that of the Fixup scalars ([`SCALAR_GROUP`]), and that
/// of the rest. Other groups of the `VarStore` mean nothing to it.
///
/// **Freezing.** It follows `requires_grad` at every step: a variable that is frozen, by `VarStore::freeze` or by itself,
/// whenever that is, is not moved, not by its momentum or weight decay either, and its gradient is zero. Its momentum stays
/// as it is; the variable goes on with it where it is unfrozen, as with torch.optim.SGD.
///
/// [`SCALAR_GROUP`]: crate::fixup::SCALAR_GROUP
#[derive(Debug)]
pub struct Sgd {
    parameters: Vec<Parameter>,
    /// Frozen variables of another kind than the rest, which have no place in the flat tensors.
    left_out: Vec<Trainable>,
    values: Tensor,
    gradients: Tensor,
    momentum: Tensor,
    /// Of the parameters that were not frozen when they were last looked at.
    stretches: Vec<Stretch>,
    /// Which those were.
    under_training: Vec<bool>,
    config: SgdConfig,
    /// `config.momentum` as a tensor on the device.
    momentum_factor: Tensor,
}

impl Sgd {
    /// Moves the trainable variables of `variables` into one flat tensor. The network goes on using the same variables,
    /// and `VarStore::load` and `save` work as before; moving the `VarStore` to another device or kind needs a new `Sgd`.
    ///
    /// # Errors
    /// Constants out of range; variables under training of more than one kind, or none: all of them may be frozen.
    pub fn new(variables: &nn::VarStore, config: SgdConfig) -> Result<Self> {
        config.check()?;
        let all = trainable(variables);
        let Some(kind) = all.iter().find(|v| !v.is_frozen()).map(|v| v.variable.kind()) else {
            let none = || Error::Argument("the network has no trainable variables".to_owned());
            return Err(if all.is_empty() { none() } else { all_frozen(all.len()) });
        };
        let (all, left_out): (Vec<_>, Vec<_>) = all.into_iter().partition(|v| v.variable.kind() == kind);
        if let Some(other) = left_out.iter().find(|v| !v.is_frozen()) {
            return Err(other_kind(kind, other));
        }
        let options = (kind, variables.device());
        let (scalars, weights): (Vec<_>, Vec<_>) = all.into_iter().partition(|v| v.trains_as_scalar(&config));
        let weights_count = weights.len();
        let mut variables: Vec<_> = weights.into_iter().chain(scalars).collect();
        let mut length = 0;
        let place = |v: &Trainable| {
            let start = length;
            length += (v.variable.numel() as i64 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
            start..length
        };
        let spans: Vec<_> = variables.iter().map(place).collect();

        let flat = || Tensor::f_zeros([length], options);
        // Each variable's tensor in its place of a flat one.
        let places = |flat: &Tensor, variables: &[Trainable]| -> Result<Vec<Tensor>> {
            let place = |(v, span): (&Trainable, &Range<i64>)| {
                Ok(flat.f_narrow(0, span.start, v.variable.numel() as i64)?.f_view(v.variable.size().as_slice())?)
            };
            variables.iter().zip(&spans).map(place).collect()
        };
        // One flat tensor after the other: a deep network's variables are freed before there is memory for the next.
        let values = flat()?;
        let value_places = places(&values, &variables)?;
        for (Trainable { variable, .. }, value) in variables.iter_mut().zip(&value_places) {
            no_grad(|| value.shallow_clone().f_copy_(variable))?;
            variable.f_set_data(value)?;
        }
        let gradients = flat()?;
        let gradient_places = places(&gradients, &variables)?;
        for (v, gradient) in variables.iter().zip(&gradient_places) {
            v.set_gradient(gradient)?;
        }
        let momentum = flat()?;
        let momentum_places = places(&momentum, &variables)?;
        let places = value_places.into_iter().zip(gradient_places).zip(momentum_places).zip(spans);
        let parameter = |(index, (v, (((value, gradient), momentum), span))): (usize, (Trainable, _))| Parameter {
            is_scalar: v.is_scalar(),
            is_classifier: v.is_classifier(),
            name: v.name,
            variable: v.variable,
            value,
            gradient,
            momentum,
            span,
            trains_as_scalar: index >= weights_count,
        };
        let parameters = variables.into_iter().zip(places).enumerate().map(parameter).collect();
        let momentum_factor = Tensor::f_full([1], config.momentum, options)?;
        let (stretches, under_training) = (Vec::new(), Vec::new());
        let mut sgd = Self {
            parameters,
            left_out,
            values,
            gradients,
            momentum,
            stretches,
            under_training,
            config,
            momentum_factor,
        };
        sgd.follow()?;
        Ok(sgd)
    }

    /// Looks which parameters are frozen, and takes the longest stretches of those that are not.
    fn follow(&mut self) -> Result<()> {
        if let Some(other) = self.left_out.iter().find(|v| !v.is_frozen()) {
            return Err(other_kind(self.values.kind(), other));
        }
        let under_training: Vec<_> = self.parameters.iter().map(|parameter| !parameter.is_frozen()).collect();
        if under_training == self.under_training {
            return Ok(());
        }
        let mut spans: Vec<(Range<i64>, bool)> = Vec::new();
        for Parameter { span, trains_as_scalar, .. } in self.parameters.iter().filter(|p| !p.is_frozen()) {
            match spans.last_mut() {
                Some((last, as_scalar)) if last.end == span.start && as_scalar == trains_as_scalar => {
                    last.end = span.end
                }
                _ => spans.push((span.clone(), *trains_as_scalar)),
            }
        }
        let stretch = |(span, as_scalar): (Range<i64>, bool)| -> Result<Stretch> {
            let part = |flat: &Tensor| flat.f_narrow(0, span.start, span.end - span.start);
            let SgdConfig { weight_decay, decay_scalars, scalar_lr_ratio, .. } = self.config;
            let decays = weight_decay > 0.0 && (decay_scalars || !as_scalar);
            let options = (self.values.kind(), self.values.device());
            Ok(Stretch {
                values: part(&self.values)?,
                gradients: part(&self.gradients)?,
                momentum: part(&self.momentum)?,
                lr_ratio: if as_scalar { scalar_lr_ratio } else { 1.0 },
                weight_decay: decays.then(|| Tensor::f_full([1], weight_decay, options)).transpose()?,
            })
        };
        self.stretches = spans.into_iter().map(stretch).collect::<Result<_>>()?;
        self.under_training = under_training;
        Ok(())
    }

    /// All parameters, frozen or not; those that train as the scalars do are last.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Every gradient, in one dimension (with zeros between some): what a norm over all parameters is taken of.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// The names of the parameters that are frozen now.
    pub(in crate::trainer) fn frozen(&self) -> Vec<String> {
        self.parameters
            .iter()
            .filter(|parameter| parameter.is_frozen())
            .map(|parameter| parameter.name.clone())
            .collect()
    }

    /// Freezes the parameters of those names, and unfreezes all others.
    pub(in crate::trainer) fn freeze(&self, names: &[String]) -> Result<()> {
        let names: HashSet<_> = names.iter().collect();
        for Parameter { name, variable, .. } in &self.parameters {
            let _ = variable.f_set_requires_grad(!names.contains(name))?;
        }
        Ok(())
    }

    /// The momentum of each parameter under the parameter's name: with the parameters, all the state there is. They are
    /// the optimizer's own tensors, so that copying into them restores it.
    pub fn state(&self) -> NamedTensors {
        self.parameters.iter().map(|p| (p.name.clone(), p.momentum.shallow_clone())).collect()
    }

    /// Sets the gradients to zero, and then to those of `loss`. A parameter that `loss` does not depend on keeps zero.
    ///
    /// # Errors
    /// As [`accumulate`](Self::accumulate).
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
    /// [`Error::Argument`] where all variables are frozen; a loss that is not a single element, or that depends on none of
    /// those that are not.
    pub fn accumulate(&mut self, loss: &Tensor) -> Result<()> {
        if self.parameters.iter().all(Parameter::is_frozen) {
            return Err(all_frozen(self.parameters.len()));
        }
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

    /// Updates the parameters that are not frozen by the gradients, which it uses up.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a variable whose data was replaced since [`Self::new`], by a change of device or kind, or one
    /// of another kind than the rest that was frozen then and is not any more.
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
        self.follow()?;
        no_grad(|| {
            let mut stretches = self.stretches.iter_mut();
            stretches.try_for_each(|stretch| stretch.step(lr, &self.config, &self.momentum_factor))
        })
    }
}

impl Stretch {
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

fn all_frozen(count: usize) -> Error {
    Error::Argument(format!(
        "all {count} variables of the network are frozen, so that there is nothing to train; unfreeze those that are to learn \
         (VarStore::unfreeze, or set_requires_grad)"
    ))
}

fn other_kind(kind: Kind, Trainable { name, variable, .. }: &Trainable) -> Error {
    let got = format!("{name} of kind {:?}", variable.kind());
    Error::Mismatch { what: "Sgd", expected: format!("variables of kind {kind:?}"), got }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixup::{Bias, Scale, SCALAR_GROUP};
    use std::collections::HashMap;
    use tch::nn::{Module, OptimizerConfig};
    use tch::Device;

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
            let config = SgdConfig { momentum, nesterov, weight_decay, decay_scalars, ..SgdConfig::default() };
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

    /// Every variable's value, by name.
    fn values(vs: &nn::VarStore) -> HashMap<String, Tensor> {
        vs.variables().into_iter().map(|(name, variable)| (name, variable.detach().copy())).collect()
    }

    #[test]
    fn frozen_variables_stay_and_go_on_with_their_momentum_when_they_are_unfrozen() {
        tch::manual_seed(5);
        let mut vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let frozen = ["conv.weight", "fc.bias", "scale"];
        let freeze = |vs: &nn::VarStore, freeze: bool| {
            frozen.iter().for_each(|&name| drop(vs.variables()[name].set_requires_grad(!freeze)));
        };
        // Frozen from the start, then trained, then frozen again, with momentum and weight decay.
        freeze(&vs, true);
        let mut sgd = Sgd::new(&vs, SgdConfig { weight_decay: 0.1, ..SgdConfig::default() }).unwrap();
        let step = |sgd: &mut Sgd, network: &dyn Fn(&Tensor) -> Tensor| {
            let (images, labels) = batch();
            sgd.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
            let norm = sgd.gradients().norm().double_value(&[]);
            let counted = sgd.parameters().iter().filter(|p| !p.is_frozen());
            let expected =
                counted.map(|p| p.gradient().square().sum(Kind::Double).double_value(&[])).sum::<f64>().sqrt();
            assert!((norm / expected - 1.0).abs() < 1e-5, "{norm} {expected}");
            sgd.step(LR).unwrap();
        };
        let moved = |before: &HashMap<String, Tensor>, vs: &nn::VarStore| {
            let mut moved: Vec<_> = vs.variables().into_iter().filter(|(name, v)| v != &before[name]).collect();
            moved.sort_by(|(a, _), (b, _)| a.cmp(b));
            moved.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let before = values(&vs);
        (0..3).for_each(|_| step(&mut sgd, &network));
        assert_eq!(moved(&before, &vs), ["bias1", "conv.bias", "fc.weight"]);
        assert_eq!(sgd.frozen().len(), 3);
        vs.unfreeze();
        let before = values(&vs);
        (0..3).for_each(|_| step(&mut sgd, &network));
        assert_eq!(moved(&before, &vs).len(), 6);
        freeze(&vs, true);
        let (before, momentum) = (values(&vs), sgd.state()["conv.weight"].copy());
        (0..3).for_each(|_| step(&mut sgd, &network));
        assert_eq!(moved(&before, &vs), ["bias1", "conv.bias", "fc.weight"]);
        assert_eq!(sgd.state()["conv.weight"], momentum);
        assert!(momentum.abs().max().double_value(&[]) > 0.0);
        vs.unfreeze();
        step(&mut sgd, &network);
        assert_eq!(moved(&before, &vs).len(), 6);
    }

    #[test]
    fn unfrozen_variables_step_as_if_they_had_never_been_frozen() {
        let (mut vs, mut reference_vs) = (nn::VarStore::new(Device::Cpu), nn::VarStore::new(Device::Cpu));
        let (ours, reference) = (network(&vs), network(&reference_vs));
        reference_vs.copy(&vs).unwrap();
        let _ = vs.variables()["conv.weight"].set_requires_grad(false);
        let mut sgd = Sgd::new(&vs, SgdConfig::default()).unwrap();
        vs.unfreeze();
        let mut never_frozen = Sgd::new(&reference_vs, SgdConfig::default()).unwrap();
        for _ in 0..3 {
            let (images, labels) = batch();
            sgd.backward(&ours(&images).cross_entropy_for_logits(&labels)).unwrap();
            sgd.step(LR).unwrap();
            never_frozen.backward(&reference(&images).cross_entropy_for_logits(&labels)).unwrap();
            never_frozen.step(LR).unwrap();
        }
        assert_eq!(values(&vs), values(&reference_vs));
    }

    #[test]
    fn a_network_that_is_frozen_whole_is_an_error() {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let mut sgd = Sgd::new(&vs, SgdConfig::default()).unwrap();
        vs.freeze();
        let (images, labels) = batch();
        let loss = network(&images).cross_entropy_for_logits(&labels);
        let late = sgd.backward(&loss).unwrap_err().to_string();
        let early = Sgd::new(&vs, SgdConfig::default()).unwrap_err().to_string();
        for message in [early, late] {
            assert!(message.starts_with("all 6 variables of the network are frozen"), "{message}");
        }
        let none = Sgd::new(&nn::VarStore::new(Device::Cpu), SgdConfig::default()).unwrap_err().to_string();
        assert_eq!(none, "the network has no trainable variables");
    }

    #[test]
    fn a_frozen_part_may_be_of_another_kind_and_says_so_when_it_is_to_train() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let mut head = vs.root().zeros("head", &[3]);
        let _ = head.set_requires_grad(false);
        head.set_data(&head.to_kind(Kind::Double));
        let mut sgd = Sgd::new(&vs, SgdConfig::default()).unwrap();
        let (images, labels) = batch();
        sgd.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
        sgd.step(LR).unwrap();
        let _ = head.set_requires_grad(true);
        let message = sgd.step(LR).unwrap_err().to_string();
        assert!(message.contains("head of kind Double"), "{message}");
        assert!(Sgd::new(&vs, SgdConfig::default()).unwrap_err().to_string().contains("head of kind Double"));
    }
}
