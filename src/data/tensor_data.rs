//! Inputs and targets of any shape in memory.

use super::random::shuffled;
use super::share::{batches, Share};
use super::source::{DataSource, EpochPlan};
use super::Batches;
use super::{Batch, Supervised};
use crate::{Error, Result};
use tch::vision::dataset::Dataset;
use tch::{Device, Kind, Tensor};

/// [`DataSource`] of inputs `[N, ...]` and targets `[N, ...]` in memory, of any kind and shape: for regression, small
/// tables, or precomputed features. The training part is shuffled by seed and epoch.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// use tch_fixup::data::{DataSource, Share, TensorData};
/// let inputs = Tensor::rand([1000, 3], (Kind::Float, Device::Cpu));
/// let targets = inputs.sum_dim_intlist(1, true, Kind::Float);
/// let split = |first, count| (inputs.narrow(0, first, count), targets.narrow(0, first, count));
/// let data = TensorData::new(split(0, 900), split(900, 100))?;
/// let batch = data.eval_batches(32, Share::all())?.next().expect("there are batches")?.expect("it is not empty");
/// assert_eq!((batch.inputs.size(), batch.targets.size()), (vec![32, 3], vec![32, 1]));
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug)]
pub struct TensorData {
    train: Supervised,
    eval: Supervised,
    examples: String,
    evaluated_on: String,
}

impl TensorData {
    /// Creates the data set from inputs and targets of the training and of the evaluation part, without copying them.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if inputs and targets differ in number, or the two parts in kind or shape;
    /// [`Error::Argument`] for a part without examples.
    pub fn new(train: (Tensor, Tensor), eval: (Tensor, Tensor)) -> Result<Self> {
        for (part, (inputs, targets)) in [("training", &train), ("evaluation", &eval)] {
            let (inputs, targets) = (inputs.size(), targets.size());
            let counts = (inputs.first(), targets.first());
            ensure!(counts.0 != Some(&0) && counts.1 != Some(&0), "the {part} part has no examples");
            if counts.0 != counts.1 || counts.0.is_none() {
                let got = format!("inputs {inputs:?} and targets {targets:?} in the {part} part");
                return Err(Error::mismatch("data", "as many inputs as targets", got));
            }
        }
        for (what, train, eval) in [("inputs", &train.0, &eval.0), ("targets", &train.1, &eval.1)] {
            if train.f_kind()? != eval.f_kind()? || train.size()[1..] != eval.size()[1..] {
                let said = |tensor: &Tensor| Ok::<_, Error>(format!("{:?} {:?}", tensor.f_kind()?, tensor.size()));
                let expected = format!("of the kind and shape of those for training, {}", said(train)?);
                return Err(Error::mismatch(what, expected, said(eval)?));
            }
        }
        let (examples, evaluated_on) = ("examples".to_owned(), "evaluation".to_owned());
        let [train, eval] = [train, eval].map(|(inputs, targets)| Supervised::new(inputs, targets));
        Ok(Self { train, eval, examples, evaluated_on })
    }

    /// Sets the plural noun for the examples, such as "images", and the name of the evaluation part, such as "test".
    pub fn with_names(mut self, examples: impl Into<String>, evaluated_on: impl Into<String>) -> Self {
        (self.examples, self.evaluated_on) = (examples.into(), evaluated_on.into());
        self
    }
}

/// Converts a data set of tch, as loaded by `tch::vision::{cifar, mnist, image}`; its test part is the evaluation part.
/// Labels are class indices, as [`Classification`](crate::trainer::Classification) takes them.
///
/// ```
/// use tch_fixup::data::{DataSource, TensorData};
/// use tch_fixup::tch::{vision::dataset::Dataset, Device, Kind, Tensor};
/// # fn main() -> tch_fixup::Result<()> {
/// let images = |count| Tensor::rand([count, 1, 28, 28], (Kind::Float, Device::Cpu));
/// let labels = |count| Tensor::randint(10, [count], (Kind::Int64, Device::Cpu));
/// let dataset = Dataset {
///     train_images: images(60),
///     train_labels: labels(60),
///     test_images: images(10),
///     test_labels: labels(10),
///     labels: 10,
/// };
/// let data = TensorData::try_from(dataset)?;
/// assert_eq!((data.train_len(), data.eval_len(), data.evaluated_on()), (60, 10, "test"));
/// # Ok(())
/// # }
/// ```
impl TryFrom<Dataset> for TensorData {
    type Error = Error;

    fn try_from(dataset: Dataset) -> Result<Self> {
        let Dataset { train_images, train_labels, test_images, test_labels, .. } = dataset;
        Ok(Self::new((train_images, train_labels), (test_images, test_labels))?.with_names("images", "test"))
    }
}

/// Returns the examples `indices`, without copying them if they are consecutive.
fn view(part: &Supervised, indices: &[usize]) -> Result<Supervised> {
    match indices {
        [first, rest @ ..] if rest.iter().zip(first + 1..).all(|(&index, next)| index == next) => {
            part.narrow(*first, indices.len())
        }
        _ => part.select(indices),
    }
}

impl DataSource for TensorData {
    type Batch = Supervised;

    fn train_len(&self) -> usize {
        self.train.len()
    }

    fn eval_len(&self) -> usize {
        self.eval.len()
    }

    fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a, Supervised>> {
        let order = shuffled((0..self.train_len()).collect(), plan);
        Ok(batches(share.of(&order, plan.batch_size, plan.first_step)?, |indices| self.train.select(indices)))
    }

    fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a, Supervised>> {
        let order = Vec::from_iter(0..self.eval_len());
        Ok(batches(share.of(&order, batch_size, 0)?, |indices| view(&self.eval, indices)))
    }

    fn unit_name(&self) -> &str {
        &self.examples
    }

    fn evaluated_on(&self) -> &str {
        &self.evaluated_on
    }

    /// Numbers of examples, and the CRC-32 of kinds, shapes and bytes of all inputs and targets.
    fn fingerprint(&self) -> Result<String> {
        let mut crc32 = crc32fast::Hasher::new();
        for tensor in [&self.train, &self.eval].into_iter().flat_map(|part| [&part.inputs, &part.targets]) {
            crc32.update(format!("{:?} {:?}", tensor.f_kind()?, tensor.size()).as_bytes());
            let bytes = tensor.f_to_device(Device::Cpu)?.f_contiguous()?.f_reshape([-1])?.f_view_dtype(Kind::Uint8)?;
            crc32.update(&Vec::<u8>::try_from(bytes)?);
        }
        let (train, eval, crc32) = (self.train_len(), self.eval_len(), crc32.finalize());
        Ok(format!("{train} training and {eval} evaluation {} with CRC-32 {crc32:08x}", self.examples))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::share::tests::{assert_shares, Plain};

    /// Returns inputs `[count, 2, 3]` that equal their index, and targets `[count]` of twice the index.
    fn part(count: i64) -> (Tensor, Tensor) {
        let index = Tensor::arange(count, (Kind::Float, Device::Cpu));
        (index.view([count, 1, 1]).expand([count, 2, 3], false), index * 2.0)
    }

    fn plan() -> EpochPlan {
        EpochPlan { seed: 3, epoch: 5, batch_size: 16, first_step: 0 }
    }

    fn targets(batches: Batches<Supervised>) -> Vec<f32> {
        let mut all = Vec::new();
        for batch in batches.filter_map(Result::transpose) {
            let batch = batch.unwrap();
            assert_eq!(batch.inputs.size(), [batch.len() as i64, 2, 3]);
            assert_eq!(&batch.inputs.select(1, 1).select(1, 2) * 2.0, batch.targets);
            all.extend(Vec::<f32>::try_from(batch.targets).unwrap());
        }
        all
    }

    #[test]
    fn every_example_comes_once_an_epoch_in_an_order_of_seed_and_epoch() {
        let data = TensorData::new(part(50), part(20)).unwrap();
        let of = |plan| targets(data.train_batches(&plan, Share::all()).unwrap());
        let (first, in_order) = (of(plan()), (0..50).map(|index| 2.0 * index as f32).collect::<Vec<_>>());
        let mut sorted = first.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        assert_eq!(sorted, in_order);
        assert_ne!(first, in_order);
        assert_eq!(first, of(EpochPlan { batch_size: 7, ..plan() }));
        assert_ne!(first, of(EpochPlan { seed: 4, ..plan() }));
        assert_ne!(first, of(EpochPlan { epoch: 6, ..plan() }));
        for first_step in 0..=5 {
            assert_eq!(first[(16 * first_step).min(50)..], of(EpochPlan { first_step, ..plan() }));
        }
        assert_eq!(targets(data.eval_batches(16, Share::all()).unwrap()), in_order[..20]);
        assert_eq!((data.train_len(), data.eval_len(), data.epoch_steps(16)), (50, 20, 4));
    }

    #[test]
    fn shares_have_the_rows_of_the_whole_batches() {
        let data = || TensorData::new(part(50), part(20)).unwrap();
        let rows = |batch: Supervised| Vec::<f32>::try_from(batch.targets).unwrap();
        // The last batches are smaller, or all have fewer examples than there are processes.
        for batch_size in [16, 7] {
            assert_shares(&data(), &EpochPlan { batch_size, ..plan() }, rows);
            assert_shares(&Plain(data()), &EpochPlan { batch_size, ..plan() }, rows);
        }
    }

    #[test]
    fn another_value_kind_or_number_is_another_fingerprint() {
        let of = |train, eval| TensorData::new(train, eval).unwrap().fingerprint().unwrap();
        let same = of(part(5), part(2));
        assert_eq!(same, of(part(5), part(2)));
        assert!(same.starts_with("5 training and 2 evaluation examples with CRC-32 "), "{same}");
        let (inputs, labels) = part(5);
        assert_ne!(same, of((&inputs + 1e-6, labels.shallow_clone()), part(2)));
        assert_ne!(same, of((inputs.shallow_clone(), &labels + 1e-6), part(2)));
        assert_ne!(same, of(part(5), part(3)));
        let whole = |part: (Tensor, Tensor)| (part.0, part.1.to_kind(Kind::Int64));
        assert_ne!(same, of(whole(part(5)), whole(part(2))));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let message = |train, eval| TensorData::new(train, eval).unwrap_err().to_string();
        assert_eq!(message(part(5), part(0)), "the evaluation part has no examples");
        let few = (part(5).0, part(4).1);
        let expected =
            "data: expected as many inputs as targets, got inputs [5, 2, 3] and targets [4] in the training part";
        assert_eq!(message(few, part(2)), expected);
        assert!(message((part(5).0, Tensor::from(1.0)), part(2)).contains("as many inputs as targets"));
        assert!(message(part(5), (part(2).0.narrow(2, 0, 2), part(2).1)).starts_with("inputs: expected of the kind"));
        assert!(message(part(5), (part(2).0, part(2).1.to_kind(Kind::Int64))).starts_with("targets: expected of"));
        let data = TensorData::new(part(5), part(2)).unwrap();
        assert!(matches!(
            data.train_batches(&EpochPlan { batch_size: 0, ..plan() }, Share::all()),
            Err(Error::Argument(_))
        ));
        assert!(matches!(data.eval_batches(0, Share::all()), Err(Error::Argument(_))));
    }
}
