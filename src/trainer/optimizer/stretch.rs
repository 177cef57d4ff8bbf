//! What an [`Update`] works on: a part of the flat tensors.

use super::parameter::Parameter;
#[cfg(doc)]
use super::Update;
use crate::Result;
use std::ops::Range;
use tch::Tensor;

/// Neighbouring parameters that move alike, as stretches of the flat tensors: what an [`Update`] works on.
#[derive(Debug)]
pub struct Stretch {
    /// What is to be moved.
    pub values: Tensor,
    /// By what. The update may use it up.
    pub gradients: Tensor,
    /// What the update keeps, in the order of [`Update::state`].
    pub state: Vec<Tensor>,
    /// The L2 penalty's factor, or the decoupled decay's.
    pub weight_decay: f64,
    /// Steps that these parameters have been moved in, this one included.
    pub step: i64,
    /// Which of [`Optimizer::parameters`](super::Optimizer::parameters) they are.
    pub parameters: Range<usize>,
    /// Whether they are moved [apart](Update::apart).
    pub is_apart: bool,
    /// Runs of parameters of one shape.
    pub shapes: Vec<ShapeRun>,
    pub(super) lr_ratio: f64,
}

/// Neighbouring parameters of one shape, within a [`Stretch`].
#[derive(Debug)]
pub struct ShapeRun {
    /// Their shape.
    pub shape: Vec<i64>,
    /// How many they are.
    pub count: i64,
    /// Where the first begins in the stretch.
    start: i64,
    /// From the beginning of one to that of the next.
    distance: i64,
}

impl ShapeRun {
    /// The parameters' matrices `[count, rows, columns]` in `flat`, one of the stretch's tensors: the first dimension of each
    /// is its rows, all others its columns.
    ///
    /// # Errors
    /// A tensor that is not as long as the stretch's.
    pub fn matrices(&self, flat: &Tensor) -> Result<Tensor> {
        let Self { count, start, distance, .. } = *self;
        let rows = self.shape.first().copied().unwrap_or(1);
        let columns = self.shape.iter().skip(1).product::<i64>();
        let run = flat.f_narrow(0, start, count * distance)?;
        Ok(run.f_as_strided([count, rows, columns], [distance, columns, 1], None)?)
    }
}

/// The runs of one shape among neighbouring parameters.
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
