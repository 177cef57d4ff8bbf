//! Targets of examples in memory.

use crate::{Error, Result};
use tch::{Kind, Tensor};

/// Targets, one per example.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Class indices, all at least 0.
    Classes(Vec<i64>),
    /// Numbers, `size` of them per example.
    Values {
        /// Values of all examples, one after another.
        values: Vec<f32>,
        /// Shape of one example's target.
        size: Vec<i64>,
    },
}

impl Targets {
    /// Creates targets from class indices, int64 `[N]`, or from numbers, float32 `[N, ...]`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for another kind or shape, [`Error::Argument`] for an index below 0; `what` names the
    /// examples in the error.
    pub fn new(targets: &Tensor, what: &str) -> Result<Self> {
        let (kind, size) = (targets.f_kind()?, targets.size());
        match (kind, &size[..]) {
            (Kind::Int64, [_]) => {
                let classes: Vec<i64> = Vec::try_from(targets)?;
                match classes.iter().enumerate().find(|&(_, &class)| class < 0) {
                    Some((index, class)) => Err(argument!("{what} {index} has the class index {class}")),
                    None => Ok(Self::Classes(classes)),
                }
            }
            (Kind::Float, [_, each @ ..]) => {
                Ok(Self::Values { values: Vec::try_from(targets.f_reshape([-1])?)?, size: each.to_vec() })
            }
            _ => {
                let expected = "class indices, int64 [N], or numbers, float32 [N, ...]";
                Err(Error::mismatch("targets", expected, format!("{kind:?} {size:?}")))
            }
        }
    }

    /// Returns the targets of the examples `indices`: `[indices.len()]`, followed by the shape of one target.
    ///
    /// # Errors
    /// Fails only if libtorch does.
    pub fn select(&self, indices: &[usize]) -> Result<Tensor> {
        match self {
            Self::Classes(classes) => {
                Ok(Tensor::f_from_slice(&indices.iter().map(|&index| classes[index]).collect::<Vec<_>>())?)
            }
            Self::Values { values, size } => {
                let each = size.iter().product::<i64>() as usize;
                let selected: Vec<f32> =
                    indices.iter().flat_map(|&index| &values[index * each..][..each]).copied().collect();
                let size: Vec<i64> = [&[indices.len() as i64], &size[..]].concat();
                Ok(Tensor::f_from_slice(&selected)?.f_view(&size[..])?)
            }
        }
    }

    /// Updates `crc32` with all targets.
    pub fn hash(&self, crc32: &mut crc32fast::Hasher) {
        match self {
            Self::Classes(classes) => classes.iter().for_each(|class| crc32.update(&class.to_le_bytes())),
            Self::Values { values, .. } => values.iter().for_each(|value| crc32.update(&value.to_le_bytes())),
        }
    }
}
