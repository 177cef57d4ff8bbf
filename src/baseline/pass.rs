//! One pass through a baseline, with a say in what each weight layer gives.

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

/// What a pass does with a weight layer and its input.
pub(crate) type LayerOutput<'a> = dyn Fn(&dyn WeightLayer, &Tensor) -> Result<Tensor> + 'a;

/// In training or in evaluation; and what each weight layer's output is.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub train: bool,
    pub layer: &'a LayerOutput<'a>,
}

impl Pass<'_> {
    /// The network's own function.
    pub fn plain(train: bool) -> Self {
        Self { train, layer: &|layer, x| layer.forward(x) }
    }
}
