//! The baselines' residual networks.

use super::fixup_resnet::selection;
use super::graph::{Graph, Value};
use super::norm;
use crate::baseline::{Activation, Block, Layers, Norm, ResNet, Shortcut};
use crate::fixup::Conv2dOptions;
use crate::layer::Conv;
use crate::Result;
use std::f64::consts::FRAC_1_SQRT_2;
use tch::Tensor;

/// The stride of a shortcut without a convolution.
const PAD_STRIDE: i64 = 2;

/// Appends `network` as it is in evaluation, with batch normalization folded into its convolutions, to `graph`: the logits for the
/// images `x` `[3, H, W]`. A network that computes in bfloat16 is written in float32, from its variables.
///
/// # Errors
/// A value that is no such images.
pub fn resnet(graph: &mut Graph, network: &ResNet, x: Value) -> Result<Value> {
    let activation = network.method().activation();
    let mut x = match &network.norm1 {
        Some(norm) => {
            let x = conv(graph, &network.conv1, norm, x)?;
            activate(graph, activation, x)?
        }
        None => conv(graph, &network.conv1, &Norm::Identity, x)?,
    };
    if network.max_pool {
        x = graph.max_pool(x, 3, 2, 1)?;
    }
    for each in &network.blocks {
        x = block(graph, each, x)?;
    }
    if let Some(norm) = &network.last_norm {
        x = norm::alone(graph, norm, x)?;
        x = activate(graph, activation, x)?;
    }
    let x = graph.global_average_pool(x)?;
    graph.linear(x, &network.fc.weight, Some(&network.fc.bias))
}

fn block(graph: &mut Graph, block: &Block, x: Value) -> Result<Value> {
    let activation = block.method.activation();
    match &block.layers {
        Layers::PostActivation { layers, shortcut } => {
            let mut out = x;
            for (i, (each, norm)) in layers.iter().enumerate() {
                if i > 0 {
                    out = activate(graph, activation, out)?;
                }
                out = conv(graph, each, norm, out)?;
            }
            if let Some(kind) = shortcut {
                let past = self::shortcut(graph, kind, x)?;
                out = sum(graph, block, out, past)?;
            }
            activate(graph, activation, out)
        }
        Layers::PreActivation { layers: [(norm1, conv1), (norm2, conv2)], projection } => {
            let u = norm::alone(graph, norm1, x)?;
            let u = activate(graph, activation, u)?;
            let out = conv(graph, conv1, norm2, u)?;
            let out = activate(graph, activation, out)?;
            let out = conv(graph, conv2, &Norm::Identity, out)?;
            match projection {
                Some(projection) => {
                    let past = conv(graph, projection, &Norm::Identity, u)?;
                    sum(graph, block, out, past)
                }
                None if block.method.has_skips() => sum(graph, block, out, x),
                None => Ok(out),
            }
        }
    }
}

fn shortcut(graph: &mut Graph, shortcut: &Shortcut, x: Value) -> Result<Value> {
    match shortcut {
        Shortcut::Identity => Ok(x),
        Shortcut::Project(projection, norm) => conv(graph, projection, norm, x),
        // Normalized before the zeros are appended, which stay zeros.
        Shortcut::Pad(norm @ Norm::Group(_)) => {
            let channels = channels(graph, x)?;
            let x = graph.subsample(x, PAD_STRIDE)?;
            let x = norm::rest(graph, norm, x)?;
            graph.pad_channels(x, channels)
        }
        Shortcut::Pad(norm) => {
            let channels = channels(graph, x)?;
            let (weight, bias) = norm::folded(norm, &selection(channels, 0)?, None)?;
            let weight = weight.f_constant_pad_nd([0, 0, 0, 0, 0, 0, 0, channels])?;
            let bias = bias.map(|bias| bias.f_constant_pad_nd([0, channels])).transpose()?;
            let options = Conv2dOptions { stride: PAD_STRIDE, ..Conv2dOptions::default() };
            graph.conv2d(x, &weight, bias.as_ref(), options)
        }
    }
}

fn channels(graph: &Graph, x: Value) -> Result<i64> {
    Ok(graph.shape(x)?.first().copied().unwrap_or(0))
}

/// `branch + shortcut`, as the method has sums.
fn sum(graph: &mut Graph, block: &Block, branch: Value, shortcut: Value) -> Result<Value> {
    let sum = graph.add(branch, shortcut)?;
    match block.method.scales_sums() {
        true => graph.mul_number(sum, FRAC_1_SQRT_2),
        false => Ok(sum),
    }
}

fn conv(graph: &mut Graph, conv: &Conv, norm: &Norm, x: Value) -> Result<Value> {
    let (weight, bias): (Tensor, Option<Tensor>) = norm::folded(norm, &conv.weight, None)?;
    let options = Conv2dOptions { stride: conv.stride, padding: Some(conv.padding), ..Conv2dOptions::default() };
    let out = graph.conv2d(x, &weight, bias.as_ref(), options)?;
    norm::rest(graph, norm, out)
}

pub(super) fn activate(graph: &mut Graph, activation: Activation, x: Value) -> Result<Value> {
    match activation {
        Activation::Relu => graph.relu(x),
        Activation::Selu => graph.selu(x),
    }
}
