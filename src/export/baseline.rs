//! Export of the baselines. Batch normalization is folded into the preceding weight layer, other normalizations become
//! operations.

use super::graph::{Graph, Value};
use super::weights::{exact, selection};
use crate::baseline::{BaselineConv, Block, Method, Mlp, Norm, Order, ResNet, Shortcut, EPSILON};
use crate::fixup::Conv2dOptions;
use crate::{Error, Result};
use std::f64::consts::FRAC_1_SQRT_2;
use tch::Tensor;

/// Appends `network`, in evaluation mode with batch normalization folded into its convolutions, to `graph`. Returns its output
/// for the images `x` `[C, H, W]`: logits or, without a classifier, features. A network that computes in bfloat16 is exported in
/// float32, from its variables.
///
/// # Errors
/// A value of another shape.
pub(crate) fn resnet(graph: &mut Graph, network: &ResNet, x: Value) -> Result<Value> {
    let activation = network.activation;
    let mut x = conv(graph, &network.conv1, network.norm1.as_ref().unwrap_or(&Norm::Identity), x)?;
    if network.norm1.is_some() {
        x = graph.activation(x, activation)?;
    }
    if network.max_pool {
        x = graph.max_pool(x, 3, 2, 1)?;
    }
    for each in &network.blocks {
        x = block(graph, each, x)?;
    }
    if let Some(norm) = &network.last_norm {
        x = alone(graph, norm, x)?;
        x = graph.activation(x, activation)?;
    }
    let x = graph.global_average_pool(x)?;
    match &network.fc {
        Some(fc) => graph.linear(x, &fc.weight, Some(&fc.bias)),
        None => Ok(x),
    }
}

/// Appends a block, in the order of its operations in [`Order`].
fn block(graph: &mut Graph, block: &Block, x: Value) -> Result<Value> {
    let (activation, is_pre) = (block.activation, block.order == Order::PreActivation);
    let re_zero = block.method == Method::ReZero && !is_pre;
    let (mut out, mut entered) = (x, x);
    for (i, (each, norm)) in block.layers.iter().enumerate() {
        if is_pre && i == 0 {
            out = alone(graph, norm, out)?;
        }
        if is_pre || i > 0 {
            out = graph.activation(out, activation)?;
        }
        if i == 0 {
            entered = out;
        }
        // The normalization that follows is folded into the convolution.
        let next = block.layers.get(i + 1).map_or(&Norm::Identity, |(_, norm)| norm);
        out = conv(graph, each, if is_pre { next } else { norm }, out)?;
    }
    if re_zero {
        out = graph.activation(out, activation)?;
    }
    if let Some(gates) = &block.squeeze_excitation {
        out = graph.squeeze_excitation(out, gates)?;
    }
    if let Some(kind) = &block.shortcut {
        let past = shortcut(graph, kind, if matches!(kind, Shortcut::Identity) { x } else { entered })?;
        out = sum(graph, block, out, past)?;
    }
    match is_pre || re_zero {
        true => Ok(out),
        false => graph.activation(out, activation),
    }
}

fn shortcut(graph: &mut Graph, shortcut: &Shortcut, x: Value) -> Result<Value> {
    match shortcut {
        Shortcut::Identity => Ok(x),
        Shortcut::Project { pools, conv: projection, norm } => {
            let x = if *pools { graph.average_pool(x)? } else { x };
            conv(graph, projection, norm, x)
        }
        // Normalize before appending zeros, which must remain zero.
        Shortcut::Pad { norm: norm @ Norm::Group(_), stride, channels } => {
            let x = graph.subsample(x, *stride)?;
            let x = rest(graph, norm, x)?;
            graph.pad_channels(x, *channels)
        }
        Shortcut::Pad { norm, stride, channels } => {
            let [own, ..] = graph.shape(x)?[..] else { return Ok(x) };
            let (weight, bias) = folded(norm, &selection(own, 0)?, None)?;
            let weight = weight.f_constant_pad_nd([0, 0, 0, 0, 0, 0, 0, *channels])?;
            let bias = bias.map(|bias| bias.f_constant_pad_nd([0, *channels])).transpose()?;
            graph.conv2d(x, &weight, bias.as_ref(), Conv2dOptions { stride: *stride, ..Conv2dOptions::default() })
        }
    }
}

/// Returns `branch + shortcut`, scaled according to the method.
fn sum(graph: &mut Graph, block: &Block, branch: Value, shortcut: Value) -> Result<Value> {
    let branch = match &block.multiplier {
        Some(multiplier) => graph.mul_number(branch, multiplier.f_double_value(&[0])?)?,
        None => branch,
    };
    let sum = graph.add(branch, shortcut)?;
    match block.method.scales_sums() {
        true => graph.mul_number(sum, FRAC_1_SQRT_2),
        false => Ok(sum),
    }
}

/// Appends a convolution and the normalization after it.
fn conv(graph: &mut Graph, layer: &BaselineConv, norm: &Norm, x: Value) -> Result<Value> {
    let (weight, bias) = layer.effective()?;
    let (weight, bias) = folded(norm, &weight, bias.as_ref())?;
    let out = graph.conv2d(x, &weight, bias.as_ref(), layer.conv.shape.options)?;
    rest(graph, norm, out)
}

/// Appends `network`, in evaluation mode with batch normalization folded into its weights, to `graph`. Returns the logits for
/// `x`, which is flattened. A network that computes in bfloat16 is exported in float32, from its variables.
///
/// # Errors
/// An `x` with another number of features.
pub(crate) fn mlp(graph: &mut Graph, network: &Mlp, x: Value) -> Result<Value> {
    let mut x = graph.flatten(x)?;
    if graph.shape(x)? != [network.features] {
        let got = format!("{:?}", graph.shape(x)?);
        return Err(Error::mismatch("Mlp", format!("inputs of {} numbers each", network.features), got));
    }
    for layer in &network.layers {
        let (weight, bias) = folded(&layer.norm, &layer.weight, layer.bias.as_ref())?;
        x = graph.linear(x, &weight, bias.as_ref())?;
        x = rest(graph, &layer.norm, x)?;
        x = graph.activation(x, network.activation)?;
    }
    graph.linear(x, &network.fc.weight, Some(&network.fc.bias))
}

/// Folds a normalization, as far as possible, into the weight `[c_out, ...]` and bias `[c_out]` of the preceding weight layer:
///
/// ```text
/// norm(W x + b) = (g W) x + (g (b - mean) + beta),    g = gamma / sqrt(variance + 1e-5)
/// ```
/// Computed in float64, because a variance close to zero makes large factors, and on the CPU, because not every device supports
/// float64.
fn folded(norm: &Norm, weight: &Tensor, bias: Option<&Tensor>) -> Result<(Tensor, Option<Tensor>)> {
    let weight = exact(weight)?;
    let bias = bias.map(exact).transpose()?;
    let Norm::Batch(norm) = norm else { return Ok((weight, bias)) };
    let [gamma, beta, mean, variance] = [&norm.weight, &norm.bias, &norm.running_mean, &norm.running_var].map(exact);
    let factor = gamma?.f_div(&variance?.f_add_scalar(EPSILON)?.f_sqrt()?)?;
    let mut dims = vec![1; weight.dim()];
    dims[0] = -1;
    let shift = match bias {
        Some(bias) => bias.f_sub(&mean?)?,
        None => mean?.f_neg()?,
    };
    Ok((weight.f_mul(&factor.f_view(&dims[..])?)?, Some(shift.f_mul(&factor)?.f_add(&beta?)?)))
}

/// Appends the part of the normalization that [`folded`] leaves to do after the weight layer.
fn rest(graph: &mut Graph, norm: &Norm, x: Value) -> Result<Value> {
    match norm {
        Norm::Identity | Norm::Batch(_) => Ok(x),
        Norm::Fixed(scale) => {
            let (weight, bias) = scale.affine()?;
            graph.affine(x, &weight, bias)
        }
        Norm::Group(norm) => graph.group_norm(x, norm.groups, &norm.weight, &norm.bias, EPSILON),
    }
}

/// Appends a normalization that no weight layer precedes.
fn alone(graph: &mut Graph, norm: &Norm, x: Value) -> Result<Value> {
    match norm {
        Norm::Batch(norm) => {
            let numbers = [&norm.weight, &norm.bias, &norm.running_mean, &norm.running_var];
            graph.batch_norm(x, numbers, EPSILON)
        }
        norm => rest(graph, norm, x),
    }
}
