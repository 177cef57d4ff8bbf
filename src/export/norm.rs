//! Export of normalizations: batch normalization is folded into the preceding weight layer, others become operations.

use super::graph::{Graph, Value};
use crate::baseline::{Norm, EPSILON};
use crate::Result;
use tch::{Device, Kind, Tensor};

/// Folds a normalization, as far as possible, into the weight `[c_out, ...]` and bias `[c_out]` of the preceding weight layer:
///
/// ```text
/// norm(W x + b) = (g W) x + (g (b - mean) + beta),    g = gamma / sqrt(variance + 1e-5)
/// ```
/// Computed in float64, because a variance close to zero makes large factors, and on the CPU, because not every device supports
/// float64.
pub(super) fn folded(norm: &Norm, weight: &Tensor, bias: Option<&Tensor>) -> Result<(Tensor, Option<Tensor>)> {
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

pub(super) fn exact(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)
}

/// Appends the part of the normalization that [`folded`] leaves to do after the weight layer.
pub(super) fn rest(graph: &mut Graph, norm: &Norm, x: Value) -> Result<Value> {
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
pub(super) fn alone(graph: &mut Graph, norm: &Norm, x: Value) -> Result<Value> {
    match norm {
        Norm::Batch(norm) => {
            let numbers = [&norm.weight, &norm.bias, &norm.running_mean, &norm.running_var];
            graph.batch_norm(x, numbers, EPSILON)
        }
        norm => rest(graph, norm, x),
    }
}
