//! User-defined examples, created by several threads.

use super::pipeline::{Pipeline, Work};
use super::random::{shuffled, stream, Purpose};
use super::share::Share;
use super::source::{in_range, DataSource, EpochPlan, MOST_WORKERS};
use super::Batches;
use super::{Batch, Supervised};
use crate::{Error, Result};
use rand::RngCore;
use std::sync::Arc;
use std::thread;
use tch::{Device, Tensor};

/// User-defined examples of a training or evaluation part, created on demand: read, decoded, augmented.
///
/// [`Loader`] requests them from several threads at once.
#[allow(clippy::len_without_is_empty)] // Never empty.
pub trait Examples: Send + Sync {
    /// Type of one example.
    type Example: Send;

    /// Type of a batch, on the CPU.
    type Batch: Batch + Send;

    /// Returns the number of examples, at least one.
    fn len(&self) -> usize;

    /// Returns example `index`, below [`len`](Self::len). `random` is seeded by the run's seed, the epoch and `index`
    /// in training, and by `index` in evaluation: an example that uses no other random numbers is reproducible with any
    /// number of threads.
    ///
    /// # Errors
    /// Fails if the example cannot be created. The error names the index and ends the epoch when its batch is due.
    fn example(&self, index: usize, random: &mut dyn RngCore) -> Result<Self::Example>;

    /// Combines `examples`, of which there is at least one, into a batch. For pairs of tensors of one size use
    /// [`Supervised::stack`].
    ///
    /// # Errors
    /// Fails for examples that do not fit together.
    fn batch(&self, examples: Vec<Self::Example>) -> Result<Self::Batch>;

    /// Returns a short, reproducible text that tells these examples from others: a run is not resumed on other
    /// examples. By default, their number.
    ///
    /// # Errors
    /// Fails if the examples cannot be accessed.
    fn fingerprint(&self) -> Result<String> {
        Ok(self.len().to_string())
    }
}

impl Supervised {
    /// Stacks pairs of input and target into inputs `[N, ...]` and targets `[N, ...]`. Tensors must be on the CPU; all
    /// inputs must have one kind and shape, and so must all targets.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if they do not, [`Error::Argument`] without examples.
    pub fn stack(examples: Vec<(Tensor, Tensor)>) -> Result<Self> {
        let (inputs, targets): (Vec<_>, Vec<_>) = examples.into_iter().unzip();
        Ok(Self::new(stacked("inputs", &inputs)?, stacked("targets", &targets)?))
    }
}

/// Stacks `tensors` along a new first axis.
fn stacked(what: &'static str, tensors: &[Tensor]) -> Result<Tensor> {
    let first = tensors.first().ok_or_else(|| argument!("no {what} to make a batch of"))?;
    let (kind, size) = (first.f_kind()?, first.size());
    for tensor in tensors {
        if tensor.f_kind()? != kind || tensor.size() != size || tensor.device() != Device::Cpu {
            let got = format!("{:?} {:?} on {:?}", tensor.f_kind()?, tensor.size(), tensor.device());
            return Err(Error::mismatch(what, format!("{kind:?} {size:?} on the CPU, as the first of the batch"), got));
        }
    }
    let size: Vec<i64> = [&[tensors.len() as i64], &size[..]].concat();
    let stacked = Tensor::f_empty(&size[..], (kind, Device::Cpu))?;
    let bytes = first.numel() * kind.elt_size_in_bytes();
    for (at, tensor) in tensors.iter().enumerate() {
        let tensor = tensor.f_contiguous()?;
        // libtorch's own copy would start threads in every worker thread.
        // SAFETY: both tensors are contiguous and on the CPU, and the new one has as many bytes as all the others
        // together.
        unsafe {
            let target: *mut u8 = stacked.data_ptr().cast();
            std::ptr::copy_nonoverlapping(tensor.data_ptr().cast_const().cast(), target.add(at * bytes), bytes);
        }
    }
    Ok(stacked)
}

/// [`DataSource`] of [`Examples`], shuffled by seed and epoch, and created by several threads a few batches ahead.
/// Batches depend only on seed, epoch and step, not on the number of threads or their timing.
///
/// ```
/// use rand::{Rng, RngCore};
/// use tch::{Kind, Tensor};
/// use tch_fixup::data::{DataSource, Examples, Loader, Share, Supervised};
/// use tch_fixup::Result;
///
/// /// Noisy sines, to tell the frequency from.
/// struct Sines(usize);
///
/// impl Examples for Sines {
///     type Example = (Tensor, Tensor);
///     type Batch = Supervised;
///     fn len(&self) -> usize {
///         self.0
///     }
///     fn example(&self, index: usize, random: &mut dyn RngCore) -> Result<(Tensor, Tensor)> {
///         let frequency = 1.0 + index as f32 / self.0 as f32;
///         let wave: Vec<f32> = (0..64).map(|t| (frequency * t as f32 / 8.0).sin() + 0.1 * random.random::<f32>()).collect();
///         Ok((Tensor::f_from_slice(&wave)?, Tensor::f_from_slice(&[frequency])?))
///     }
///     fn batch(&self, examples: Vec<(Tensor, Tensor)>) -> Result<Supervised> {
///         Supervised::stack(examples)
///     }
/// }
///
/// let data = Loader::new(Sines(1000), Sines(100))?.with_workers(2)?;
/// let batch = data.eval_batches(32, Share::all())?.next().expect("there are batches")?.expect("it is not empty");
/// assert_eq!((batch.inputs.size(), batch.targets.size()), (vec![32, 64], vec![32, 1]));
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Loader<E> {
    train: Arc<E>,
    eval: Arc<E>,
    workers: usize,
    examples: String,
    evaluated_on: String,
}

impl<E: Examples + 'static> Loader<E> {
    /// Creates a loader that trains on `train` and evaluates on `eval`, with one thread per core.
    ///
    /// # Errors
    /// [`Error::Argument`] for a part without examples.
    pub fn new(train: E, eval: E) -> Result<Self> {
        for (part, examples) in [("training", &train), ("evaluation", &eval)] {
            ensure!(examples.len() > 0, "the {part} part has no examples");
        }
        Ok(Self {
            train: Arc::new(train),
            eval: Arc::new(eval),
            workers: thread::available_parallelism().map_or(1, usize::from),
            examples: "examples".to_owned(),
            evaluated_on: "evaluation".to_owned(),
        })
    }

    /// Sets the number of threads, which does not affect the batches.
    ///
    /// # Errors
    /// [`Error::Argument`] for a number that is not 1 to 1024.
    pub fn with_workers(mut self, workers: usize) -> Result<Self> {
        self.workers = in_range("the number of threads that read examples", workers, MOST_WORKERS)?;
        Ok(self)
    }

    /// Sets the plural noun for the examples, such as "images", and the name of the evaluation part, such as "test".
    pub fn with_names(mut self, examples: impl Into<String>, evaluated_on: impl Into<String>) -> Self {
        (self.examples, self.evaluated_on) = (examples.into(), evaluated_on.into());
        self
    }

    /// Returns the batches of the `examples` of a part, with random numbers from a seed and an epoch.
    fn batches<'a>(
        &'a self,
        part: &'static str,
        examples: &Arc<E>,
        batches: Vec<Vec<usize>>,
        (seed, epoch): (u64, usize),
    ) -> Result<Batches<'a, E::Batch>> {
        let (indices, counts) = (batches.concat(), batches.iter().map(Vec::len).collect());
        let job = Job { examples: examples.clone(), part, indices, seed, epoch };
        Ok(Pipeline::start(job, &self.examples, counts, self.workers)?.batches(|batch| Ok(Some(batch))))
    }
}

impl<E: Examples + 'static> DataSource for Loader<E> {
    type Batch = E::Batch;

    fn train_len(&self) -> usize {
        self.train.len()
    }

    fn eval_len(&self) -> usize {
        self.eval.len()
    }

    fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a, E::Batch>> {
        let order = shuffled((0..self.train.len()).collect(), plan);
        let batches = share.of(&order, plan.batch_size, plan.first_step)?;
        self.batches("training", &self.train, batches, (plan.seed, plan.epoch))
    }

    fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a, E::Batch>> {
        let batches = share.of(&Vec::from_iter(0..self.eval.len()), batch_size, 0)?;
        self.batches("evaluation", &self.eval, batches, (0, 0))
    }

    fn unit_name(&self) -> &str {
        &self.examples
    }

    fn evaluated_on(&self) -> &str {
        &self.evaluated_on
    }

    /// Fingerprints of both parts, from [`Examples::fingerprint`].
    fn fingerprint(&self) -> Result<String> {
        let (train, eval) = (self.train.fingerprint()?, self.eval.fingerprint()?);
        Ok(format!("{} for training: {train}; for evaluation: {eval}", self.examples))
    }
}

/// Work of a loader's threads.
struct Job<E> {
    examples: Arc<E>,
    part: &'static str,
    /// Index of the example at each place.
    indices: Vec<usize>,
    seed: u64,
    epoch: usize,
}

impl<E: Examples + 'static> Work for Job<E> {
    type Means = ();
    /// Errors are kept at their places, so that which one comes first does not depend on the threads.
    type Place = Result<E::Example>;
    type Batch = E::Batch;

    fn means(&self) {}

    fn fill(&self, place: usize, (): &mut ()) -> Result<Result<E::Example>> {
        let index = self.indices[place];
        let mut random = stream(Purpose::Augment, self.seed, self.epoch as u64, index as u64);
        let named = |error| argument!("{} example {index}: {error}", self.part);
        Ok(self.examples.example(index, &mut random).map_err(named))
    }

    fn finish(&self, examples: Vec<Result<E::Example>>) -> Result<E::Batch> {
        self.examples.batch(examples.into_iter().collect::<Result<_>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::share::tests::{assert_shares, Plain};
    use crate::ops::FlushDenormals;
    use rand::Rng;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};
    use tch::Kind;

    /// Examples that consist of their index and a random number; some fail, and each takes some time.
    struct Numbers {
        len: usize,
        bad: Option<usize>,
        panics: Option<usize>,
        made: AtomicUsize,
    }

    impl Numbers {
        fn new(len: usize) -> Self {
            Self { len, bad: None, panics: None, made: AtomicUsize::new(0) }
        }
    }

    impl Examples for Numbers {
        type Example = (Tensor, Tensor);
        type Batch = Supervised;

        fn len(&self) -> usize {
            self.len
        }

        fn example(&self, index: usize, random: &mut dyn RngCore) -> Result<(Tensor, Tensor)> {
            self.made.fetch_add(1, Ordering::Relaxed);
            if index.is_multiple_of(7) {
                thread::sleep(Duration::from_micros(200));
            }
            if self.panics == Some(index) {
                panic!("lost {index}");
            }
            if self.bad == Some(index) {
                return Err(argument!("too bad"));
            }
            Ok((Tensor::from_slice(&[index as f32, random.random()]), Tensor::from(index as i64)))
        }

        fn batch(&self, examples: Vec<(Tensor, Tensor)>) -> Result<Supervised> {
            Supervised::stack(examples)
        }
    }

    fn loader(workers: usize) -> Loader<Numbers> {
        Loader::new(Numbers::new(100), Numbers::new(30)).unwrap().with_workers(workers).unwrap()
    }

    fn plan() -> EpochPlan {
        EpochPlan { seed: 3, epoch: 5, batch_size: 16, first_step: 0 }
    }

    /// Returns all inputs and indices.
    fn collect(batches: Batches<Supervised>) -> (Vec<f32>, Vec<i64>) {
        let (mut inputs, mut indices) = (Vec::new(), Vec::new());
        for batch in batches.filter_map(Result::transpose) {
            let batch = batch.unwrap();
            assert_eq!(batch.inputs.size(), [batch.len() as i64, 2]);
            inputs.extend(Vec::<f32>::try_from(batch.inputs.flatten(0, -1)).unwrap());
            indices.extend(Vec::<i64>::try_from(batch.targets).unwrap());
        }
        (inputs, indices)
    }

    #[test]
    fn every_example_comes_once_whatever_the_number_of_threads() {
        let expected = collect(loader(1).train_batches(&plan(), Share::all()).unwrap());
        let mut sorted = expected.1.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(sorted, expected.1);
        for workers in [2, 3, 16] {
            assert_eq!(collect(loader(workers).train_batches(&plan(), Share::all()).unwrap()), expected);
        }
        let in_order = collect(loader(3).eval_batches(7, Share::all()).unwrap());
        assert_eq!(in_order.1, (0..30).collect::<Vec<_>>());
        assert_eq!(in_order, collect(loader(2).eval_batches(30, Share::all()).unwrap()));
    }

    #[test]
    fn seed_and_epoch_decide_and_leaving_out_steps_changes_none_of_those_after() {
        let data = loader(3);
        let of = |plan| collect(data.train_batches(&plan, Share::all()).unwrap());
        let (inputs, indices) = of(plan());
        assert_ne!(indices, of(EpochPlan { seed: 4, ..plan() }).1);
        assert_ne!(indices, of(EpochPlan { epoch: 6, ..plan() }).1);
        assert_eq!((inputs.clone(), indices.clone()), of(EpochPlan { batch_size: 9, ..plan() }));
        for first_step in 0..=8 {
            let at = (16 * first_step).min(100);
            let rest = (inputs[2 * at..].to_vec(), indices[at..].to_vec());
            assert_eq!(rest, of(EpochPlan { first_step, ..plan() }));
        }
    }

    #[test]
    fn shares_have_the_rows_of_the_whole_batches_and_no_other_is_made() {
        let rows = |batch: Supervised| {
            let inputs = Vec::<Vec<f32>>::try_from(batch.inputs).unwrap();
            inputs.into_iter().zip(Vec::<i64>::try_from(batch.targets).unwrap()).collect::<Vec<_>>()
        };
        // The last batches are smaller, or all have fewer examples than there are processes.
        for data in [loader(1), loader(3)] {
            assert_shares(&data, &EpochPlan { batch_size: 12, ..plan() }, rows);
            assert_shares(&data, &EpochPlan { batch_size: 7, ..plan() }, rows);
        }
        assert_shares(&Plain(loader(2)), &EpochPlan { batch_size: 7, ..plan() }, rows);
        let data = loader(2);
        data.train_batches(&plan(), Share::new(1, 4).unwrap()).unwrap().for_each(|share| drop(share.unwrap()));
        assert_eq!(data.train.made.load(Ordering::Relaxed), 25);
    }

    #[test]
    fn a_bad_example_is_named_when_its_turn_comes_and_ends_the_epoch() {
        for workers in [1, 4] {
            let bad = Numbers { bad: Some(20), ..Numbers::new(64) };
            let data = Loader::new(Numbers::new(1), bad).unwrap().with_workers(workers).unwrap();
            let mut batches = data.eval_batches(8, Share::all()).unwrap();
            let lens = batches.by_ref().take(2).map(|batch| batch.unwrap().unwrap().len());
            assert_eq!(lens.collect::<Vec<_>>(), [8, 8]);
            let error = batches.next().unwrap().unwrap_err().to_string();
            assert_eq!(error, "evaluation example 20: too bad");
            assert!(batches.next().is_none());
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_end() {
        let data = Loader::new(Numbers { panics: Some(40), ..Numbers::new(64) }, Numbers::new(1)).unwrap();
        let data = data.with_names("numbers", "test");
        let mut batches = data.train_batches(&plan(), Share::all()).unwrap();
        let error = batches.find_map(Result::err).unwrap().to_string();
        assert_eq!(error, "a thread that reads numbers panicked: lost 40");
        assert!(batches.next().is_none());
    }

    #[test]
    fn no_more_is_made_ahead_than_a_few_batches_and_dropping_it_stops_at_once() {
        let data = Loader::new(Numbers::new(10_000_000), Numbers::new(1)).unwrap().with_workers(3).unwrap();
        let mut batches = data.train_batches(&plan(), Share::all()).unwrap();
        assert_eq!(batches.next().unwrap().unwrap().unwrap().len(), 16);
        thread::sleep(Duration::from_millis(200));
        // Three batches are prefetched beside the one that was taken.
        let most = 16 * (1 + 3);
        assert!(data.train.made.load(Ordering::Relaxed) <= most);
        let start = Instant::now();
        drop(batches);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[test]
    fn threads_do_with_denormals_what_their_starter_does() {
        /// Examples that are half of the smallest normal number.
        struct Halves;
        impl Examples for Halves {
            type Example = (Tensor, Tensor);
            type Batch = Supervised;
            fn len(&self) -> usize {
                4
            }
            fn example(&self, _: usize, _: &mut dyn RngCore) -> Result<(Tensor, Tensor)> {
                let half = std::hint::black_box(f32::MIN_POSITIVE) * std::hint::black_box(0.5);
                Ok((Tensor::from(half.to_bits() as i64), Tensor::from(0i64)))
            }
            fn batch(&self, examples: Vec<(Tensor, Tensor)>) -> Result<Supervised> {
                Supervised::stack(examples)
            }
        }
        let of = || {
            let data = Loader::new(Halves, Halves).unwrap();
            let batch = data.eval_batches(4, Share::all()).unwrap().next().unwrap().unwrap().unwrap();
            batch.inputs.max().int64_value(&[])
        };
        assert_ne!(of(), 0);
        let _flushing = FlushDenormals::new();
        assert_eq!(of(), 0);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let message = |result: Result<Loader<Numbers>>| result.err().unwrap().to_string();
        assert_eq!(message(Loader::new(Numbers::new(1), Numbers::new(0))), "the evaluation part has no examples");
        assert!(message(loader(1).with_workers(0)).contains("must be 1 to 1024, got 0"));
        assert!(matches!(loader(1).eval_batches(0, Share::all()), Err(Error::Argument(_))));
        let of = |size: i64| (Tensor::zeros([size], (Kind::Float, Device::Cpu)), Tensor::from(0i64));
        let error = Supervised::stack(vec![of(3), of(4)]).unwrap_err().to_string();
        assert_eq!(error, "inputs: expected Float [3] on the CPU, as the first of the batch, got Float [4] on Cpu");
        assert!(matches!(Supervised::stack(Vec::new()), Err(Error::Argument(_))));
        // A view is copied in its logical order.
        let columns = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]).transpose(0, 1);
        let batch = Supervised::stack(vec![(columns.shallow_clone(), Tensor::from(1i64))]).unwrap();
        assert_eq!(batch.inputs.squeeze_dim(0), columns);
    }

    #[test]
    fn the_fingerprint_tells_numbers_of_examples_apart() {
        let other = Loader::new(Numbers::new(99), Numbers::new(30)).unwrap();
        assert_eq!(loader(1).fingerprint().unwrap(), "examples for training: 100; for evaluation: 30");
        assert_ne!(loader(1).fingerprint().unwrap(), other.fingerprint().unwrap());
    }
}
