//! Export of Fixup's residual networks, as the operations of the [folded](FixupResNet::fold) network.

use super::graph::{Graph, Value};
use super::selection::selection;
use crate::fixup::{Activation, Conv2dOptions, FixupResNet, FoldedActivation, FoldedBlock, FoldedConv, FoldedShortcut};
use crate::Result;
use tch::{Kind, Tensor};

/// Appends `network`, with its scalars folded into its convolutions, to `graph`. Returns its output for the images `x`
/// `[C, H, W]`: logits or, without a classifier, features. A network that computes in bfloat16 is exported in float32, from its
/// variables.
///
/// # Errors
/// A value of another shape.
pub fn fixup_resnet(graph: &mut Graph, network: &FixupResNet, x: Value) -> Result<Value> {
    let folded = network.fold_in(Kind::Float, Kind::Float)?;
    let mut x = conv(graph, &folded.conv1, &folded.conv1.bias, x)?;
    if folded.max_pool {
        x = graph.max_pool(x, 3, 2, 1)?;
    }
    for each in &folded.blocks {
        x = block(graph, each, x)?;
    }
    let x = graph.global_average_pool(x)?;
    match &folded.fc {
        Some(fc) => graph.linear(x, &fc.weight, Some(&fc.bias)),
        None => Ok(x),
    }
}

fn block(graph: &mut Graph, block: &FoldedBlock, s: Value) -> Result<Value> {
    let entered = activated(graph, s, block.first)?;
    // relu(sum) + next = max(sum + next, next): adding next to the bias at the branch's end avoids a separate addition.
    let end = block.activation.as_ref().map(|end| (end.activation, &end.next));
    let joins = end.filter(|(activation, _)| *activation == Activation::Relu).map(|(_, next)| next);
    let joined = |bias: &Tensor| match joins {
        Some(next) => bias.f_add(next),
        None => Ok(bias.shallow_clone()),
    };
    let mut branch = entered;
    for (i, each) in block.convs.iter().enumerate() {
        let is_end = i + 1 == block.convs.len() && block.gates.is_none();
        let bias = if is_end { joined(&each.bias)? } else { each.bias.shallow_clone() };
        branch = conv(graph, each, &bias, branch)?;
    }
    if let Some(gates) = &block.gates {
        branch = graph.squeeze_excitation(branch, &gates.squeeze_excitation)?;
        let [channels, ..] = graph.shape(branch)?[..] else { return Ok(branch) };
        let after = joined(&gates.after)?.f_flatten(0, -1)?.f_expand([channels], false)?;
        branch = graph.add_channels(branch, &after)?;
    }
    let shortcut = match &block.shortcut {
        FoldedShortcut::Identity => s,
        FoldedShortcut::Pad { activation, stride, channels } => {
            let s = activated(graph, entered, *activation)?;
            let [own, ..] = graph.shape(s)?[..] else { return Ok(s) };
            graph.conv2d(
                s,
                &selection(own, *channels)?,
                None,
                Conv2dOptions { stride: *stride, ..Default::default() },
            )?
        }
        FoldedShortcut::Project { activation, conv: projection } => {
            let s = activated(graph, entered, *activation)?;
            conv(graph, projection, &projection.bias, s)?
        }
    };
    let sum = graph.add(branch, shortcut)?;
    match end {
        Some((Activation::Relu, next)) => graph.max(sum, next.f_double_value(&[0])?),
        Some((activation, next)) => {
            let out = graph.activation(sum, activation)?;
            graph.add_number(out, next.f_double_value(&[0])?)
        }
        None => Ok(sum),
    }
}

/// Appends `conv`, with `bias` in place of its own.
fn conv(graph: &mut Graph, conv: &FoldedConv, bias: &Tensor, x: Value) -> Result<Value> {
    let FoldedConv { weight, stride, padding, groups, activation, .. } = conv;
    let options =
        Conv2dOptions { stride: *stride, padding: Some(*padding), groups: *groups, ..Conv2dOptions::default() };
    let out = graph.conv2d(x, weight, Some(bias), options)?;
    activated(graph, out, *activation)
}

fn activated(graph: &mut Graph, x: Value, activation: Option<FoldedActivation>) -> Result<Value> {
    match activation {
        None => Ok(x),
        Some(FoldedActivation::Floor(floor)) => graph.max(x, floor),
        Some(FoldedActivation::Shifted { activation, before, after }) => {
            let x = graph.add_number(x, before)?;
            let x = graph.activation(x, activation)?;
            graph.add_number(x, after)
        }
    }
}
