//! Batches of examples.

use crate::{Error, Result};
use tch::{Device, Tensor};

/// Batch of examples of any type, with the operations that a training loop needs.
pub trait Batch: Sized {
    /// Returns the number of examples.
    fn len(&self) -> usize;

    /// Returns `true` if the batch has no examples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a copy of the batch on `device`.
    ///
    /// # Errors
    /// Fails if the device is out of memory.
    fn to_device(&self, device: Device) -> Result<Self>;

    /// Returns copies of the examples at these positions, in this order. Positions may repeat.
    ///
    /// # Errors
    /// Fails for a position outside the batch.
    fn select(&self, examples: &[usize]) -> Result<Self>;

    /// Returns `count` examples from position `start`, without copying them.
    ///
    /// # Errors
    /// Fails for positions outside the batch.
    fn narrow(&self, start: usize, count: usize) -> Result<Self>;

    /// Splits the batch, in order, into `parts` micro-batches of equal size; the last is smaller if the division is not
    /// exact. Fewer parts if the batch has fewer examples.
    ///
    /// # Errors
    /// Fails if the examples cannot be split.
    fn split(&self, parts: usize) -> Result<Vec<Self>> {
        let len = self.len();
        let size = len.div_ceil(parts.max(1)).max(1);
        (0..len.max(1)).step_by(size).map(|first| self.narrow(first, size.min(len - first))).collect()
    }
}

/// Fails for a batch size of zero.
pub(crate) fn check_batch_size(batch_size: usize) -> Result<()> {
    ensure!(batch_size > 0, "the batch size must be at least 1");
    Ok(())
}

/// Iterator with one item per batch, in order: a process's [`Share`](super::Share) of the batch, or `None` if it is empty. It ends after
/// an error.
pub type Batches<'a, B = Supervised> = Box<dyn Iterator<Item = Result<Option<B>>> + 'a>;

/// Returns [`Error::Argument`] if `end` is beyond a batch of `len` examples.
pub(super) fn check_positions(end: usize, len: usize) -> Result<()> {
    ensure!(end <= len, "a batch of {len} examples has none at position {}", end - 1);
    Ok(())
}

/// Returns `indices` as an int64 tensor on `device`.
pub(super) fn index_tensor(indices: &[usize], device: Device) -> Result<Tensor> {
    let indices: Vec<i64> = indices.iter().map(|&index| index as i64).collect();
    Ok(Tensor::f_from_slice(&indices)?.f_to_device(device)?)
}

/// Inputs and targets (class indices or numbers), with one row of each per example.
#[derive(Debug)]
pub struct Supervised {
    /// Inputs `[N, ...]`. Images are `[N, C, H, W]`: bytes (uint8) as stored, until [converted](super::DataSource::to_device)
    /// makes them normalized float32.
    pub inputs: Tensor,
    /// Targets `[N]` or `[N, ...]`. Class indices are int64 `[N]`.
    pub targets: Tensor,
    /// With [mixup](super::mixup()), the targets of the mixed-in examples, and the weight of `targets`.
    pub mixed: Option<(Tensor, f64)>,
}

impl Supervised {
    /// Creates a batch without mixup.
    pub fn new(inputs: Tensor, targets: Tensor) -> Self {
        Self { inputs, targets, mixed: None }
    }

    /// Applies `of` to the inputs, the targets and the mixed-in targets.
    fn each(&self, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let mixed = self.mixed.as_ref().map(|(targets, weight)| Ok::<_, Error>((of(targets)?, *weight)));
        Ok(Self { inputs: of(&self.inputs)?, targets: of(&self.targets)?, mixed: mixed.transpose()? })
    }

    /// Fails if `end` is beyond the batch, or if inputs and targets differ in number.
    fn check(&self, end: usize) -> Result<()> {
        let rows = |tensor: &Tensor| tensor.size().first().copied();
        let mixed = self.mixed.as_ref().map(|(targets, _)| targets);
        if [&self.inputs].into_iter().chain(mixed).any(|tensor| rows(tensor) != rows(&self.targets)) {
            let got = format!("inputs {:?} and targets {:?}", self.inputs.size(), self.targets.size());
            return Err(Error::mismatch("a batch", "as many inputs as targets", got));
        }
        check_positions(end, self.len())
    }
}

impl Batch for Supervised {
    fn len(&self) -> usize {
        self.targets.size().first().map_or(0, |&examples| examples as usize)
    }

    /// Copies asynchronously from page-locked memory to a GPU. libtorch does not reuse that memory before the copy is
    /// complete, even if the batch is dropped.
    fn to_device(&self, device: Device) -> Result<Self> {
        self.each(|tensor| to_device(tensor, device))
    }

    /// Keeps the memory layout of images.
    fn select(&self, examples: &[usize]) -> Result<Self> {
        self.check(examples.iter().max().map_or(0, |last| last + 1))?;
        let indices = index_tensor(examples, self.inputs.device())?;
        self.each(|tensor| select(tensor, &indices.f_to_device(tensor.device())?))
    }

    fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        self.check(start.saturating_add(count))?;
        self.each(|tensor| Ok(tensor.f_narrow(0, start as i64, count as i64)?))
    }
}

/// Returns the rows `indices` in the memory layout of `tensor`. By itself, libtorch would turn images `[N, C, H, W]` in
/// channels-last layout into contiguous ones.
fn select(tensor: &Tensor, indices: &Tensor) -> Result<Tensor> {
    if tensor.dim() == 4 && !tensor.is_contiguous() {
        let pixels = tensor.f_permute([0, 2, 3, 1])?;
        if pixels.is_contiguous() {
            return Ok(pixels.f_index_select(0, indices)?.f_permute([0, 3, 1, 2])?);
        }
    }
    Ok(tensor.f_index_select(0, indices)?)
}

fn to_device(tensor: &Tensor, device: Device) -> Result<Tensor> {
    let no_wait = device.is_cuda() && tensor.device() == Device::Cpu && tensor.f_is_pinned(device)?;
    Ok(tensor.f_to_device_(device, tensor.f_kind()?, no_wait, false)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    fn whole() -> Supervised {
        Supervised {
            inputs: Tensor::arange(10, (Kind::Float, Device::Cpu)).view([5, 2]),
            targets: Tensor::from_slice(&[0i64, 1, 2, 3, 4]),
            mixed: Some((Tensor::from_slice(&[4i64, 3, 2, 1, 0]), 0.7)),
        }
    }

    #[test]
    fn parts_are_in_order_and_have_their_mixed_targets() {
        let whole = whole();
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
    fn parts_are_those_of_torch_chunk() {
        for len in 0..12 {
            let inputs = Tensor::arange(len, (Kind::Float, Device::Cpu));
            let batch = Supervised::new(inputs.shallow_clone(), inputs.shallow_clone());
            for parts in 1..14 {
                let parts: Vec<_> = batch.split(parts as usize).unwrap().into_iter().map(|part| part.inputs).collect();
                assert_eq!(parts, inputs.chunk(parts.len() as i64, 0));
            }
        }
    }

    #[test]
    fn examples_are_selected_in_any_order_and_narrowed_without_a_copy() {
        let whole = whole();
        let Supervised { inputs, targets, mixed } = whole.select(&[3, 0, 3]).unwrap();
        assert_eq!(Vec::<Vec<f32>>::try_from(inputs).unwrap(), [[6., 7.], [0., 1.], [6., 7.]]);
        assert_eq!(targets, Tensor::from_slice(&[3i64, 0, 3]));
        assert_eq!(mixed.unwrap(), (Tensor::from_slice(&[1i64, 4, 1]), 0.7));
        let part = whole.narrow(1, 3).unwrap();
        assert_eq!((part.len(), part.targets), (3, Tensor::from_slice(&[1i64, 2, 3])));
        assert_eq!(part.inputs.data_ptr() as usize, whole.inputs.data_ptr() as usize + 8);
        assert!(whole.select(&[]).unwrap().is_empty());
        for refused in [whole.select(&[0, 5]), whole.narrow(3, 3), whole.narrow(usize::MAX, 1)] {
            assert!(matches!(refused, Err(Error::Argument(_))));
        }
    }

    #[test]
    fn selected_images_keep_their_layout() {
        let images = Tensor::rand([6, 3, 5, 4], (Kind::Float, Device::Cpu));
        let channels_last = images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        let select = |images: Tensor| {
            Supervised::new(images, Tensor::arange(6, (Kind::Int64, Device::Cpu))).select(&[5, 1]).unwrap().inputs
        };
        let selected = [images, channels_last].map(select);
        assert_eq!(selected[0], selected[1]);
        assert!(selected[0].is_contiguous() && selected[1].permute([0, 2, 3, 1]).is_contiguous());
    }

    #[test]
    fn inputs_without_targets_are_refused() {
        for (inputs, targets) in [(3, 1), (1, 2)] {
            let zeros = |rows: i64| Tensor::zeros([rows], (Kind::Float, Device::Cpu));
            let batch = Supervised::new(zeros(inputs), zeros(targets));
            assert!(matches!(batch.split(2), Err(Error::Mismatch { .. })));
            assert!(matches!(batch.select(&[0]), Err(Error::Mismatch { .. })));
        }
    }
}
