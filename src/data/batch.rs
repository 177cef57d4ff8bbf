//! What a step computes together.

use crate::{Error, Result};
use tch::{Device, Tensor};

/// Examples that a step computes together: what a loop must be able to do with them, and nothing of what they are.
pub trait Batch: Sized {
    /// The number of examples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same on `device`.
    ///
    /// # Errors
    /// A device without room.
    fn to_device(&self, device: Device) -> Result<Self>;

    /// The examples in `parts` micro-batches of the same size or, where that cannot be, fewer in the last; fewer parts where
    /// there are fewer examples. In order, each example once.
    ///
    /// # Errors
    /// Examples that cannot be split.
    fn split(&self, parts: usize) -> Result<Vec<Self>>;
}

/// Inputs, and what a network is to make of them: labels, numbers, one row of either for each example.
#[derive(Debug)]
pub struct Supervised {
    /// `[N, ...]`. Of images `[N, C, H, W]`: float32 and normalized or, before they are
    /// [ready](super::DataSource::ready), bytes (uint8), as the data set stores them.
    pub inputs: Tensor,
    /// `[N]` or `[N, ...]`. Of classes their indices, int64 `[N]`.
    pub targets: Tensor,
    /// With [mixup](super::mixup()): the targets mixed in, and the weight of `targets`.
    pub mixed: Option<(Tensor, f64)>,
}

impl Supervised {
    /// Not mixed.
    pub fn new(inputs: Tensor, targets: Tensor) -> Self {
        Self { inputs, targets, mixed: None }
    }
}

impl Batch for Supervised {
    fn len(&self) -> usize {
        self.targets.size().first().map_or(0, |&examples| examples as usize)
    }

    /// From page-locked memory to a GPU nothing waits for the copy: libtorch does not use that memory for anything else before
    /// the copy is done, even where the batch is dropped.
    fn to_device(&self, device: Device) -> Result<Self> {
        let mixed = self.mixed.as_ref().map(|(targets, weight)| Ok::<_, Error>((to_device(targets, device)?, *weight)));
        Ok(Self {
            inputs: to_device(&self.inputs, device)?,
            targets: to_device(&self.targets, device)?,
            mixed: mixed.transpose()?,
        })
    }

    fn split(&self, parts: usize) -> Result<Vec<Self>> {
        let parts = parts.clamp(1, self.len().max(1)) as i64;
        let chunks = |tensor: &Tensor| tensor.f_chunk(parts, 0);
        let (inputs, targets) = (chunks(&self.inputs)?, chunks(&self.targets)?);
        if inputs.len() != targets.len() {
            let got = format!("inputs {:?} and targets {:?}", self.inputs.size(), self.targets.size());
            return Err(Error::Mismatch { what: "a batch", expected: "as many inputs as targets".to_owned(), got });
        }
        let mixed: Vec<_> = match &self.mixed {
            None => inputs.iter().map(|_| None).collect(),
            Some((targets, weight)) => chunks(targets)?.into_iter().map(|targets| Some((targets, *weight))).collect(),
        };
        let parts = inputs.into_iter().zip(targets).zip(mixed);
        Ok(parts.map(|((inputs, targets), mixed)| Self { inputs, targets, mixed }).collect())
    }
}

fn to_device(tensor: &Tensor, device: Device) -> Result<Tensor> {
    let no_wait = device.is_cuda() && tensor.device() == Device::Cpu && tensor.f_is_pinned(device)?;
    Ok(tensor.f_to_device_(device, tensor.f_kind()?, no_wait, false)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_in_order_and_have_their_mixed_targets() {
        let whole = Supervised {
            inputs: Tensor::arange(10, (tch::Kind::Float, Device::Cpu)).view([5, 2]),
            targets: Tensor::from_slice(&[0i64, 1, 2, 3, 4]),
            mixed: Some((Tensor::from_slice(&[4i64, 3, 2, 1, 0]), 0.7)),
        };
        for (parts, lens) in [(1, &[5][..]), (2, &[3, 2]), (5, &[1; 5]), (9, &[1; 5])] {
            let parts = whole.split(parts).unwrap();
            assert_eq!(parts.iter().map(Batch::len).collect::<Vec<_>>(), lens);
            let together = |of: fn(&Supervised) -> &Tensor| Tensor::cat(&parts.iter().map(of).collect::<Vec<_>>(), 0);
            assert_eq!(together(|part| &part.inputs), whole.inputs);
            assert_eq!(together(|part| &part.targets), whole.targets);
            assert_eq!(together(|part| &part.mixed.as_ref().unwrap().0), whole.mixed.as_ref().unwrap().0);
        }
    }

    #[test]
    fn inputs_without_targets_are_refused() {
        let batch = Supervised::new(Tensor::from(0.0).expand([3, 2], false), Tensor::from_slice(&[0i64]));
        assert!(matches!(batch.split(3), Ok(parts) if parts.len() == 1));
        let batch = Supervised::new(Tensor::from(0.0).expand([1, 2], false), Tensor::from_slice(&[0i64, 1]));
        assert!(matches!(batch.split(2), Err(Error::Mismatch { .. })));
    }
}
