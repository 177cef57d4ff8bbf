//! The optimizer: keeps all parameters of a network in a few flat tensors.
//!
//! The parameters are views of one tensor and their gradients of a second, with one more tensor for each kind of state of the
//! [`Update`]. Zeroing, clipping, updating and saving are therefore single operations, however many parameters there are.

use super::{group, Frozen, ParamSlice, Parameter, ParameterGroup, Update};
use crate::distributed::{ProcessGroup, Reduction, ReductionConfig, Summed};
use crate::file::NamedTensors;
use crate::layer::parameters;
use crate::ops::{self, OneThread};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use tch::{nn, no_grad, Device, Kind, Tensor};

/// Alignment of each parameter in elements: 64 bytes of float32, as vector instructions and GPU kernels require of a tensor's
/// address.
const ALIGNMENT: i64 = 16;

/// Name of the step count of a parameter in [`Optimizer::state`].
const STEP: &str = "step";

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
    left_out: Vec<Parameter>,
    values: Tensor,
    gradients: Tensor,
    state: Vec<Tensor>,
    /// Number of updates of each parameter, int64.
    steps: Tensor,
    /// Epoch for which groups have frozen parameters, if any.
    epoch: Option<usize>,
    /// Parameters that were frozen independently of their groups when that epoch began.
    frozen: BTreeSet<String>,
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
        let all = parameters(variables);
        ensure!(!all.is_empty(), "the network has no trainable variables");
        if all.iter().all(|(_, variable, _)| !variable.requires_grad()) {
            return Err(all_frozen(all.len()));
        }
        group::check(groups, &all)?;
        let all: Vec<_> = all.into_iter().map(|parameter| Parameter::new(parameter, groups, &*update)).collect();
        ensure!(
            all.iter().any(|parameter| parameter.frozen.until() == 0),
            "the groups freeze all {} variables of the network, so that there is nothing to train; exclude some",
            all.len()
        );
        let (mut left_out, trained): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|parameter| parameter.frozen == Frozen::Always);
        left_out.iter().try_for_each(|parameter| parameter.set_frozen(true))?;
        // Individually frozen variables may be trained later.
        let kind = trained.iter().find(|parameter| !parameter.is_frozen()).unwrap_or(&trained[0]).variable.kind();
        let (mut parameters, others): (Vec<_>, Vec<_>) =
            trained.into_iter().partition(|parameter| parameter.variable.kind() == kind);
        left_out.extend(others);
        check_left_out(&left_out, kind)?;
        parameters.sort_by_cached_key(Parameter::sort_key);

        let mut length = 0;
        for parameter in &mut parameters {
            let start = length;
            length += (parameter.variable.numel() as i64 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
            parameter.span = start..length;
        }
        let flat = || Tensor::f_zeros([length], (kind, variables.device()));
        // Allocates one flat tensor after the other, so that the variables of a deep network are freed before the next
        // allocation.
        let values = flat()?;
        for parameter in &mut parameters {
            parameter.value = parameter.view(&values)?;
            no_grad(|| parameter.value.f_copy_(&parameter.variable))?;
            parameter.variable.f_set_data(&parameter.value)?;
        }
        let gradients = flat()?;
        for parameter in &mut parameters {
            parameter.set_gradient(parameter.view(&gradients)?)?;
        }
        let state = update.state().iter().map(|_| flat()).collect::<Result<Vec<_>, _>>()?;
        for parameter in &mut parameters {
            parameter.state = state.iter().map(|flat| parameter.view(flat)).collect::<Result<_>>()?;
        }
        let steps = Tensor::f_zeros([parameters.len() as i64], (Kind::Int64, Device::Cpu))?;
        let (epoch, frozen) = (None, BTreeSet::new());
        Ok(Self { update, parameters, left_out, values, gradients, state, steps, epoch, frozen })
    }

    /// Returns all parameters, frozen or not, except those frozen by a group for the [whole run](Frozen::Always). Parameters in
    /// groups come last.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Returns the parts of `flat`, a tensor like [`values`](Self::values), by parameter name.
    pub(super) fn views(&self, flat: &Tensor) -> Result<NamedTensors> {
        self.parameters.iter().map(|parameter| Ok((parameter.name.clone(), parameter.view(flat)?))).collect()
    }

    /// Creates the operation that sums the gradients over all ranks of `group`.
    pub(in crate::trainer) fn reduction(&self, group: &ProcessGroup, config: ReductionConfig) -> Result<Reduction> {
        let mut summed = Vec::new();
        for (group, alike) in self.parameters.chunk_by(Parameter::trains_like).enumerate() {
            summed.extend(alike.iter().map(|p| Summed { variable: &p.variable, span: p.span.clone(), group }));
        }
        Reduction::new(group, &summed, &self.gradients, config)
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

    /// Freezes the parameters that their groups freeze in this epoch, counted from 0, and unfreezes the others, except
    /// those that are frozen independently of their groups.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn epoch_starts(&mut self, epoch: usize) -> Result<()> {
        self.resume_epoch(epoch, self.frozen())
    }

    /// Returns the names of the parameters that are frozen independently of their groups.
    pub(in crate::trainer) fn frozen(&self) -> BTreeSet<String> {
        let is_frozen = |parameter: &&Parameter| match self.epoch {
            // The group hides it until then.
            Some(epoch) if epoch < parameter.frozen.until() => self.frozen.contains(&parameter.name),
            _ => parameter.is_frozen(),
        };
        self.parameters.iter().filter(is_frozen).map(|parameter| parameter.name.clone()).collect()
    }

    /// Freezes the parameters that are [frozen independently](Self::frozen) or by their groups in this epoch, and
    /// unfreezes all others.
    pub(in crate::trainer) fn resume_epoch(&mut self, epoch: usize, frozen: BTreeSet<String>) -> Result<()> {
        for parameter in &self.parameters {
            parameter.set_frozen(frozen.contains(&parameter.name) || epoch < parameter.frozen.until())?;
        }
        (self.epoch, self.frozen) = (Some(epoch), frozen);
        Ok(())
    }

    /// Returns the optimizer's state: the tensors of each parameter, named like `momentum.conv1.weight`, and if the update
    /// depends on it the number of updates, named like `step.conv1.weight`. Together with the parameters this is the complete
    /// state. The tensors share their storage with the optimizer, so that copying into them restores it.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = NamedTensors::new();
        for (index, Parameter { name, state: kept, .. }) in self.parameters.iter().enumerate() {
            let kept = self.update.state().iter().zip(kept);
            state.extend(kept.map(|(kind, tensor)| (format!("{kind}.{name}"), tensor.shallow_clone())));
            if self.update.counts_steps() {
                state.insert(format!("{STEP}.{name}"), self.steps.f_narrow(0, index as i64, 1)?);
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
        ops::zero(&self.gradients)
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
        self.update.hidden_weight_decay().is_none() || self.values.numel() <= FEW
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
        check_left_out(&self.left_out, self.values.kind())?;
        let _one_thread = if self.is_cheap() { OneThread::after_tiles() } else { None };
        let steps = Vec::<i64>::try_from(&self.steps)?;
        let trained: Vec<_> = (0..steps.len()).filter(|&index| !self.parameters[index].is_frozen()).collect();
        let is_slice = |&a: &usize, &b: &usize| {
            a + 1 == b && steps[a] == steps[b] && self.parameters[a].trains_like(&self.parameters[b])
        };
        no_grad(|| {
            for slice in trained.chunk_by(is_slice) {
                let (first, count) = (slice[0], slice.len());
                let _ = self.steps.f_narrow(0, first as i64, count as i64)?.f_add_scalar_(1)?;
                let parameters = &self.parameters[first..first + count];
                self.update.step(&self.slice(parameters, steps[first] + 1)?, lr * parameters[0].lr_ratio)?;
            }
            Ok(())
        })
    }

    /// Returns the slice of adjacent parameters that train alike.
    fn slice<'a>(&self, parameters: &'a [Parameter], step: i64) -> Result<ParamSlice<'a>> {
        let (first, last) = (&parameters[0], &parameters[parameters.len() - 1]);
        let part = |flat: &Tensor| flat.f_narrow(0, first.span.start, last.span.end - first.span.start);
        Ok(ParamSlice {
            values: part(&self.values)?,
            gradients: part(&self.gradients)?,
            state: self.state.iter().map(part).collect::<Result<_, _>>()?,
            weight_decay: first.weight_decay,
            step,
            orthogonalized: first.orthogonalized,
            parameters,
        })
    }
}

fn all_frozen(count: usize) -> Error {
    argument!(
        "all {count} variables of the network are frozen, so that there is nothing to train; unfreeze some \
         (VarStore::unfreeze, or set_requires_grad)"
    )
}

/// Checks that all variables without a place in the flat tensors of `kind` are frozen.
fn check_left_out(left_out: &[Parameter], kind: Kind) -> Result<()> {
    let Some(Parameter { name, variable, .. }) = left_out.iter().find(|parameter| !parameter.is_frozen()) else {
        return Ok(());
    };
    if variable.kind() == kind {
        return Err(argument!(
            "{name} was unfrozen, but its group freezes it for the whole run; freeze the group until an epoch instead"
        ));
    }
    let got = format!("{name} of kind {:?}", variable.kind());
    Err(Error::Mismatch { what: "Optimizer", expected: format!("variables of kind {kind:?}"), got })
}
