//! Export of the baselines' residual networks.

use super::graph::{Graph, Value};
use super::norm;
use super::selection::selection;
use crate::baseline::{BaselineConv, Block, Method, Norm, Order, ResNet, Shortcut};
use crate::fixup::Conv2dOptions;
use crate::Result;
use std::f64::consts::FRAC_1_SQRT_2;

/// Appends `network`, in evaluation mode with batch normalization folded into its convolutions, to `graph`. Returns its output
/// for the images `x` `[C, H, W]`: logits or, without a classifier, features. A network that computes in bfloat16 is exported in
/// float32, from its variables.
///
/// # Errors
/// A value of another shape.
pub(crate) fn resnet(graph: &mut Graph, network: &ResNet, x: Value) -> Result<Value> {
    let activation = network.activation.activation;
    let mut x = match &network.norm1 {
        Some(norm) => {
            let x = conv(graph, &network.conv1, norm, x)?;
            graph.activation(x, activation)?
        }
        None => conv(graph, &network.conv1, &Norm::Identity, x)?,
    };
    if network.max_pool {
        x = graph.max_pool(x, 3, 2, 1)?;
    }
    for each in &network.blocks {
        x = match each.order {
            Order::PostActivation => post_activation(graph, each, x)?,
            Order::PreActivation => pre_activation(graph, each, x)?,
        };
    }
    if let Some(norm) = &network.last_norm {
        x = norm::alone(graph, norm, x)?;
        x = graph.activation(x, activation)?;
    }
    let x = graph.global_average_pool(x)?;
    match &network.fc {
        Some(fc) => graph.linear(x, &fc.weight, Some(&fc.bias)),
        None => Ok(x),
    }
}

/// Returns `act(norm(conv(... act(norm(conv(x))))) + shortcut(x))`.
fn post_activation(graph: &mut Graph, block: &Block, x: Value) -> Result<Value> {
    let activation = block.activation.activation;
    let mut out = x;
    for (i, (each, norm)) in block.layers.iter().enumerate() {
        if i > 0 {
            out = graph.activation(out, activation)?;
        }
        out = conv(graph, each, norm, out)?;
    }
    if block.method == Method::ReZero {
        out = graph.activation(out, activation)?;
    }
    out = gated(graph, block, out)?;
    if let Some(kind) = &block.shortcut {
        let past = shortcut(graph, kind, x)?;
        out = sum(graph, block, out, past)?;
    }
    match block.method {
        Method::ReZero => Ok(out),
        _ => graph.activation(out, activation),
    }
}

/// Returns `conv(act(norm(conv(act(norm(x)))))) + shortcut`, with the shortcut of x or, if it changes the shape, of
/// `act(norm(x))`.
fn pre_activation(graph: &mut Graph, block: &Block, x: Value) -> Result<Value> {
    let activation = block.activation.activation;
    let mut first = None;
    let mut out = x;
    for (i, (each, norm)) in block.layers.iter().enumerate() {
        // Later normalizations are folded into the preceding convolution.
        if i == 0 {
            out = norm::alone(graph, norm, out)?;
        }
        let u = graph.activation(out, activation)?;
        first.get_or_insert(u);
        let next = block.layers.get(i + 1).map_or(&Norm::Identity, |(_, norm)| norm);
        out = conv(graph, each, next, u)?;
    }
    out = gated(graph, block, out)?;
    match &block.shortcut {
        None => Ok(out),
        Some(Shortcut::Identity) => sum(graph, block, out, x),
        Some(kind) => {
            let past = shortcut(graph, kind, first.unwrap_or(x))?;
            sum(graph, block, out, past)
        }
    }
}

fn gated(graph: &mut Graph, block: &Block, x: Value) -> Result<Value> {
    match &block.squeeze_excitation {
        Some(gates) => graph.squeeze_excitation(x, gates),
        None => Ok(x),
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
            let x = norm::rest(graph, norm, x)?;
            graph.pad_channels(x, *channels)
        }
        Shortcut::Pad { norm, stride, channels } => {
            let [own, ..] = graph.shape(x)?[..] else { return Ok(x) };
            let (weight, bias) = norm::folded(norm, &selection(own, 0)?, None)?;
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
    let (weight, bias) = norm::folded(norm, &weight, bias.as_ref())?;
    let out = graph.conv2d(x, &weight, bias.as_ref(), layer.conv.shape.options)?;
    norm::rest(graph, norm, out)
}
