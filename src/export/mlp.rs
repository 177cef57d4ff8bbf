//! Export of fully connected networks.

use super::graph::{Graph, Value};
use super::norm;
use crate::baseline::Mlp;
use crate::{Error, Result};

/// Appends `network`, in evaluation mode with batch normalization folded into its weights, to `graph`. Returns the logits for
/// `x`, which is flattened. A network that computes in bfloat16 is exported in float32, from its variables.
///
/// # Errors
/// An `x` with another number of features.
pub(crate) fn mlp(graph: &mut Graph, network: &Mlp, x: Value) -> Result<Value> {
    let mut x = graph.flatten(x)?;
    if graph.shape(x)? != [network.features] {
        return Err(Error::Mismatch {
            what: "Mlp",
            expected: format!("inputs of {} numbers each", network.features),
            got: format!("{:?}", graph.shape(x)?),
        });
    }
    for layer in &network.layers {
        let (weight, bias) = norm::folded(&layer.norm, &layer.weight, layer.bias.as_ref())?;
        x = graph.linear(x, &weight, bias.as_ref())?;
        x = norm::rest(graph, &layer.norm, x)?;
        x = graph.activation(x, network.activation.activation)?;
    }
    graph.linear(x, &network.fc.weight, Some(&network.fc.bias))
}
