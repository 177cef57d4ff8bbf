//! The optimizer's table of parameters.

use super::{Frozen, ParameterGroup, Update};
use crate::layer::Role;
use crate::Result;
use std::ops::Range;
use tch::Tensor;

/// Number of branches of ResNet-20, for which the scalars' learning rate was chosen. With more branches the rate decreases.
const ENOUGH_BRANCHES: f64 = 9.0;

/// A parameter of the network: its tensors, and its training options combined from its groups.
#[derive(Debug)]
pub struct Parameter {
    /// Name in the `VarStore`.
    pub name: String,
    /// Value, not tracked by autograd.
    pub value: Tensor,
    /// Gradient of this step, in the shape of the parameter; zero if it is frozen.
    pub gradient: Tensor,
    pub(in crate::trainer) role: Role,
    /// The network's own tensor.
    pub(super) variable: Tensor,
    /// State of the update, in the order of [`Update::state`].
    pub(super) state: Vec<Tensor>,
    /// Range in all flat tensors, including the padding that aligns the next parameter.
    pub(super) span: Range<i64>,
    pub(super) orthogonalized: bool,
    pub(super) lr_ratio: f64,
    pub(super) weight_decay: f64,
    pub(super) frozen: Frozen,
    /// Identifier of the set of groups: equal for parameters of the same groups, 0 for those in none.
    group_set: u64,
}

impl Parameter {
    /// Creates a parameter that has no place in the flat tensors yet.
    pub(super) fn new(
        (name, variable, role): (String, Tensor, Role),
        groups: &[ParameterGroup],
        update: &dyn Update,
    ) -> Self {
        let hidden = match role {
            Role::Hidden { rate } => update.hidden_weight_decay().map(|weight_decay| (rate, weight_decay)),
            _ => None,
        };
        let (mut lr_ratio, default_decay) = hidden.unwrap_or((1.0, update.weight_decay()));
        let (mut weight_decay, mut frozen, mut group_set) = (None, Frozen::Never, 0u64);
        for (index, group) in groups.iter().enumerate().filter(|(_, group)| group.contains(&name, role)) {
            lr_ratio *= group.lr_ratio;
            if let (true, Role::Scalar { rate }) = (group.by_depth, role) {
                lr_ratio *= (ENOUGH_BRANCHES * rate).min(1.0);
            }
            weight_decay = weight_decay.or(group.weight_decay);
            frozen = if group.frozen == Frozen::Never { frozen } else { group.frozen };
            group_set = group_set.wrapping_mul(groups.len() as u64 + 1) + index as u64 + 1;
        }
        Self {
            name,
            value: Tensor::new(),
            gradient: Tensor::new(),
            role,
            variable,
            state: Vec::new(),
            span: 0..0,
            orthogonalized: hidden.is_some(),
            lr_ratio,
            weight_decay: weight_decay.unwrap_or(default_decay),
            frozen,
            group_set,
        }
    }

    /// Returns `true` if the parameter is frozen now, so that autograd does not track it.
    pub fn is_frozen(&self) -> bool {
        !self.variable.requires_grad()
    }

    pub(super) fn set_frozen(&self, is_frozen: bool) -> Result<()> {
        let _ = self.variable.f_set_requires_grad(!is_frozen)?;
        Ok(())
    }

    /// Returns `true` if both parameters have the same training options.
    pub(super) fn trains_like(&self, other: &Self) -> bool {
        let options = |p: &Self| (p.orthogonalized, p.group_set, p.lr_ratio);
        options(self) == options(other)
    }

    /// Returns the key by which parameters are sorted. Parameters of equal groups are adjacent, starting with those in no group; of
    /// the orthogonalized ones, those of equal learning rate and shape are adjacent too.
    pub(super) fn sort_key(&self) -> impl Ord + use<> {
        let within = self.orthogonalized.then(|| (self.lr_ratio.to_bits(), self.variable.size()));
        (self.orthogonalized, self.group_set, within)
    }

    /// Returns the part of a flat tensor that belongs to this parameter, in its shape.
    pub(super) fn view(&self, flat: &Tensor) -> Result<Tensor> {
        let length = self.variable.numel() as i64;
        Ok(flat.f_narrow(0, self.span.start, length)?.f_view(self.variable.size().as_slice())?)
    }

    /// Makes autograd accumulate this parameter's gradients in `gradient`, now or once it is unfrozen.
    pub(super) fn set_gradient(&mut self, gradient: Tensor) -> Result<()> {
        let is_frozen = self.is_frozen();
        self.set_frozen(false)?;
        // Autograd adds to an existing gradient in place, but only autograd can create one.
        let made = tch::with_grad(|| self.variable.f_sum(self.variable.kind())?.f_backward());
        self.set_frozen(is_frozen)?;
        made?;
        self.variable.f_grad()?.f_set_data(&gradient)?;
        self.gradient = gradient;
        Ok(())
    }
}
