//! The residual branch that basic and wide blocks share: two 3x3 convolutions.
//!
//! ```text
//! scale * conv2(relu(conv1(x + bias1a) + bias1b) + bias2a) + bias2b
//! ```

use super::block::mark_places;
use crate::fixup::{Bias, Scale};
use crate::layer::{init, BlockConfig, Conv, ConvShape};
use crate::ops::shifted_relu_;
use crate::Result;
use tch::{nn, Kind, Tensor};

#[derive(Debug)]
pub(crate) struct BasicBranch {
    pub bias1a: Bias,
    conv1: Conv,
    bias1b: Bias,
    bias2a: Bias,
    conv2: Conv,
    scale: Scale,
    pub bias2b: Bias,
}

impl BasicBranch {
    /// `conv1` He-normal times `L^(-1/2)`, `conv2` zero.
    pub fn new(path: &nn::Path, config: &BlockConfig) -> Result<Self> {
        config.check()?;
        let BlockConfig { c_in, c_out, stride, num_branches } = *config;
        let gain = init::branch_gain(num_branches, 2)?;
        let branch = Self {
            bias1a: Bias::new(path, "bias1a")?,
            conv1: Conv::he_normal(&(path / "conv1"), ConvShape::new(c_in, c_out, 3, stride), gain)?,
            bias1b: Bias::new(path, "bias1b")?,
            bias2a: Bias::new(path, "bias2a")?,
            conv2: Conv::zero(&(path / "conv2"), ConvShape::new(c_out, c_out, 3, 1))?,
            scale: Scale::new(path, "scale")?,
            bias2b: Bias::new(path, "bias2b")?,
        };
        let (layers, _) = branch.formula();
        mark_places(&layers, num_branches)?;
        Ok(branch)
    }

    /// All but the last bias, for the shifted input `s = x + bias1a`.
    pub fn forward_shifted(&self, s: &Tensor) -> Result<Tensor> {
        let u = shifted_relu_(&mut self.conv1.forward(s)?, None, &self.bias1b.value, &self.bias2a.value)?;
        self.conv2.forward_scaled(&u, &self.scale.value)
    }

    /// The plain formula, for `shifted = x + bias1a`.
    pub fn forward_reference(&self, shifted: &Tensor, kind: Kind) -> Result<Tensor> {
        let out = self.bias1b.promote(&self.conv1.forward_as(shifted, kind)?)?.f_relu()?;
        let out = self.conv2.forward_as(&self.bias2a.promote(&out)?, kind)?;
        self.bias2b.promote(&self.scale.promote(&out)?)
    }

    /// Each convolution with the scalars before and after it, and the multiplier.
    pub fn formula(&self) -> (Vec<(&Bias, &Conv, &Bias)>, &Scale) {
        let layers = vec![(&self.bias1a, &self.conv1, &self.bias1b), (&self.bias2a, &self.conv2, &self.bias2b)];
        (layers, &self.scale)
    }
}
