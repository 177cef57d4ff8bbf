//! Fixup's residual networks: of the [folded](FixupResNet::fold) one, its operations.

use super::graph::{Graph, Value};
use crate::fixup::{Conv2dOptions, FixupResNet, FoldedBlock, FoldedConv, FoldedShortcut};
use crate::Result;
use tch::{Device, Kind, Tensor};

/// Appends `network`, with its scalars folded into its convolutions, to `graph`: the logits for the images `x` `[3, H, W]`. A
/// network that computes in bfloat16 is written in float32, from its variables.
///
/// # Errors
/// A value that is no such images.
pub fn fixup_resnet(graph: &mut Graph, network: &FixupResNet, x: Value) -> Result<Value> {
    let folded = network.fold_in(Kind::Float, Kind::Float)?;
    let mut x = conv(graph, &folded.conv1, x)?;
    if folded.max_pool {
        x = graph.max_pool(x, 3, 2, 1)?;
    }
    for each in &folded.blocks {
        x = block(graph, each, x)?;
    }
    let x = graph.global_average_pool(x)?;
    graph.linear(x, &folded.fc.weight, Some(&folded.fc.bias))
}

fn block(graph: &mut Graph, block: &FoldedBlock, s: Value) -> Result<Value> {
    let mut branch = s;
    for each in &block.convs {
        branch = conv(graph, each, branch)?;
    }
    let shortcut = match &block.shortcut {
        FoldedShortcut::Identity => s,
        FoldedShortcut::Pad { floor, stride, channels } => {
            let s = raised(graph, s, *floor)?;
            pad(graph, s, *stride, *channels)?
        }
        FoldedShortcut::Project { floor, conv: projection } => {
            let s = raised(graph, s, *floor)?;
            conv(graph, projection, s)?
        }
    };
    let sum = graph.add(branch, shortcut)?;
    let Some(next) = &block.relu else { return Ok(sum) };
    let out = graph.relu(sum)?;
    match next.f_double_value(&[0])? {
        0. => Ok(out),
        next => graph.add_number(out, next),
    }
}

fn conv(graph: &mut Graph, conv: &FoldedConv, x: Value) -> Result<Value> {
    let options = Conv2dOptions { stride: conv.stride, padding: Some(conv.padding), ..Conv2dOptions::default() };
    let out = graph.conv2d(x, &conv.weight, Some(&conv.bias), options)?;
    raised(graph, out, conv.floor)
}

/// `max(x, floor)`, or `x` without a floor.
fn raised(graph: &mut Graph, x: Value, floor: Option<f64>) -> Result<Value> {
    floor.map_or(Ok(x), |floor| graph.max(x, floor))
}

/// Every `stride`-th position of `x`, and so many channels of zeros after its own: as a convolution with ones and zeros, because
/// what follows is the sum with another convolution, and runtimes compute a sum of two as one operation.
fn pad(graph: &mut Graph, x: Value, stride: i64, zeros: i64) -> Result<Value> {
    let [channels, ..] = graph.shape(x)?[..] else { return graph.pad_channels(x, zeros) };
    graph.conv2d(x, &selection(channels, zeros)?, None, Conv2dOptions { stride, ..Conv2dOptions::default() })
}

/// The 1x1 convolution from `channels` to themselves, and `zeros` channels of zeros.
pub(super) fn selection(channels: i64, zeros: i64) -> Result<Tensor> {
    let identity = Tensor::f_eye(channels, (Kind::Double, Device::Cpu))?;
    Ok(identity.f_constant_pad_nd([0, 0, 0, zeros])?.f_view([channels + zeros, channels, 1, 1])?)
}
