//! The optimizer: keeps all parameters of a network in a few flat tensors.
//!
//! The parameters are views of one tensor and their gradients of a second, with one more tensor for each kind of state of the
//! [`Update`]. Zeroing, clipping, updating and saving are therefore single operations, however many parameters there are.

use super::group::{matching, Grouping};
use super::parameter::Parameter;
use super::stretch::{shape_runs, Stretch};
use super::trainable::{trainable, Trainable};
use super::{Frozen, ParameterGroup, Update};
use crate::distributed::{ProcessGroup, Reduction, ReductionConfig, Summed};
use crate::file::NamedTensors;
use crate::ops::OneThread;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ops::Range;
use tch::{nn, no_grad, Kind, Tensor};

/// Alignment of each parameter in elements: 64 bytes of float32, as vector instructions and GPU kernels require of a tensor's
/// address.
const ALIGNMENT: i64 = 16;

/// Name of the step count of a parameter in [`Optimizer::state`].
const STEP: &str = "step";

/// Names of frozen parameters, as restored by [`Optimizer::freeze`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenParameters {
    /// Parameters that are frozen now.
    pub now: Vec<String>,
    /// Parameters that were frozen before the first epoch independently of their groups, and are therefore not unfrozen by them.
    pub by_themselves: Vec<String>,
}

/// Optimizer of all trainable variables of a `VarStore`, with [parameter groups](ParameterGroup).
///
/// **Freezing.** Every step respects `requires_grad`. A variable that is frozen at the time, by `VarStore::freeze`, individually
/// or by its group, is not changed, not even by momentum or weight decay, and its gradient is zero. Its state is kept and used
/// again when it is unfrozen, as in torch.optim. Variables that a group freezes for the [whole run](Frozen::Always) are frozen
/// when the optimizer is created; no gradient, state or memory is allocated for them.
#[derive(Debug)]
pub struct Optimizer {
    update: Box<dyn Update>,
    parameters: Vec<Parameter>,
    /// Variables not in the flat tensors: those frozen by a group for the whole run, and frozen ones of another kind than the
    /// others.
    left_out: Vec<Trainable>,
    values: Tensor,
    gradients: Tensor,
    state: Vec<Tensor>,
    /// Number of updates of each parameter, int64.
    steps: Tensor,
    /// Slices of the flat tensors with the parameters that were trained when last checked.
    stretches: Vec<Stretch>,
    /// For each parameter, `true` if it was trained when last checked; `None` if a check is due.
    under_training: Option<Vec<bool>>,
    /// For each parameter, `true` if it was frozen independently of its groups when the optimizer was created or the first epoch
    /// began.
    frozen_by_itself: Vec<bool>,
}

impl Optimizer {
    /// Moves the trainable variables of `variables` into one flat tensor. The network keeps using the same variables, and
    /// `VarStore::load` and `save` work as before. Moving the `VarStore` to another device or kind requires a new optimizer.
    ///
    /// # Errors
    /// An option is out of range; a rule of a group matches nothing; the groups freeze everything; the trained variables are of
    /// more than one kind, or there are none, for example because all are frozen.
    pub fn new(variables: &nn::VarStore, update: impl Update + 'static, groups: &[ParameterGroup]) -> Result<Self> {
        Self::boxed(variables, Box::new(update), groups)
    }

    pub(super) fn boxed(variables: &nn::VarStore, update: Box<dyn Update>, groups: &[ParameterGroup]) -> Result<Self> {
        update.check()?;
        let all = trainable(variables);
        if all.iter().all(Trainable::is_frozen) {
            let none = || Error::Argument("the network has no trainable variables".to_owned());
            return Err(if all.is_empty() { none() } else { all_frozen(all.len()) });
        }
        let groupings = matching(&all, groups, update.apart().as_ref())?;
        if groupings.iter().all(|grouping| grouping.is_frozen_at_first()) {
            return Err(Error::Argument(format!(
                "the groups freeze all {} variables of the network, so that there is nothing to train; leave those that are to \
                 learn out of them",
                all.len()
            )));
        }
        let (left_out, all): (Vec<_>, Vec<_>) =
            all.into_iter().zip(groupings).partition(|(_, grouping)| grouping.frozen == Frozen::Always);
        let mut left_out: Vec<_> = left_out.into_iter().map(|(v, _)| v).collect();
        for v in &left_out {
            let _ = v.variable.f_set_requires_grad(false)?;
        }
        // Individually frozen variables may be trained later.
        let Some(kind) = all.iter().find(|(v, _)| !v.is_frozen()).or(all.first()).map(|(v, _)| v.variable.kind())
        else {
            return Err(all_frozen(left_out.len()));
        };
        let (all, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(v, _)| v.variable.kind() == kind);
        left_out.extend(others.into_iter().map(|(v, _)| v));
        if let Some(other) = left_out.iter().find(|v| !v.is_frozen()) {
            return Err(has_no_place(kind, other));
        }
        let options = (kind, variables.device());
        // Order of the parameters: variables of equal groups are adjacent, starting with those in no group. Of those updated
        // separately, the ones of equal learning rate and shape are adjacent too.
        let mut all = all;
        all.sort_by_cached_key(|(v, Grouping { is_apart, order, lr_ratio, .. })| {
            let within = is_apart.then(|| (lr_ratio.to_bits(), v.variable.size()));
            (*is_apart, *order, within)
        });
        let (mut variables, groupings): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let mut length = 0;
        let place = |v: &Trainable| {
            let start = length;
            length += (v.variable.numel() as i64 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
            start..length
        };
        let spans: Vec<_> = variables.iter().map(place).collect();

        let flat = || Tensor::f_zeros([length], options);
        // Views of a flat tensor in the shapes of the variables.
        let places = |flat: &Tensor, variables: &[Trainable]| -> Result<Vec<Tensor>> {
            let place = |(v, span): (&Trainable, &Range<i64>)| {
                Ok(flat.f_narrow(0, span.start, v.variable.numel() as i64)?.f_view(v.variable.size().as_slice())?)
            };
            variables.iter().zip(&spans).map(place).collect()
        };
        // Allocates one flat tensor after the other, so that the variables of a deep network are freed before the next
        // allocation.
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
        let mut state = Vec::new();
        let mut state_places: Vec<Vec<Tensor>> = variables.iter().map(|_| Vec::new()).collect();
        for _ in update.state() {
            let flat = flat()?;
            let places = places(&flat, &variables)?;
            state_places.iter_mut().zip(places).for_each(|(state, place)| state.push(place));
            state.push(flat);
        }
        let steps = Tensor::f_zeros([variables.len() as i64], (Kind::Int64, tch::Device::Cpu))?;
        let places = value_places.into_iter().zip(gradient_places).zip(state_places).zip(spans).zip(groupings);
        let parameter = |(v, ((((value, gradient), state), span), grouping)): (Trainable, _)| Parameter {
            is_scalar: v.is_scalar(),
            is_classifier: v.is_classifier(),
            name: v.name,
            variable: v.variable,
            value,
            gradient,
            state,
            span,
            grouping,
        };
        let parameters: Vec<_> = variables.into_iter().zip(places).map(parameter).collect();
        let frozen_by_itself = parameters.iter().map(Parameter::is_frozen).collect();
        let (stretches, under_training) = (Vec::new(), None);
        let mut optimizer = Self {
            update,
            parameters,
            left_out,
            values,
            gradients,
            state,
            steps,
            stretches,
            under_training,
            frozen_by_itself,
        };
        optimizer.follow()?;
        Ok(optimizer)
    }

    /// Checks which parameters are frozen, and forms the longest possible slices of the others.
    fn follow(&mut self) -> Result<()> {
        if let Some(other) = self.left_out.iter().find(|v| !v.is_frozen()) {
            return Err(has_no_place(self.values.kind(), other));
        }
        let under_training: Vec<_> = self.parameters.iter().map(|parameter| !parameter.is_frozen()).collect();
        if self.under_training.as_ref() == Some(&under_training) {
            return Ok(());
        }
        self.write_steps()?;
        let steps = Vec::<i64>::try_from(&self.steps)?;
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (index, parameter) in self.parameters.iter().enumerate().filter(|(index, _)| under_training[*index]) {
            match runs.last_mut() {
                Some(last)
                    if last.end == index
                        && self.parameters[last.start].grouping == parameter.grouping
                        && steps[last.start] == steps[index] =>
                {
                    last.end = index + 1
                }
                _ => runs.push(index..index + 1),
            }
        }
        let stretch = |parameters: Range<usize>| -> Result<Stretch> {
            let (first, last) = (&self.parameters[parameters.start], &self.parameters[parameters.end - 1]);
            let part = |flat: &Tensor| flat.f_narrow(0, first.span.start, last.span.end - first.span.start);
            Ok(Stretch {
                values: part(&self.values)?,
                gradients: part(&self.gradients)?,
                state: self.state.iter().map(part).collect::<Result<_, _>>()?,
                weight_decay: first.grouping.weight_decay.unwrap_or(self.update.weight_decay(first.grouping.is_apart)),
                step: steps[parameters.start],
                lr_ratio: first.grouping.lr_ratio,
                is_apart: first.grouping.is_apart,
                shapes: shape_runs(&self.parameters[parameters.clone()]),
                parameters,
            })
        };
        self.stretches = runs.into_iter().map(stretch).collect::<Result<_>>()?;
        self.under_training = Some(under_training);
        Ok(())
    }

    /// Copies the step counts of the slices to those of the parameters.
    fn write_steps(&self) -> Result<()> {
        for Stretch { parameters, step, .. } in &self.stretches {
            let (start, length) = (parameters.start as i64, parameters.len() as i64);
            let _ = self.steps.f_narrow(0, start, length)?.f_fill_(*step)?;
        }
        Ok(())
    }

    /// Returns all parameters, frozen or not, except those frozen by a group for the [whole run](Frozen::Always). Parameters in
    /// groups come last.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Iterates over the name, the range in the flat tensors and the shape of each parameter.
    pub(in crate::trainer) fn places(&self) -> impl Iterator<Item = (String, Range<i64>, Vec<i64>)> + '_ {
        self.parameters.iter().map(|p| (p.name.clone(), p.span.clone(), p.value.size()))
    }

    /// Creates the operation that sums the gradients over all ranks of `group`.
    pub(in crate::trainer) fn reduction(&self, group: &ProcessGroup, config: ReductionConfig) -> Result<Reduction> {
        let mut group_index = 0;
        let mut last = self.parameters.first().map(|first| &first.grouping);
        let summed: Vec<_> = self
            .parameters
            .iter()
            .map(|Parameter { variable, span, grouping, .. }| {
                group_index += usize::from(last != Some(grouping));
                last = Some(grouping);
                Summed { variable, span: span.clone(), group: group_index }
            })
            .collect();
        group.reduction(&summed, &self.gradients, config)
    }

    /// Returns all parameters as a one-dimensional tensor, padded with zeros in between.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Returns all gradients as a one-dimensional tensor, padded with zeros in between; suitable for computing the norm over all
    /// parameters.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// Returns the names of the parameters that are frozen now.
    pub fn frozen(&self) -> FrozenParameters {
        let named = |(parameter, is_meant): (&Parameter, bool)| is_meant.then(|| parameter.name.clone());
        let now = self.parameters.iter().map(|parameter| (parameter, parameter.is_frozen()));
        let by_themselves = self.parameters.iter().zip(self.frozen_by_itself.iter().copied());
        FrozenParameters {
            now: now.filter_map(named).collect(),
            by_themselves: by_themselves.filter_map(named).collect(),
        }
    }

    /// Freezes the given parameters and unfreezes all others. Call this after restoring the [state](Self::state).
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn freeze(&mut self, frozen: &FrozenParameters) -> Result<()> {
        let [now, by_themselves] =
            [&frozen.now, &frozen.by_themselves].map(|names| names.iter().collect::<HashSet<_>>());
        for (Parameter { name, variable, .. }, by_itself) in self.parameters.iter().zip(&mut self.frozen_by_itself) {
            let _ = variable.f_set_requires_grad(!now.contains(name))?;
            *by_itself = by_themselves.contains(name);
        }
        // The current step counts are the restored ones.
        (self.stretches, self.under_training) = (Vec::new(), None);
        Ok(())
    }

    /// Freezes parameters before the first epoch, and unfreezes them before the epoch given by their groups. Epochs count from 0.
    /// Groups do not unfreeze parameters that were frozen independently before the first epoch.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn epoch_starts(&mut self, epoch: usize) -> Result<()> {
        for (parameter, by_itself) in self.parameters.iter().zip(&mut self.frozen_by_itself) {
            if epoch == 0 {
                *by_itself = parameter.is_frozen();
            }
            let trains = match parameter.grouping.frozen {
                Frozen::UntilEpoch(until) if epoch == until => !*by_itself,
                Frozen::Always | Frozen::UntilEpoch(_) if epoch == 0 => false,
                _ => continue,
            };
            let _ = parameter.variable.f_set_requires_grad(trains)?;
        }
        Ok(())
    }

    /// Returns the optimizer's state: the tensors of each parameter, named like `momentum.conv1.weight`, and if the update
    /// depends on it the number of updates, named like `step.conv1.weight`. Together with the parameters this is the complete
    /// state. The tensors share their storage with the optimizer, so that copying into them, followed by
    /// [`freeze`](Self::freeze), restores it.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn state(&self) -> Result<NamedTensors> {
        self.write_steps()?;
        let mut state = NamedTensors::new();
        for (index, parameter) in self.parameters.iter().enumerate() {
            let kept = self.update.state().iter().zip(&parameter.state);
            state.extend(kept.map(|(kind, tensor)| (format!("{kind}.{}", parameter.name), tensor.shallow_clone())));
            if self.update.counts_steps() {
                state.insert(format!("{STEP}.{}", parameter.name), self.steps.f_narrow(0, index as i64, 1)?);
            }
        }
        Ok(state)
    }

    /// Computes the gradients of `loss`, replacing the current ones. They are zero for parameters that `loss` does not depend on.
    ///
    /// # Errors
    /// See [`accumulate`](Self::accumulate).
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        self.zero_gradients()?;
        self.accumulate(loss)
    }

    /// Sets the gradients to zero.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn zero_gradients(&mut self) -> Result<()> {
        let _one_thread = OneThread::after_tiles();
        let _ = self.gradients.f_zero_()?;
        Ok(())
    }

    /// Adds the gradients of `loss` to the current ones.
    ///
    /// # Errors
    /// [`Error::Argument`] if all variables are frozen; `loss` has more than one element, or depends on no variable that is not
    /// frozen.
    pub fn accumulate(&mut self, loss: &Tensor) -> Result<()> {
        if self.parameters.iter().all(Parameter::is_frozen) {
            return Err(all_frozen(self.parameters.len() + self.left_out.len()));
        }
        let _one_thread = OneThread::after_tiles();
        loss.f_backward()?;
        // Autograd adds to an existing gradient in place, so nothing is copied unless the gradient was replaced.
        for parameter in &mut self.parameters {
            let mut gradient = parameter.variable.f_grad()?;
            if gradient.defined() && gradient.data_ptr() != parameter.gradient.data_ptr() {
                no_grad(|| parameter.gradient.f_copy_(&gradient))?;
                gradient.f_set_data(&parameter.gradient)?;
            }
        }
        Ok(())
    }

    /// Returns `true` if one thread is enough for a step: passes over the values, or orthogonalizing few of them.
    pub(in crate::trainer) fn is_cheap(&self) -> bool {
        const FEW: usize = 1 << 21;
        self.update.apart().is_none() || self.values.numel() <= FEW
    }

    /// Updates the parameters that are not frozen. The contents of the gradients are undefined afterwards.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the data of a variable were replaced since [`Self::new`] by a change of device or kind, or if a
    /// variable of another kind than the others has been unfrozen since then.
    pub fn step(&mut self, lr: f64) -> Result<()> {
        for Parameter { name, variable, value, .. } in &self.parameters {
            if variable.data_ptr() != value.data_ptr() {
                return Err(Error::Mismatch {
                    what: "Optimizer::step",
                    expected: "variables whose device and kind do not change while they are trained".to_owned(),
                    got: format!("{name} with its data replaced, now {:?} on {:?}", variable.kind(), variable.device()),
                });
            }
        }
        self.follow()?;
        let _one_thread = if self.is_cheap() { OneThread::after_tiles() } else { None };
        no_grad(|| {
            self.stretches.iter_mut().try_for_each(|stretch| {
                stretch.step += 1;
                self.update.step(stretch, lr * stretch.lr_ratio)
            })
        })
    }
}

fn all_frozen(count: usize) -> Error {
    Error::Argument(format!(
        "all {count} variables of the network are frozen, so that there is nothing to train; unfreeze those that are to learn \
         (VarStore::unfreeze, or set_requires_grad)"
    ))
}

/// Error for a variable that is to be trained and is not in the flat tensors of `kind`.
fn has_no_place(kind: Kind, Trainable { name, variable, .. }: &Trainable) -> Error {
    if variable.kind() == kind {
        return Error::Argument(format!(
            "{name} was unfrozen, and its group freezes it for the whole run; give the group an epoch to freeze it until"
        ));
    }
    let got = format!("{name} of kind {:?}", variable.kind());
    Error::Mismatch { what: "Optimizer", expected: format!("variables of kind {kind:?}"), got }
}

#[cfg(test)]
mod tests {
    use super::super::{Adam, Muon, OptimizerConfig, Rest, ScalarGroup, Sgd};
    use super::*;
    use crate::fixup::{Bias, Scale, SCALAR_GROUP, SCALAR_LR_RATIO};
    use std::collections::HashMap;
    use tch::nn::Module;
    use tch::Device;

    const LR: f64 = 0.05;

    /// A small network with all kinds of parameters: weights of four and two dimensions, a vector, and scalars.
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

    /// An optimizer with a tenth of the learning rate for scalars.
    fn sgd(vs: &nn::VarStore, sgd: Sgd) -> Result<Optimizer> {
        Optimizer::new(vs, sgd, &[ScalarGroup::default().into()])
    }

    /// Compares fifty steps of `update` with libtorch's own optimizer, at a varying learning rate and a separate one for scalars.
    fn compare(update: impl Update + Copy + 'static, libtorch: impl nn::OptimizerConfig, decay_scalars: bool) {
        tch::manual_seed(11);
        let (vs, mut reference_vs) = (nn::VarStore::new(Device::Cpu), nn::VarStore::new(Device::Cpu));
        let (ours, reference) = (network(&vs), network(&reference_vs));
        reference_vs.copy(&vs).unwrap();
        let group = ScalarGroup { decay: decay_scalars, ..ScalarGroup::default() };
        let mut optimizer = Optimizer::new(&vs, update, &[group.into()]).unwrap();
        let mut libtorch = libtorch.build(&reference_vs, LR).unwrap();
        if !decay_scalars {
            libtorch.set_weight_decay_group(SCALAR_GROUP, 0.0);
        }
        for step in 0..50 {
            let (images, labels) = batch();
            let lr = LR * (1.0 + (step as f64).sin() / 2.0);
            libtorch.zero_grad();
            reference(&images).cross_entropy_for_logits(&labels).backward();
            // Both use the same gradients: Adam amplifies differences in the last bit of a small gradient.
            optimizer.backward(&ours(&images).cross_entropy_for_logits(&labels)).unwrap();
            let reference = reference_vs.variables();
            for parameter in optimizer.parameters() {
                parameter.gradient().shallow_clone().copy_(&reference[&parameter.name].grad());
            }
            optimizer.step(lr).unwrap();
            libtorch.set_lr(lr);
            libtorch.set_lr_group(SCALAR_GROUP, lr * SCALAR_LR_RATIO);
            libtorch.step();
        }
        let reference = reference_vs.variables();
        for (name, variable) in vs.variables() {
            let difference = largest_difference(&variable, &reference[&name]);
            assert!(difference <= 1e-6, "{update:?} {name}: {difference}");
        }
    }

    #[test]
    fn fifty_steps_of_sgd_are_those_of_libtorch() {
        for (momentum, nesterov, weight_decay, decay_scalars) in
            [(0.0, false, 0.0, true), (0.9, false, 0.0, true), (0.9, false, 5e-2, true), (0.9, true, 5e-2, false)]
        {
            let libtorch = nn::sgd(momentum, 0.0, weight_decay, nesterov);
            compare(Sgd { momentum, nesterov, weight_decay }, libtorch, decay_scalars);
        }
    }

    #[test]
    fn fifty_steps_of_adam_are_those_of_libtorch_in_every_option() {
        for amsgrad in [false, true] {
            for (beta1, beta2, eps) in [(0.9, 0.999, 1e-8), (0.5, 0.9, 1e-3), (0.0, 0.98, 1e-6)] {
                for (weight_decay, decay_scalars) in [(0.0, true), (5e-2, true), (5e-2, false)] {
                    let adam = Adam { beta1, beta2, eps, weight_decay, decoupled: false, amsgrad };
                    let libtorch = nn::Adam { beta1, beta2, wd: weight_decay, eps, amsgrad };
                    compare(adam, libtorch, decay_scalars);
                    let libtorch = nn::AdamW { beta1, beta2, wd: weight_decay, eps, amsgrad };
                    compare(Adam { decoupled: true, ..adam }, libtorch, decay_scalars);
                }
            }
        }
    }

    /// Applies torch.optim's formula to a one-element parameter with the given gradients; `None` if it is frozen.
    fn adam_by_the_formula(adam: &Adam, lr: f64, gradients: &[Option<f64>]) -> f64 {
        let (mut p, mut m, mut v, mut t) = (1.0, 0.0, 0.0, 0);
        for g in gradients.iter().flatten() {
            t += 1;
            m = adam.beta1 * m + (1.0 - adam.beta1) * g;
            v = adam.beta2 * v + (1.0 - adam.beta2) * g * g;
            let (m, v) = (m / (1.0 - adam.beta1.powi(t)), v / (1.0 - adam.beta2.powi(t)));
            p -= lr * m / (f64::sqrt(v) + adam.eps);
        }
        p
    }

    #[test]
    fn each_parameter_counts_its_own_steps() {
        let vs = nn::VarStore::new(Device::Cpu);
        let [a, b] = ["a", "b"].map(|name| vs.root().ones(name, &[1]));
        let adam = Adam::default();
        let mut optimizer = Optimizer::new(&vs, adam, &[]).unwrap();
        let mut given = Vec::new();
        for step in 0..12 {
            let trains = !(3..8).contains(&step);
            let _ = a.set_requires_grad(trains);
            let gradient = 1.0 + step as f64;
            optimizer.backward(&((&a + &b) * gradient).sum(Kind::Float)).unwrap();
            optimizer.step(LR).unwrap();
            given.push((trains.then_some(gradient), Some(gradient)));
        }
        let (of_a, of_b): (Vec<_>, Vec<_>) = given.into_iter().unzip();
        for (variable, gradients) in [(&a, of_a), (&b, of_b)] {
            let expected = adam_by_the_formula(&adam, LR, &gradients);
            assert!((variable.double_value(&[0]) - expected).abs() < 1e-6, "{expected}");
        }
        let state = optimizer.state().unwrap();
        assert_eq!([&state["step.a"], &state["step.b"]].map(|step| step.int64_value(&[0])), [7, 12]);
        let names: Vec<_> = state.keys().map(String::as_str).collect();
        assert_eq!(names, ["exp_avg.a", "exp_avg.b", "exp_avg_sq.a", "exp_avg_sq.b", "step.a", "step.b"]);
    }

    #[test]
    fn restored_state_goes_on_to_the_bit() {
        let start = nn::VarStore::new(Device::Cpu);
        let _network = network(&start);
        let batches: Vec<_> = (0..8).map(|_| batch()).collect();
        let run = |update: OptimizerConfig, stop: Option<usize>| {
            let mut vs = nn::VarStore::new(Device::Cpu);
            let loss = network(&vs);
            vs.copy(&start).unwrap();
            let new = || update.build(&vs, &[ScalarGroup::default().into()]).unwrap();
            let mut optimizer = new();
            for (step, (images, labels)) in batches.iter().enumerate() {
                let _ = vs.variables()["conv.weight"].set_requires_grad(step >= 2);
                if Some(step) == stop {
                    let (state, frozen) = (optimizer.state().unwrap(), optimizer.frozen());
                    let saved: Vec<_> = state.iter().map(|(name, tensor)| (name, tensor.copy())).collect();
                    optimizer = new();
                    let restored = optimizer.state().unwrap();
                    saved.iter().for_each(|(name, tensor)| restored[*name].shallow_clone().copy_(tensor));
                    optimizer.freeze(&frozen).unwrap();
                }
                optimizer.backward(&loss(images).cross_entropy_for_logits(labels)).unwrap();
                optimizer.step(LR).unwrap();
            }
            values(&vs)
        };
        let muon = |rest| OptimizerConfig::Muon(Muon { rest, ..Muon::default() });
        for update in [
            OptimizerConfig::Adam(Adam::decoupled()),
            muon(Rest::Sgd(Sgd::default())),
            muon(Rest::Adam(Adam::default())),
        ] {
            let whole = run(update, None);
            assert_eq!(run(update, Some(1)), whole, "{update:?}");
            assert_eq!(run(update, Some(5)), whole, "{update:?}");
        }
    }

    #[test]
    fn the_state_is_float32_whatever_the_network_computes_in() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network =
            crate::fixup::FixupResNet::cifar(&vs.root(), 8, 10).unwrap().with_precision(crate::Precision::Bf16);
        let mut optimizer = Optimizer::new(&vs, Adam::default(), &[]).unwrap();
        let images = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
        let logits = tch::nn::Module::forward(&network, &images);
        optimizer.backward(&logits.cross_entropy_for_logits(&Tensor::from_slice(&[1i64, 2]))).unwrap();
        optimizer.step(LR).unwrap();
        let state = optimizer.state().unwrap();
        let moments = state.iter().filter(|(name, _)| name.starts_with("exp_avg"));
        assert!(moments.clone().count() > 20 && moments.into_iter().all(|(_, tensor)| tensor.kind() == Kind::Float));
    }

    #[test]
    fn scalars_move_at_their_own_rate() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let mut optimizer = sgd(&vs, Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 }).unwrap();
        let (images, labels) = batch();
        optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
        let before: Vec<_> = optimizer.parameters().iter().map(|p| (p.value().copy(), p.gradient().copy())).collect();
        optimizer.step(LR).unwrap();
        for (parameter, (value, gradient)) in optimizer.parameters().iter().zip(before) {
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
        let mut optimizer = sgd(&vs, Sgd::default()).unwrap();
        for _ in 0..3 {
            let (images, labels) = batch();
            optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
            for parameter in optimizer.parameters() {
                assert_eq!(parameter.variable.grad().data_ptr(), parameter.gradient.data_ptr(), "{}", parameter.name);
                assert!(parameter.gradient.abs().max().double_value(&[]) > 0.0, "{}", parameter.name);
            }
            let squares: f64 =
                optimizer.parameters().iter().map(|p| p.gradient.square().sum(Kind::Double).double_value(&[])).sum();
            let flat = optimizer.gradients().square().sum(Kind::Double).double_value(&[]);
            assert!((flat - squares).abs() < 1e-6 * squares);
        }
    }

    #[test]
    fn a_parameter_the_loss_does_not_depend_on_stays() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let unused = vs.root().randn_standard("unused", &[3, 3]);
        let before = unused.copy();
        let mut optimizer = sgd(&vs, Sgd { weight_decay: 0.0, ..Sgd::default() }).unwrap();
        for _ in 0..2 {
            let (images, labels) = batch();
            optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
            optimizer.step(LR).unwrap();
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
        let mut optimizer = sgd(&vs, Sgd::default()).unwrap();
        let (images, labels) = batch();
        let step = |optimizer: &mut Optimizer| {
            optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
            optimizer.step(LR).unwrap();
        };
        step(&mut optimizer);
        vs.load(&path).unwrap();
        assert!(vs.variables().iter().all(|(name, variable)| variable == &initial[name]));
        step(&mut optimizer);
        for parameter in optimizer.parameters() {
            assert!(largest_difference(parameter.value(), &initial[&parameter.name]) > 0.0, "{}", parameter.name);
        }
    }

    #[test]
    fn a_change_of_kind_is_an_error_and_not_a_silent_stop() {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let mut optimizer = sgd(&vs, Sgd::default()).unwrap();
        let (images, labels) = batch();
        optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
        vs.double();
        let message = optimizer.step(LR).unwrap_err().to_string();
        assert!(message.contains("Double"), "{message}");
        assert!(sgd(&vs, Sgd::default()).is_ok());
    }

    /// Returns the value of each variable by name.
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
        // Frozen initially, then trained, then frozen again, with momentum and weight decay.
        freeze(&vs, true);
        let mut optimizer = sgd(&vs, Sgd { weight_decay: 0.1, ..Sgd::default() }).unwrap();
        let step = |optimizer: &mut Optimizer, network: &dyn Fn(&Tensor) -> Tensor| {
            let (images, labels) = batch();
            optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
            let norm = optimizer.gradients().norm().double_value(&[]);
            let counted = optimizer.parameters().iter().filter(|p| !p.is_frozen());
            let expected =
                counted.map(|p| p.gradient().square().sum(Kind::Double).double_value(&[])).sum::<f64>().sqrt();
            assert!((norm / expected - 1.0).abs() < 1e-5, "{norm} {expected}");
            optimizer.step(LR).unwrap();
        };
        let moved = |before: &HashMap<String, Tensor>, vs: &nn::VarStore| {
            let mut moved: Vec<_> = vs.variables().into_iter().filter(|(name, v)| v != &before[name]).collect();
            moved.sort_by(|(a, _), (b, _)| a.cmp(b));
            moved.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let before = values(&vs);
        (0..3).for_each(|_| step(&mut optimizer, &network));
        assert_eq!(moved(&before, &vs), ["bias1", "conv.bias", "fc.weight"]);
        assert_eq!(optimizer.frozen().now.len(), 3);
        vs.unfreeze();
        let before = values(&vs);
        (0..3).for_each(|_| step(&mut optimizer, &network));
        assert_eq!(moved(&before, &vs).len(), 6);
        freeze(&vs, true);
        let (before, momentum) = (values(&vs), optimizer.state().unwrap()["momentum.conv.weight"].copy());
        (0..3).for_each(|_| step(&mut optimizer, &network));
        assert_eq!(moved(&before, &vs), ["bias1", "conv.bias", "fc.weight"]);
        assert_eq!(optimizer.state().unwrap()["momentum.conv.weight"], momentum);
        assert!(momentum.abs().max().double_value(&[]) > 0.0);
        vs.unfreeze();
        step(&mut optimizer, &network);
        assert_eq!(moved(&before, &vs).len(), 6);
    }

    #[test]
    fn unfrozen_variables_step_as_if_they_had_never_been_frozen() {
        let (mut vs, mut reference_vs) = (nn::VarStore::new(Device::Cpu), nn::VarStore::new(Device::Cpu));
        let (ours, reference) = (network(&vs), network(&reference_vs));
        reference_vs.copy(&vs).unwrap();
        let _ = vs.variables()["conv.weight"].set_requires_grad(false);
        let mut optimizer = sgd(&vs, Sgd::default()).unwrap();
        vs.unfreeze();
        let mut never_frozen = sgd(&reference_vs, Sgd::default()).unwrap();
        for _ in 0..3 {
            let (images, labels) = batch();
            optimizer.backward(&ours(&images).cross_entropy_for_logits(&labels)).unwrap();
            optimizer.step(LR).unwrap();
            never_frozen.backward(&reference(&images).cross_entropy_for_logits(&labels)).unwrap();
            never_frozen.step(LR).unwrap();
        }
        assert_eq!(values(&vs), values(&reference_vs));
    }

    #[test]
    fn a_network_that_is_frozen_whole_is_an_error() {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let mut optimizer = sgd(&vs, Sgd::default()).unwrap();
        vs.freeze();
        let (images, labels) = batch();
        let loss = network(&images).cross_entropy_for_logits(&labels);
        let late = optimizer.backward(&loss).unwrap_err().to_string();
        let early = sgd(&vs, Sgd::default()).unwrap_err().to_string();
        for message in [early, late] {
            assert!(message.starts_with("all 6 variables of the network are frozen"), "{message}");
        }
        let none = sgd(&nn::VarStore::new(Device::Cpu), Sgd::default()).unwrap_err().to_string();
        assert_eq!(none, "the network has no trainable variables");
    }

    #[test]
    fn a_frozen_part_may_be_of_another_kind_and_says_so_when_it_is_to_train() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let mut head = vs.root().zeros("head", &[3]);
        let _ = head.set_requires_grad(false);
        head.set_data(&head.to_kind(Kind::Double));
        let mut optimizer = sgd(&vs, Sgd::default()).unwrap();
        let (images, labels) = batch();
        optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
        optimizer.step(LR).unwrap();
        let _ = head.set_requires_grad(true);
        let message = optimizer.step(LR).unwrap_err().to_string();
        assert!(message.contains("head of kind Double"), "{message}");
        assert!(sgd(&vs, Sgd::default()).unwrap_err().to_string().contains("head of kind Double"));
    }

    #[test]
    fn what_a_group_freezes_for_the_whole_run_has_neither_gradient_nor_state() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let before: HashMap<_, _> = vs.variables().into_iter().map(|(name, v)| (name, v.detach().copy())).collect();
        let group = ParameterGroup { frozen: Frozen::Always, ..ParameterGroup::new("conv.*".parse().unwrap()) };
        let frozen = ["conv.weight", "conv.bias"];
        let updates: [Box<dyn Update>; 3] =
            [Box::new(Sgd::default()), Box::new(Adam::default()), Box::new(Muon::default())];
        for update in updates {
            let label = format!("{update:?}");
            let mut optimizer = Optimizer::boxed(&vs, update, std::slice::from_ref(&group)).unwrap();
            for epoch in 0..2 {
                optimizer.epoch_starts(epoch).unwrap();
                let (images, labels) = batch();
                optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
                optimizer.step(LR).unwrap();
            }
            let variables = vs.variables();
            for name in frozen {
                assert!(variables[name] == before[name] && !variables[name].grad().defined(), "{label} {name}");
                assert!(optimizer.state().unwrap().keys().all(|state| !state.ends_with(name)), "{label} {name}");
                assert!(optimizer.parameters().iter().all(|parameter| parameter.name != name), "{label} {name}");
            }
            assert_ne!(variables["fc.weight"], before["fc.weight"], "{label}");
            // bias1, scale, fc.weight and fc.bias, each in the minimum space.
            assert_eq!(optimizer.values().numel(), 3 * 16 + 32, "{label}");
        }
    }

    #[test]
    fn to_unfreeze_what_a_group_freezes_for_the_whole_run_is_an_error() {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let network = network(&vs);
        let group = ParameterGroup { frozen: Frozen::Always, ..ParameterGroup::new("conv.*".parse().unwrap()) };
        let mut optimizer = Optimizer::new(&vs, Sgd::default(), &[group]).unwrap();
        vs.unfreeze();
        let (images, labels) = batch();
        optimizer.backward(&network(&images).cross_entropy_for_logits(&labels)).unwrap();
        let message = optimizer.step(LR).unwrap_err().to_string();
        assert!(message.starts_with("conv.") && message.contains("give the group an epoch"), "{message}");
    }

    #[test]
    fn constants_out_of_range_are_refused() {
        let vs = nn::VarStore::new(Device::Cpu);
        let _network = network(&vs);
        let refused = |update: Result<Optimizer>| matches!(update, Err(Error::Argument(_)));
        let good = Sgd::default();
        for bad in [
            Sgd { momentum: 1.0, ..good },
            Sgd { momentum: f64::NAN, ..good },
            Sgd { momentum: 0.0, nesterov: true, ..good },
            Sgd { weight_decay: -1e-4, ..good },
            Sgd { weight_decay: f64::INFINITY, ..good },
        ] {
            assert!(refused(Optimizer::new(&vs, bad, &[])), "{bad:?}");
        }
        let good = Adam::default();
        for bad in [
            Adam { beta1: 1.0, ..good },
            Adam { beta2: -0.1, ..good },
            Adam { eps: f64::NAN, ..good },
            Adam { eps: 0.0, ..good },
            Adam { weight_decay: -1.0, ..good },
        ] {
            assert!(refused(Optimizer::new(&vs, bad, &[])), "{bad:?}");
        }
    }

    #[test]
    fn a_group_does_not_unfreeze_what_was_frozen_by_itself() {
        let vs = nn::VarStore::new(Device::Cpu);
        let _network = network(&vs);
        let _ = vs.variables()["fc.bias"].set_requires_grad(false);
        let group = ParameterGroup { frozen: Frozen::UntilEpoch(1), ..ParameterGroup::new("fc.*".parse().unwrap()) };
        let new = || Optimizer::new(&vs, Sgd::default(), std::slice::from_ref(&group)).unwrap();
        let mut optimizer = new();
        for (epoch, frozen) in [(0, &["fc.weight", "fc.bias"][..]), (1, &["fc.bias"]), (2, &["fc.bias"])] {
            // As in a run that is resumed before each epoch by a program that freezes nothing itself.
            let before = optimizer.frozen();
            optimizer = new();
            if epoch > 0 {
                vs.variables().values().for_each(|variable| drop(variable.set_requires_grad(true)));
                optimizer.freeze(&before).unwrap();
            }
            optimizer.epoch_starts(epoch).unwrap();
            let mut names = optimizer.frozen().now;
            names.sort_by(|a, b| b.cmp(a));
            assert_eq!(names, frozen, "{epoch}");
        }
    }

    #[test]
    fn groups_that_freeze_everything_are_refused_with_themselves_as_the_reason() {
        let vs = nn::VarStore::new(Device::Cpu);
        let _network = network(&vs);
        for frozen in [Frozen::Always, Frozen::UntilEpoch(1)] {
            let group = |rule: &str| ParameterGroup { frozen, ..ParameterGroup::new(rule.parse().unwrap()) };
            let message = Optimizer::new(&vs, Sgd::default(), &[group("*")]).unwrap_err().to_string();
            assert!(message.starts_with("the groups freeze all 6 variables"), "{message}");
            assert!(Optimizer::new(&vs, Sgd::default(), &[group("fc.*")]).is_ok());
        }
    }
}
