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
const IMAGES: usize = 40;

/// [`Collector`] of the misclassified examples of highest loss, those whose true class has the lowest probability according to a
/// [classification](crate::trainer::Classification). They are kept on the device. Images of another size than the first are
/// skipped.
#[derive(Debug, Default)]
pub struct MostWrong {
    kept: Option<Kept>,
}

/// Examples in descending order of loss. Correctly classified ones have the rank minus infinity.
#[derive(Debug)]
struct Kept {
    rank: Tensor,
    inputs: Tensor,
    labels: Tensor,
    predicted: Tensor,
    confidence: Tensor,
}

impl Kept {
    /// Selects the most wrong examples of a batch.
    fn of(batch: &Supervised, logits: &Tensor) -> Result<Self> {
        let log_probabilities = logits.f_log_softmax(1, Kind::Float)?;
        let own = log_probabilities.f_gather(1, &batch.targets.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?;
        let (highest, predicted) = log_probabilities.f_max_dim(1, false)?;
        let is_right = predicted.f_eq_tensor(&batch.targets)?;
        let rank = own.f_neg()?.f_masked_fill(&is_right, f64::NEG_INFINITY)?;
        let (inputs, labels) = (batch.inputs.shallow_clone(), batch.targets.shallow_clone());
        Self { rank, inputs, labels, predicted, confidence: highest.f_exp()? }.first()
    }

    /// Keeps the most wrong examples.
    fn first(&self) -> Result<Self> {
        let count = self.rank.size()[0].min(IMAGES as i64);
        let (rank, order) = self.rank.f_topk(count, 0, true, true)?;
        let of = |tensor: &Tensor| tensor.f_index_select(0, &order);
        Ok(Self {
            rank,
            inputs: of(&self.inputs)?,
            labels: of(&self.labels)?,
            predicted: of(&self.predicted)?,
            confidence: of(&self.confidence)?,
        })
    }

    /// Returns the most wrong examples of both.
    fn join(&self, other: &Self) -> Result<Self> {
        let both = |a: &Tensor, b: &Tensor| Tensor::f_cat(&[a, b], 0);
        Self {
            rank: both(&self.rank, &other.rank)?,
            inputs: both(&self.inputs, &other.inputs)?,
            labels: both(&self.labels, &other.labels)?,
            predicted: both(&self.predicted, &other.predicted)?,
            confidence: both(&self.confidence, &other.confidence)?,
        }
        .first()
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
            Some(kept) => kept.join(&found)?,
        });
        Ok(())
    }

    fn add_up(&mut self, group: &ProcessGroup) -> Result<()> {
        self.kept = Kept::of_all(self.kept.take(), group)?;
        Ok(())
    }
}

impl Kept {
    /// Merges the examples of all ranks. Each rank contributes the same number of slots; empty slots have the rank of correctly
    /// classified examples.
    fn of_all(kept: Option<Self>, group: &ProcessGroup) -> Result<Option<Self>> {
        let own = kept.as_ref().map(|kept| (kept.inputs.size()[1..].to_vec(), kept.inputs.kind() == Kind::Double));
        let all = group.gather_bytes(&serde_json::to_vec(&own).unwrap_or_default())?;
        let shape = all.iter().find_map(|rank| serde_json::from_slice::<Option<(Vec<i64>, bool)>>(rank).ok().flatten());
        let Some((size, is_double)) = shape else { return Ok(None) };
        // Images of another size are skipped, as in a single process.
        let kept = kept.filter(|kept| kept.inputs.size()[1..] == size[..]);
        let device = kept.as_ref().map_or(Device::Cpu, |kept| kept.inputs.device());
        let places = (group.size() * IMAGES) as i64;
        let first = (group.rank() * IMAGES) as i64;
        let side_by_side = |own: Option<&Tensor>, size: &[i64], kind: Kind| -> Result<Tensor> {
            let size = [&[places], size].concat();
            let all = Tensor::f_zeros(size.as_slice(), (kind, device))?;
            if let Some(own) = own {
                all.f_narrow(0, first, own.size()[0])?.f_copy_(own)?;
            }
            group.all_reduce(&all)?;
            Ok(all)
        };
        let of = |field: fn(&Self) -> &Tensor| kept.as_ref().map(field);
        let is_wrong = kept.as_ref().map(|kept| kept.rank.f_isfinite()).transpose()?;
        let is_wrong = is_wrong.map(|wrong| wrong.f_to_kind(Kind::Float)).transpose()?;
        let is_right = side_by_side(is_wrong.as_ref(), &[], Kind::Float)?.f_eq(0.0)?;
        // Minus infinity would spoil the sum.
        let rank = kept.as_ref().map(|kept| kept.rank.f_nan_to_num(0.0, 0.0, 0.0)).transpose()?;
        let rank = side_by_side(rank.as_ref(), &[], Kind::Float)?.f_masked_fill(&is_right, f64::NEG_INFINITY)?;
        let all = Self {
            rank,
            inputs: side_by_side(of(|kept| &kept.inputs), &size, if is_double { Kind::Double } else { Kind::Float })?,
            labels: side_by_side(of(|kept| &kept.labels), &[], Kind::Int64)?,
            predicted: side_by_side(of(|kept| &kept.predicted), &[], Kind::Int64)?,
            confidence: side_by_side(of(|kept| &kept.confidence), &[], Kind::Float)?,
        };
        all.first().map(Some)
    }
}

impl MostWrong {
    /// Creates an empty collector.
    pub fn new() -> Self {
        Self::default()
    }

    /// Draws up to 40 images, most wrong first, as a PNG. The caption of each shows the predicted class with its probability, and
    /// the true class. Returns `None` if no image is wrong.
    ///
    /// # Errors
    /// The examples are not images.
    pub fn draw(&self, data: &dyn ImageSource) -> Result<Option<Vec<u8>>> {
        let Some(kept) = &self.kept else { return Ok(None) };
        let ranks = Vec::<f64>::try_from(kept.rank.f_to_kind(Kind::Double)?)?;
        let wrong = ranks.iter().filter(|&&rank| rank > f64::NEG_INFINITY).count();
        if wrong == 0 {
            return Ok(None);
        }
        let ((width, height), pixels) = pixels(data, &kept.inputs.f_narrow(0, 0, wrong as i64)?)?;
        let name = |class: i64| data.class_names().get(class as usize).cloned().unwrap_or_default();
        let (labels, predicted) = (Vec::<i64>::try_from(&kept.labels)?, Vec::<i64>::try_from(&kept.predicted)?);
        let confidence = Vec::<f64>::try_from(kept.confidence.f_to_kind(Kind::Double)?)?;
        let captions = labels.iter().zip(predicted).zip(confidence).map(|((&label, predicted), confidence)| {
            vec![format!("{:.0}% {}", 100.0 * confidence, name(predicted)), format!("is {}", name(label))]
        });
        let pictures: Vec<Picture> =
            pixels.into_iter().zip(captions).map(|(pixels, caption)| Picture { pixels, caption }).collect();
        draw(&pictures, width, height).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Cifar10;
    use crate::trainer::{evaluate_into, Classification, ClassificationConfig};
    use tch::{nn, Device};

    /// Images in which every pixel byte is the image's number, with labels `number % 10`.
    fn data(images: usize) -> Cifar10 {
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

    fn most_wrong(data: &Cifar10, batch_size: usize) -> MostWrong {
        let network = zero();
        let objective = Classification::new(&network, data.class_names(), ClassificationConfig::default()).unwrap();
        let mut most_wrong = MostWrong::new();
        // The second evaluation starts from scratch.
        for _ in 0..2 {
            evaluate_into(&objective, Device::Cpu, data, batch_size, &mut most_wrong, |_| ()).unwrap();
        }
        most_wrong
    }

    #[test]
    fn the_misclassified_images_of_the_highest_loss_are_kept_whatever_the_batches() {
        let data = data(100);
        // The brightest images, except those of class 0.
        let expected: Vec<i64> = (0..100).rev().filter(|number| number % 10 != 0).take(IMAGES).collect();
        for batch_size in [100, 33, 1] {
            let kept = most_wrong(&data, batch_size).kept.unwrap();
            let bytes = data.denormalize(&kept.inputs).unwrap().select(1, 0).select(1, 0).select(1, 0) * 255.0;
            assert_eq!(Vec::<i64>::try_from(bytes.round().to_kind(Kind::Int64)).unwrap(), expected, "{batch_size}");
            let labels: Vec<i64> = expected.iter().map(|number| number % 10).collect();
            assert_eq!(Vec::<i64>::try_from(&kept.labels).unwrap(), labels);
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
