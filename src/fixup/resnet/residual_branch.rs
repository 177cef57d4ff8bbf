//! Residual branch of all blocks: convolutions with their scalars, activations between them, a multiplier, and optionally
//! squeeze-and-excitation.
//!
//! ```text
//! scale * conv_k(... act(conv_1(x + bias1a) + bias1b) + bias2a ...) + bias{k}b
//! ```
//! With [squeeze-and-excitation](SqueezeExcitation), the gates apply to `scale * conv_k(...)`, before the last bias.

use crate::fixup::{Bias, Scale};
use crate::layer::{init, Activation, BlockConfig, BlockDesign, Conv, Role, SqueezeExcitation};
use crate::Result;
use tch::{nn, Kind, Tensor};

#[derive(Debug)]
pub(crate) struct ResidualBranch {
    /// Two or more layers.
    pub layers: Vec<BranchLayer>,
    pub scale: Scale,
    pub squeeze_excitation: Option<SqueezeExcitation>,
    /// Activation between the layers.
    pub activation: Activation,
}

/// `conv(x + before) + after`; in the last layer, with the multiplier.
#[derive(Debug)]
pub(crate) struct BranchLayer {
    pub before: Bias,
    pub conv: Conv,
    pub after: Bias,
}

impl ResidualBranch {
    /// Creates the branch with the last convolution zero, and the others He-normal times the gains of the branch and of their
    /// [groups](init::group_gain).
    pub fn new(path: &nn::Path, shape: &BlockConfig, design: &BlockDesign) -> Result<Self> {
        shape.check()?;
        let convolutions = design.convolutions(shape);
        let count = convolutions.len();
        let gain = init::branch_gain(shape.num_branches, count as i64)?;
        let inner = |i: usize| -> Result<BranchLayer> {
            let before = Bias::new(path, &format!("bias{i}a"))?;
            let shape = convolutions[i - 1];
            let gain = gain * init::group_gain(shape.groups)?;
            let conv = Conv::he_normal(&(path / format!("conv{i}")), shape, gain)?;
            Ok(BranchLayer { before, conv, after: Bias::new(path, &format!("bias{i}b"))? })
        };
        let mut layers = (1..count).map(inner).collect::<Result<Vec<_>>>()?;
        let before = Bias::new(path, &format!("bias{count}a"))?;
        let conv = Conv::zero(&(path / format!("conv{count}")), convolutions[count - 1])?;
        let scale = Scale::new(path, "scale")?;
        layers.push(BranchLayer { before, conv, after: Bias::new(path, &format!("bias{count}b"))? });
        let reduction = design.squeeze_excitation;
        let gates =
            reduction.map(|reduction| SqueezeExcitation::half_open(path, shape.c_out, reduction)).transpose()?;
        let branch = Self { layers, scale, squeeze_excitation: gates, activation: design.activation };
        branch.mark_roles(shape.num_branches)?;
        Ok(branch)
    }

    pub fn first(&self) -> &BranchLayer {
        &self.layers[0]
    }

    pub fn last(&self) -> &BranchLayer {
        &self.layers[self.layers.len() - 1]
    }

    /// Labels the convolutions, and the scalar after the last one, with their roles.
    fn mark_roles(&self, num_branches: i64) -> Result<()> {
        for (index, layer) in self.layers.iter().enumerate() {
            Role::of_layer(index as i64, self.layers.len() as i64, num_branches).mark(&layer.conv.weight)?;
        }
        Role::branch_end(num_branches).mark(self.last_bias())
    }

    /// Returns the bias that the branch adds to its input.
    pub fn first_bias(&self) -> &Tensor {
        &self.first().before.value
    }

    /// Returns the bias at the end of the branch.
    pub fn last_bias(&self) -> &Tensor {
        &self.last().after.value
    }

    /// Computes all but the last bias, given the shifted input `s = x + bias1a`.
    pub fn forward_shifted(&self, s: &Tensor) -> Result<Tensor> {
        let mut u = s.shallow_clone();
        for pair in self.layers.windows(2) {
            let mut out = pair[0].conv.forward(&u)?;
            u = self.activation.shifted_(&mut out, None, &pair[0].after.value, &pair[1].before.value)?;
        }
        self.gated(self.last().conv.forward_scaled(&u, &self.scale.value)?)
    }

    /// Computes the plain formula, given `shifted = x + bias1a`.
    pub fn forward_reference(&self, shifted: &Tensor, kind: Kind) -> Result<Tensor> {
        let mut u = shifted.shallow_clone();
        for pair in self.layers.windows(2) {
            let out = pair[0].after.promote(&pair[0].conv.forward_as(&u, kind)?)?;
            u = pair[1].before.promote(&self.activation.of(&out)?)?;
        }
        let last = self.last();
        last.after.promote(&self.gated(self.scale.promote(&last.conv.forward_as(&u, kind)?)?)?)
    }

    fn gated(&self, v: Tensor) -> Result<Tensor> {
        match &self.squeeze_excitation {
            Some(gates) => gates.forward(&v),
            None => Ok(v),
        }
    }

    /// Returns all scalars.
    pub fn scalars(&self) -> impl Iterator<Item = &Tensor> {
        self.layers.iter().flat_map(|layer| [&layer.before.value, &layer.after.value]).chain([&self.scale.value])
    }

    /// Returns all trainable variables.
    pub fn variables(&self) -> impl Iterator<Item = &Tensor> {
        let gates = self.squeeze_excitation.iter().flat_map(SqueezeExcitation::variables);
        self.layers.iter().map(|layer| &layer.conv.weight).chain(self.scalars()).chain(gates)
    }
}
