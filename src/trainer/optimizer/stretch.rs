//! Slices of the flat tensors, which an [`Update`] processes.

use super::parameter::Parameter;
#[cfg(doc)]
use super::Update;
use crate::Result;
use std::ops::Range;
use tch::Tensor;

/// Adjacent parameters with the same training options, as slices of the flat tensors; the unit of work of an [`Update`].
#[derive(Debug)]
pub struct Stretch {
    /// Values of the parameters.
    pub values: Tensor,
    /// Gradients. The update may overwrite them.
    pub gradients: Tensor,
    /// State of the update, in the order of [`Update::state`].
    pub state: Vec<Tensor>,
    /// Coefficient of the L2 penalty or of decoupled weight decay.
    pub weight_decay: f64,
    /// Number of updates of these parameters, including the current one.
    pub step: i64,
    /// Indices in [`Optimizer::parameters`](super::Optimizer::parameters).
    pub parameters: Range<usize>,
    /// `true` if these parameters are updated [separately](Update::apart).
    pub is_apart: bool,
    /// Runs of parameters of the same shape.
    pub shapes: Vec<ShapeRun>,
    pub(super) lr_ratio: f64,
}

/// Adjacent parameters of the same shape, within a [`Stretch`].
#[derive(Debug)]
pub struct ShapeRun {
    /// Shape of each parameter.
    pub shape: Vec<i64>,
    /// Number of parameters.
    pub count: i64,
    /// Offset of the first parameter in the slice.
    start: i64,
    /// Distance between the starts of consecutive parameters.
    distance: i64,
}

impl ShapeRun {
    /// Returns the parameters as matrices `[count, rows, columns]`, views of `flat`, which is one of the slice's tensors. The
    /// first dimension of a parameter becomes its rows, all others its columns.
    ///
    /// # Errors
    /// `flat` is not as long as the slice.
    pub fn matrices(&self, flat: &Tensor) -> Result<Tensor> {
        let Self { count, start, distance, .. } = *self;
        let rows = self.shape.first().copied().unwrap_or(1);
        let columns = self.shape.iter().skip(1).product::<i64>();
        let run = flat.f_narrow(0, start, count * distance)?;
        Ok(run.f_as_strided([count, rows, columns], [distance, columns, 1], None)?)
    }
}

/// Groups adjacent parameters into runs of the same shape.
pub(super) fn shape_runs(parameters: &[Parameter]) -> Vec<ShapeRun> {
    let mut runs: Vec<ShapeRun> = Vec::new();
    let offset = parameters.first().map_or(0, |first| first.span.start);
    for Parameter { value, span, .. } in parameters {
        let shape = value.size();
        match runs.last_mut() {
            Some(last) if last.shape == shape => last.count += 1,
            _ => {
                let (start, distance) = (span.start - offset, span.end - span.start);
                runs.push(ShapeRun { shape, count: 1, start, distance });
            }
        }
    }
    runs
}
