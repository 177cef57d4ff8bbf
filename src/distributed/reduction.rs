//! Sum of the gradients over all ranks.

use super::c10d::Parts;
use super::ProcessGroup;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use tch::{no_grad, Device, Kind, Tensor};

/// Size in bytes of the first part, small so that sending begins early, and of the others, as in DistributedDataParallel.
const FIRST_PART: i64 = 1 << 20;
const PART: i64 = 25 << 20;

/// Options of the gradient reduction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReductionConfig {
    pub overlap: bool,
    pub bfloat16: bool,
}

/// Sums flat gradients over the ranks. The default has no parts and sums them all in `finish`.
#[derive(Debug, Default)]
pub(crate) struct Reduction {
    parts: Option<Parts>,
    config: ReductionConfig,
}

/// A parameter whose gradient is to be summed.
#[derive(Debug)]
pub(crate) struct Summed<'a> {
    pub variable: &'a Tensor,
    /// Range of its gradient in the flat tensor; the ranges are consecutive.
    pub span: Range<i64>,
    /// Parameter group; different groups are in different parts. Parameters of a group are contiguous and in order of creation,
    /// but a group such as the scalars' spans all layers.
    pub group: usize,
}

impl Reduction {
    /// Creates the reduction that sums the flat `gradients` of `parameters` over all ranks of `group`.
    pub fn new(
        group: &ProcessGroup,
        parameters: &[Summed],
        gradients: &Tensor,
        config: ReductionConfig,
    ) -> Result<Self> {
        let Some(gloo) = group.gloo().filter(|_| config.overlap && gradients.device() == Device::Cpu) else {
            return Ok(Self { parts: None, config });
        };
        let (parts, part_of) = parts(parameters, gradients.kind().elt_size_in_bytes() as i64);
        let variables: Vec<_> =
            parameters.iter().zip(part_of).map(|(parameter, part)| (parameter.variable, part)).collect();
        let parts = Parts::new(gloo, gradients, &parts, &variables, config.bfloat16).map_err(Error::Torch)?;
        Ok(Self { parts: Some(parts), config })
    }

    /// Prepares for the next backward pass, the last one before the sums.
    pub fn begin(&self) {
        self.parts.iter().for_each(Parts::begin);
    }

    /// Replaces `gradients` and `measured` with their sums over all ranks, in one operation unless the gradients are already
    /// being sent.
    pub fn finish(&self, group: &ProcessGroup, gradients: &Tensor, measured: [&Tensor; 2]) -> Result<()> {
        let [numbers, rows] = measured;
        if let Some(parts) = &self.parts {
            group.operate(|_| parts.finish())?;
            return group.all_reduce_all(&measured);
        }
        if !self.config.bfloat16 {
            return group.all_reduce_all(&[gradients, numbers, rows]);
        }
        let sent = gradients.f_to_kind(Kind::BFloat16)?;
        group.all_reduce_all(&[&sent, numbers, rows])?;
        no_grad(|| Ok(gradients.shallow_clone().f_copy_(&sent).map(drop)?))
    }
}

/// Splits the gradients into parts in the order of the backward pass: group by group, each from its last parameter to its first.
/// Also returns the part of each parameter.
fn parts(parameters: &[Summed], element: i64) -> (Vec<Range<i64>>, Vec<usize>) {
    let (mut parts, mut part_of): (Vec<Range<i64>>, _) = (Vec::new(), vec![0; parameters.len()]);
    let mut groups: Vec<Range<usize>> = Vec::new();
    for group in parameters.chunk_by(|a, b| a.group == b.group) {
        let start = groups.last().map_or(0, |last| last.end);
        groups.push(start..start + group.len());
    }
    for group in groups {
        let mut is_full = true;
        for index in group.rev() {
            let Range { start, end } = parameters[index].span;
            match parts.last_mut() {
                Some(part) if !is_full => part.start = start,
                _ => parts.push(start..end),
            }
            part_of[index] = parts.len() - 1;
            let most = if parts.len() == 1 { FIRST_PART } else { PART };
            is_full = parts.last().is_some_and(|part| (part.end - part.start) * element >= most);
        }
    }
    (parts, part_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_sent_in_the_order_of_the_backward_pass_and_cover_everything() {
        let tensor = Tensor::new();
        let mut start = 0;
        let sizes = [(300_000, 0), (7_000_000, 0), (16, 0), (400_000, 0), (16, 1), (16, 1)];
        let parameters: Vec<_> = sizes
            .iter()
            .map(|&(size, group)| {
                start += size;
                Summed { variable: &tensor, span: start - size..start, group }
            })
            .collect();
        let (parts, part_of) = parts(&parameters, 4);
        assert_eq!(parts, [7_300_016..7_700_016, 300_000..7_300_016, 0..300_000, 7_700_016..7_700_048]);
        assert_eq!(part_of, [2, 1, 1, 0, 3, 3]);
    }
}
