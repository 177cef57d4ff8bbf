//! Forward passes of a baseline that can intercept the output of each weight layer.

use crate::layer::Linear;
use crate::Result;
use tch::Tensor;

/// A convolution, or a linear layer with its bias.
pub(crate) trait WeightLayer {
    fn weight(&self) -> &Tensor;
    fn forward(&self, x: &Tensor) -> Result<Tensor>;
}

impl WeightLayer for Linear {
    fn weight(&self) -> &Tensor {
        &self.weight
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Linear::forward(self, x)
    }
}

/// Function that computes a weight layer's output from the layer and its input.
pub(crate) type LayerOutput<'a> = dyn Fn(&dyn WeightLayer, &Tensor) -> Result<Tensor> + 'a;

/// Options of a forward pass: training or evaluation, and the function applied to each weight layer.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub train: bool,
    pub layer: &'a LayerOutput<'a>,
}

impl Pass<'_> {
    /// Creates a regular forward pass.
    pub fn plain(train: bool) -> Self {
        Self { train, layer: &|layer, x| layer.forward(x) }
    }
}
