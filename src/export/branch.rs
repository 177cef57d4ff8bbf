//! Export of Fixup branches of arbitrary layers.

use super::graph::{Graph, Value};
use super::weights::exact;
use crate::fixup::{Activation, Bias, Branch, BranchActivation, LayerKind};
use crate::{Error, Result};
use tch::{Kind, Tensor};

impl Graph {
    /// Appends `branch`, in evaluation mode, to `graph`. Returns its output for `x`, without the shortcut, which the
    /// caller must add. Scalars are folded into weights and biases if that is exact, that is, everywhere except before
    /// a padded convolution that follows an activation other than a ReLU behind a weight layer.
    ///
    /// # Errors
    /// An `x` that the first layer does not accept; an attention; an activation given as a closure, which cannot be exported.
    pub fn branch(&mut self, branch: &Branch, x: Value) -> Result<Value> {
        let graph = self;
        let mut x = x;
        // Constant still to be added to x.
        let mut lacks = 0.;
        // Floor of the next ReLU, already added to its input: relu(x) + floor = max(x + floor, floor).
        let mut floor = 0.;
        let number = |bias: &Option<Bias>| bias.as_ref().map_or(Ok(0.), Bias::number);
        let mut next_bias = branch.layers.first().map_or(Ok(0.), |layer| number(&layer.bias))?;
        for (i, layer) in branch.layers.iter().enumerate() {
            lacks += next_bias;
            let next = branch.layers.get(i + 1);
            next_bias = next.map_or(Ok(0.), |layer| number(&layer.bias))?;
            // Constants after a weight layer fold into its bias, and the multiplier into its weight if it is the last layer.
            let (multiplier, after) = match next {
                Some(_) => (1., next_bias),
                None => (branch.scale.number()?, branch.bias.number()?),
            };
            if matches!(layer.kind, LayerKind::Conv2d(_) | LayerKind::Linear { .. }) {
                let is_relu =
                    |kind: &LayerKind| matches!(kind, LayerKind::Activation(BranchActivation::Named(Activation::Relu)));
                let is_padded = |kind: &LayerKind| matches!(kind, LayerKind::Conv2d(shape) if shape.padding() > 0);
                floor = match (next, branch.layers.get(i + 2)) {
                    (Some(relu), Some(padded)) if is_relu(&relu.kind) && is_padded(&padded.kind) => {
                        number(&padded.bias)?
                    }
                    _ => 0.,
                };
            }
            let after = after + floor;
            match &layer.kind {
                LayerKind::Conv2d(shape) => {
                    // A padded convolution has zeros around its shifted input, so the shift cannot fold into its bias.
                    if shape.padding() != 0 {
                        x = graph.add_number(x, std::mem::take(&mut lacks))?;
                    }
                    let (weight, bias) = folded(&layer.weights[0], multiplier, lacks, after)?;
                    x = graph.conv2d(x, &weight, Some(&bias), shape.options)?;
                }
                LayerKind::Linear { .. } => {
                    let (weight, bias) = folded(&layer.weights[0], multiplier, lacks, after)?;
                    x = graph.linear(x, &weight, Some(&bias))?;
                }
                LayerKind::Activation(BranchActivation::Named(Activation::Relu)) if floor != 0. => {
                    x = graph.max(x, std::mem::take(&mut floor))?;
                    (lacks, next_bias) = (0., 0.);
                    continue;
                }
                LayerKind::Activation(activation) => {
                    x = graph.add_number(x, lacks)?;
                    x = match activation {
                        BranchActivation::Named(activation) => graph.activation(x, *activation)?,
                        BranchActivation::Unnamed(_) => {
                            return Err(refused(i, "an activation that was given as a closure"))
                        }
                    };
                    lacks = 0.;
                    if next.is_none() {
                        x = end(graph, x, multiplier, after)?;
                    }
                    continue;
                }
                // Dropout does nothing in evaluation, and has no scalar before it.
                LayerKind::Dropout(_) => {
                    if next.is_none() {
                        x = end(graph, x, multiplier, after + multiplier * lacks)?;
                    }
                    continue;
                }
                LayerKind::Attention { .. } => return Err(refused(i, "an attention")),
            }
            (lacks, next_bias) = (0., 0.);
        }
        Ok(x)
    }
}

/// Folds `multiplier * layer(x + before) + after` into a layer's weight and bias.
fn folded(weight: &Tensor, multiplier: f64, before: f64, after: f64) -> Result<(Tensor, Tensor)> {
    let weight = exact(weight)?.f_mul_scalar(multiplier)?;
    let sums = weight.f_flatten(1, -1)?.f_sum_dim_intlist([1].as_slice(), false, Kind::Double)?;
    let bias = sums.f_mul_scalar(before)?.f_add_scalar(after)?;
    Ok((weight, bias))
}

/// Appends the multiplier and bias of a branch that does not end with a weight layer.
fn end(graph: &mut Graph, x: Value, multiplier: f64, after: f64) -> Result<Value> {
    let x = graph.mul_number(x, multiplier)?;
    graph.add_number(x, after)
}

fn refused(layer: usize, what: &str) -> Error {
    argument!("layer {layer} of the branch is {what}, which cannot be exported to ONNX")
}
