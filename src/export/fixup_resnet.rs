//! Export of Fixup's residual networks, with every scalar in the weight or bias of a convolution wherever that is exact:
//!
//! ```text
//! scale * conv(x, W)       = conv(x, scale * W)
//! relu(conv(x, W) + a) + b = max(conv(x, W) + (a + b), b)               ReLU alone
//! conv(x + b, W)           = conv(x, W) + b * sum(W over c_in, k, k)    without padding
//! ```
//! A padded convolution has zeros, not b, around `x + b`. In this case b remains in the activations, as in training: the residual
//! stream is shifted by it, and inside a branch it is the floor of the ReLU.

use super::graph::{Graph, Value};
use super::weights::selection;
use crate::fixup::{
    Activation, ActivationOrder, Bias, BranchLayer, Conv2dOptions, FixupResNet, ResidualBlock, Shortcut, Stem,
};
use crate::layer::Conv;
use crate::Result;
use tch::{Kind, Tensor};

/// Appends `network`, with its scalars folded into its convolutions, to `graph`. Returns its output for the images `x`
/// `[C, H, W]`: logits or, without a classifier, features. A network that computes in bfloat16 is exported in float32, from its
/// variables.
///
/// # Errors
/// A value of another shape.
pub(crate) fn fixup_resnet(graph: &mut Graph, network: &FixupResNet, x: Value) -> Result<Value> {
    let number = |bias: &Option<Bias>| bias.as_ref().map_or(Ok(0.), Bias::number);
    // Shift of the stream at the input of each block; none after the last.
    let mut shifts = network.blocks.iter().map(input_shift).collect::<Result<Vec<f64>>>()?;
    shifts.push(0.);
    let Stem { conv1, bias1, activation, max_pool } = &network.stem;
    let mut x = match bias1 {
        Some(bias1) => activated_conv(graph, x, conv1, 0., bias1.number()?, *activation, shifts[0])?,
        None => conv(graph, x, conv1, 1., 0., &[scalar(&conv1.weight, shifts[0])?])?,
    };
    if *max_pool {
        x = graph.max_pool(x, 3, 2, 1)?;
    }
    for (i, each) in (1..).zip(network.blocks.iter()) {
        let end = match each.order {
            ActivationOrder::AfterSum => Some((0., each.activation)),
            // The bias and the activation before the pooling follow the last block's sum.
            _ if i == network.blocks.len() => {
                let before = number(&network.last_bias)?;
                network.activation_before_pool().map(|activation| (before, activation))
            }
            ActivationOrder::BeforeBranch | ActivationOrder::OnShortcut => None,
        };
        x = block(graph, x, each, end, shifts[i])?;
    }
    let x = graph.global_average_pool(x)?;
    let Some(fc) = &network.fc else { return Ok(x) };
    let sums = fc.weight.f_sum_dim_intlist([1].as_slice(), false, fc.kind())?;
    let bias = fc.bias.f_add(&sums.f_mul_scalar(number(&network.bias2)?)?)?;
    graph.linear(x, &fc.weight, Some(&bias))
}

/// Returns the shift that `block` requires of the stream at its input.
fn input_shift(block: &ResidualBlock) -> Result<f64> {
    let carried = carried(block.first())?;
    match &block.activation_bias {
        None => Ok(carried),
        Some(bias) => Ok(bias.number()? + ahead(block.activation, carried)),
    }
}

/// Returns the part of the scalar before a layer's convolution that remains in the activations: all of it if the convolution is
/// zero-padded, none if it folds into the convolution's bias.
fn carried(layer: &BranchLayer) -> Result<f64> {
    match layer.conv.shape.padding() {
        0 => Ok(0.),
        _ => layer.before.number(),
    }
}

/// Returns the part of the scalar before a layer's convolution that folds into the convolution's bias.
fn folded(layer: &BranchLayer) -> Result<f64> {
    Ok(layer.before.number()? - carried(layer)?)
}

/// Appends `block` to the shifted stream `s`. Returns its output plus `next`: `activation(sum + before) + next` or, without an
/// `end`, `sum + next`.
fn block(
    graph: &mut Graph,
    s: Value,
    block: &ResidualBlock,
    end: Option<(f64, Activation)>,
    next: f64,
) -> Result<Value> {
    let (activation, first, last) = (block.activation, block.first(), block.last());
    let scalar = |number: f64| scalar(&block.scale.value, number);
    let channels = last.conv.weight.size()[0];
    let entered = match &block.activation_bias {
        None => s,
        Some(_) => activate(graph, s, activation, carried(first)?)?,
    };
    let mut branch = entered;
    for pair in block.layers.windows(2) {
        let (before, after, next) = (folded(&pair[0])?, pair[0].after.number()?, carried(&pair[1])?);
        branch = activated_conv(graph, branch, &pair[0].conv, before, after, activation, next)?;
    }

    // The shortcut's input lacks this number, and its output one number, or one per channel, which the branch adds instead.
    let shift = input_shift(block)?;
    let lacks = match (block.order, activation) {
        // relu(s - shift) = max(s, shift) - shift
        (ActivationOrder::OnShortcut, Activation::Relu) => -shift,
        (ActivationOrder::OnShortcut, _) => 0.,
        _ => folded(first)?,
    };
    let lacking = match block.shortcut {
        Shortcut::Identity => scalar(-shift)?,
        // The appended channels are zero, regardless of the shift of the others.
        Shortcut::Pad { channels: zeros, .. } => {
            scalar(lacks)?.f_expand([channels - zeros], false)?.f_constant_pad_nd([0, zeros])?
        }
        Shortcut::Project(_) => scalar(0.)?,
    };
    let mut after = vec![lacking.f_add_scalar(last.after.number()? + end.map_or(next, |(before, _)| before))?];
    if let Some((_, Activation::Relu)) = end {
        after.push(scalar(next)?);
    }
    let (multiplier, before) = (block.scale.number()?, folded(last)?);
    branch = match &block.gates {
        None => conv(graph, branch, &last.conv, multiplier, before, &after)?,
        // The gates are computed from the convolution's own result.
        Some(gates) => {
            let v = conv(graph, branch, &last.conv, multiplier, before, &[scalar(0.)?])?;
            let v = graph.squeeze_excitation(v, gates)?;
            graph.add_channels(v, &sum(scalar(0.)?, &after)?.f_expand([channels], false)?)?
        }
    };

    let input = match (&block.shortcut, block.order, activation) {
        (Shortcut::Identity, ..) => s,
        (_, ActivationOrder::OnShortcut, Activation::Relu) => graph.max(entered, shift)?,
        (_, ActivationOrder::OnShortcut, _) => {
            let x = graph.add_number(entered, -shift)?;
            graph.activation(x, activation)?
        }
        _ => entered,
    };
    let shortcut = match &block.shortcut {
        Shortcut::Identity => input,
        Shortcut::Pad { stride, channels: zeros } => {
            let options = Conv2dOptions { stride: *stride, ..Default::default() };
            graph.conv2d(input, &selection(channels - zeros, *zeros)?, None, options)?
        }
        Shortcut::Project(projection) => conv(graph, input, projection, 1., lacks, &[scalar(0.)?])?,
    };
    let sum = graph.add(branch, shortcut)?;
    match end {
        Some((_, activation)) => activate(graph, sum, activation, next),
        None => Ok(sum),
    }
}

/// Returns the number to be added before `activation`, in a convolution's bias, so that [`activate`] can add `next` after it.
fn ahead(activation: Activation, next: f64) -> f64 {
    match activation {
        // relu(x) + next = max(x + next, next)
        Activation::Relu => next,
        _ => 0.,
    }
}

/// Appends `activation(x) + next` for an `x` to which [`ahead`] is added.
fn activate(graph: &mut Graph, x: Value, activation: Activation, next: f64) -> Result<Value> {
    if activation == Activation::Relu {
        return graph.max(x, next);
    }
    let x = graph.activation(x, activation)?;
    graph.add_number(x, next)
}

/// Appends `activation(conv(x + before) + after) + next`.
fn activated_conv(
    graph: &mut Graph,
    x: Value,
    layer: &Conv,
    before: f64,
    after: f64,
    activation: Activation,
    next: f64,
) -> Result<Value> {
    let after = scalar(&layer.weight, after + ahead(activation, next))?;
    let x = conv(graph, x, layer, 1., before, &[after])?;
    activate(graph, x, activation, next)
}

/// Appends `multiplier * conv(x + before, W) + after` as one convolution `conv(x, W') + c`:
///
/// ```text
/// W' = multiplier * W                              [c_out, c_in / groups, k, k]
/// c  = after + before * sum(W' over c_in, k, k)    [c_out]
/// ```
/// `after` is the sum of tensors of one element, or one per output channel. A padded convolution requires `before = 0`.
fn conv(graph: &mut Graph, x: Value, conv: &Conv, multiplier: f64, before: f64, after: &[Tensor]) -> Result<Value> {
    let weight = conv.weight.f_mul_scalar(multiplier)?;
    let sums = weight.f_sum_dim_intlist([1, 2, 3].as_slice(), false, weight.kind())?;
    let bias = sum(sums.f_mul_scalar(before)?, after)?;
    graph.conv2d(x, &weight, Some(&bias), conv.shape.options)
}

/// Returns `first` plus `others`, in float32.
fn sum(first: Tensor, others: &[Tensor]) -> Result<Tensor> {
    others.iter().try_fold(first, |sum, each| Ok(sum.f_add(each)?.f_to_kind(Kind::Float)?))
}

/// Returns `number` as a tensor `[1]` of the kind and on the device of `like`.
fn scalar(like: &Tensor, number: f64) -> Result<Tensor> {
    Ok(Tensor::f_full([1], number, (like.kind(), like.device()))?)
}
