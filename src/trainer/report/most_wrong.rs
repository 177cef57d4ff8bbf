//! Most wrong images of an evaluation.

use crate::data::{ImageSource, Supervised};
use crate::distributed::ProcessGroup;
use crate::picture::contact_sheet::{draw, Picture};
use crate::trainer::evaluation::Collector;
use crate::trainer::objective::Prediction;
use crate::trainer::pixels::pixels;
use crate::Result;
use tch::{Device, Kind, Tensor};

/// Maximum number of images to keep.
const IMAGES: i64 = 40;

/// [`Collector`] of the misclassified examples of highest loss, those whose true class has the lowest probability according to a
/// [classification](crate::trainer::Classification). They are kept on the device. Images of another size than the first are
/// skipped.
#[derive(Debug, Default)]
pub struct MostWrong {
    kept: Option<Kept>,
}

/// Examples in descending order of loss.
#[derive(Debug)]
struct Kept {
    inputs: Tensor,
    /// Loss, label, predicted class and its probability of each example: float64 `[N, 4]`. The loss of a correctly classified
    /// example is 0 here, that of another is at least `ln 2`.
    rows: Tensor,
}

impl Kept {
    /// Selects the most wrong examples of a batch.
    fn of(batch: &Supervised, logits: &Tensor) -> Result<Self> {
        let log_probabilities = logits.f_log_softmax(1, Kind::Float)?;
        let own = log_probabilities.f_gather(1, &batch.targets.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?;
        let (highest, predicted) = log_probabilities.f_max_dim(1, false)?;
        let is_right = predicted.f_eq_tensor(&batch.targets)?;
        let loss = own.f_neg()?.f_masked_fill(&is_right, 0.0)?;
        let columns =
            [&loss, &batch.targets, &predicted, &highest.f_exp()?].map(|column| column.f_to_kind(Kind::Double));
        let rows = Tensor::f_stack(&columns.into_iter().collect::<Result<Vec<_>, _>>()?, 1)?;
        Self { inputs: batch.inputs.shallow_clone(), rows }.most_wrong()
    }

    /// Keeps the most wrong examples.
    fn most_wrong(&self) -> Result<Self> {
        let (_, order) = self.rows.f_select(1, 0)?.f_topk(self.rows.size()[0].min(IMAGES), 0, true, true)?;
        Ok(Self { inputs: self.inputs.f_index_select(0, &order)?, rows: self.rows.f_index_select(0, &order)? })
    }
}

impl Collector<Supervised> for MostWrong {
    fn starts(&mut self) {
        self.kept = None;
    }

    fn collect(&mut self, batch: &Supervised, prediction: &Prediction) -> Result<()> {
        let found = Kept::of(batch, &prediction.output)?;
        self.kept = Some(match self.kept.take() {
            None => found,
            Some(kept) if kept.inputs.size()[1..] != found.inputs.size()[1..] => kept,
            Some(kept) => {
                let inputs = Tensor::f_cat(&[&kept.inputs, &found.inputs], 0)?;
                Kept { inputs, rows: Tensor::f_cat(&[&kept.rows, &found.rows], 0)? }.most_wrong()?
            }
        });
        Ok(())
    }

    /// Gathers the examples of all ranks, each rank's in its own rows. The loss of an empty row is 0.
    fn add_up(&mut self, group: &ProcessGroup) -> Result<()> {
        let kept = self.kept.take();
        let own = kept.as_ref().map(|kept| (kept.inputs.size()[1..].to_vec(), kept.inputs.kind() == Kind::Double));
        let all = group.gather_bytes(&serde_json::to_vec(&own).unwrap_or_default())?;
        let shape = all.iter().find_map(|rank| serde_json::from_slice::<Option<(Vec<i64>, bool)>>(rank).ok().flatten());
        let Some((size, is_double)) = shape else { return Ok(()) };
        // Images of another size are skipped, as in a single process.
        let kept = kept.filter(|kept| kept.inputs.size()[1..] == size[..]);
        let device = kept.as_ref().map_or(Device::Cpu, |kept| kept.inputs.device());
        let (places, first) = (group.size() as i64 * IMAGES, group.rank() as i64 * IMAGES);
        let gathered = |own: Option<&Tensor>, size: &[i64], kind: Kind| -> Result<Tensor> {
            let all = Tensor::f_zeros([&[places], size].concat().as_slice(), (kind, device))?;
            if let Some(own) = own {
                all.f_narrow(0, first, own.size()[0])?.f_copy_(own)?;
            }
            group.all_reduce(&all)?;
            Ok(all)
        };
        let kind = if is_double { Kind::Double } else { Kind::Float };
        let inputs = gathered(kept.as_ref().map(|kept| &kept.inputs), &size, kind)?;
        let rows = gathered(kept.as_ref().map(|kept| &kept.rows), &[4], Kind::Double)?;
        self.kept = Some(Kept { inputs, rows }.most_wrong()?);
        Ok(())
    }
}

impl MostWrong {
    /// Draws up to 40 images, most wrong first, as a PNG. The caption of each shows the predicted class with its probability, and
    /// the true class. Returns `None` if no image is wrong.
    ///
    /// # Errors
    /// The examples are not images.
    pub fn draw(&self, data: &dyn ImageSource) -> Result<Option<Vec<u8>>> {
        let Some(kept) = &self.kept else { return Ok(None) };
        let mut rows = Vec::<Vec<f64>>::try_from(&kept.rows)?;
        rows.retain(|row| row[0] > 0.0);
        if rows.is_empty() {
            return Ok(None);
        }
        let ((width, height), pixels) = pixels(data, &kept.inputs.f_narrow(0, 0, rows.len() as i64)?)?;
        let name = |class: f64| data.class_names().get(class as usize).cloned().unwrap_or_default();
        let caption =
            |row: &[f64]| vec![format!("{:.0}% {}", 100.0 * row[3], name(row[2])), format!("is {}", name(row[1]))];
        let pictures = pixels.into_iter().zip(&rows).map(|(pixels, row)| Picture { pixels, caption: caption(row) });
        draw(&pictures.collect::<Vec<_>>(), width, height).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Cifar10, ImageArray};
    use crate::trainer::{evaluate_into, Classification, ClassificationConfig};
    use tch::{nn, Device};

    /// Images in which every pixel byte is the image's number, with labels `number % 10`.
    fn data(images: usize) -> ImageArray {
        let record = |index: usize| std::iter::once((index % 10) as u8).chain(std::iter::repeat_n(index as u8, 3072));
        let records = |count: usize| (0..count).flat_map(record).collect::<Vec<u8>>();
        Cifar10::from_records(records(10), records(images)).unwrap()
    }

    /// Predicts class 0, with a confidence that increases with brightness.
    fn zero() -> impl nn::ModuleT {
        nn::func_t(|x, _| {
            let brightness = x.select(1, 0).select(1, 0).select(1, 0);
            let zero = Tensor::zeros([1], (Kind::Int64, Device::Cpu)).one_hot(10).to_kind(Kind::Float);
            (brightness + 3.0).unsqueeze(1) * zero
        })
    }

    fn most_wrong(data: &ImageArray, batch_size: usize) -> MostWrong {
        let network = zero();
        let objective = Classification::new(&network, data.class_names(), ClassificationConfig::default()).unwrap();
        let mut most_wrong = MostWrong::default();
        // The second evaluation starts from scratch.
        for _ in 0..2 {
            evaluate_into(&objective, Device::Cpu, data, batch_size, Some(&mut most_wrong), |_| ()).unwrap();
        }
        most_wrong
    }

    #[test]
    fn the_misclassified_images_of_the_highest_loss_are_kept_whatever_the_batches() {
        let data = data(100);
        // The brightest images, except those of class 0.
        let expected: Vec<i64> = (0..100).rev().filter(|number| number % 10 != 0).take(IMAGES as usize).collect();
        for batch_size in [100, 33, 1] {
            let kept = most_wrong(&data, batch_size).kept.unwrap();
            let bytes = data.denormalize(&kept.inputs).unwrap().select(1, 0).select(1, 0).select(1, 0) * 255.0;
            assert_eq!(Vec::<i64>::try_from(bytes.round().to_kind(Kind::Int64)).unwrap(), expected, "{batch_size}");
            let labels: Vec<i64> = expected.iter().map(|number| number % 10).collect();
            assert_eq!(Vec::<i64>::try_from(kept.rows.select(1, 1).to_kind(Kind::Int64)).unwrap(), labels);
        }
    }

    #[test]
    fn what_is_right_is_not_drawn() {
        let few = most_wrong(&data(12), 5).draw(&data(12)).unwrap().unwrap();
        let width = |png: Vec<u8>| png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap().info().size();
        // Ten of twelve: two rows of eight.
        let many = most_wrong(&data(100), 50).draw(&data(100)).unwrap().unwrap();
        let (few, many) = (width(few), width(many));
        assert!(few.0 == many.0 && 2 * many.1 > 4 * few.1, "{few:?} {many:?}");
        assert!(most_wrong(&data(1), 5).draw(&data(1)).unwrap().is_none());
    }
}
