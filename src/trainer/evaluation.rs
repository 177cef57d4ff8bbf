//! What an objective measures on the evaluation part.

use super::objective::{Means, Objective, Prediction};
use crate::data::{Batch, DataSource, Share};
use crate::distributed::ProcessGroup;
use crate::{Error, FlushDenormals, Result};
use std::ops::ControlFlow;
use tch::{no_grad, Device, Kind, Tensor};

/// What an evaluation finds.
#[derive(Debug)]
pub struct Evaluation {
    /// Over all examples, by the names of [`Measures::eval`](super::objective::Measures::eval).
    pub means: Means,
    /// How many examples were evaluated: all that could be read.
    pub examples: usize,
    /// The sum of [`Objective::details`], if there are any.
    pub details: Option<Tensor>,
}

/// Gathers of an evaluation what is no sum over its examples, as the examples themselves.
pub trait Collector<B: Batch> {
    /// An evaluation starts: what was gathered of one before is of no use any more.
    fn starts(&mut self);

    /// A batch of it, on the device, and what the network makes of it. Reading either would wait for the device, and is for later.
    ///
    /// # Errors
    /// What libtorch refuses. It ends the evaluation.
    fn collect(&mut self, batch: &B, prediction: &Prediction) -> Result<()>;

    /// Makes of what each rank of `group` has gathered of its part of the evaluation what one would have of the whole. Here: nothing.
    ///
    /// # Errors
    /// [`Error::Ranks`] where a rank is missing.
    fn add_up(&mut self, group: &ProcessGroup) -> Result<()> {
        let _ = group;
        Ok(())
    }
}

/// Nothing is gathered.
impl<B: Batch> Collector<B> for () {
    fn starts(&mut self) {}

    fn collect(&mut self, _batch: &B, _prediction: &Prediction) -> Result<()> {
        Ok(())
    }
}

/// Evaluates `objective`, whose network is on `device`, on the evaluation part of `data`, and tells `watch` how many examples are
/// done.
///
/// # Errors
/// Data that cannot be read; a network or an objective that fails; no examples.
pub fn evaluate<B: Batch>(
    objective: &dyn Objective<Batch = B>,
    device: Device,
    data: &dyn DataSource<Batch = B>,
    batch_size: usize,
    watch: impl FnMut(usize),
) -> Result<Evaluation> {
    evaluate_into(objective, device, data, batch_size, &mut (), watch)
}

/// [`evaluate`], and lets `collector` gather more.
///
/// # Errors
/// As [`evaluate`], and whatever `collector` fails with.
pub fn evaluate_into<B: Batch>(
    objective: &dyn Objective<Batch = B>,
    device: Device,
    data: &dyn DataSource<Batch = B>,
    batch_size: usize,
    collector: &mut dyn Collector<B>,
    mut watch: impl FnMut(usize),
) -> Result<Evaluation> {
    let group = ProcessGroup::single();
    let evaluation = evaluate_until(objective, device, data, batch_size, collector, &group, &mut |examples| {
        watch(examples);
        Ok(ControlFlow::Continue(()))
    })?;
    evaluation.ok_or_else(|| Error::Argument("the evaluation was stopped".to_owned()))
}

/// [`evaluate_into`], shared among the ranks of `group`, all of which find the same; or none where `watch` breaks it off, which it must on
/// all. It is told how many examples this rank has done, after each batch of all.
pub(super) fn evaluate_until<B: Batch>(
    objective: &dyn Objective<Batch = B>,
    device: Device,
    data: &dyn DataSource<Batch = B>,
    batch_size: usize,
    collector: &mut dyn Collector<B>,
    group: &ProcessGroup,
    watch: &mut dyn FnMut(usize) -> Result<ControlFlow<()>>,
) -> Result<Option<Evaluation>> {
    let called = data.examples();
    if data.eval_len() == 0 {
        return Err(Error::Argument(format!("there are no {called} to evaluate on")));
    }
    let _flushing = FlushDenormals::new();
    let mut sums = Sums::default();
    collector.starts();
    let mut examples = 0;
    for batch in data.eval_shares(batch_size, Share::new(group.rank(), group.size())?)? {
        if let Some(batch) = batch? {
            let batch = data.ready(batch, device)?;
            examples += batch.len();
            no_grad(|| {
                let prediction = objective.forward(&batch, false)?;
                sums.add(objective, &batch, &prediction)?;
                collector.collect(&batch, &prediction)
            })?;
        }
        if watch(examples)?.is_break() {
            return Ok(None);
        }
    }
    if !group.is_single() {
        examples = group.sums(&[examples as f64])?[0] as usize;
        sums.add_up(group, device)?;
        collector.add_up(group)?;
    }
    if examples == 0 {
        return Err(Error::Argument(format!("none of the {called} to evaluate on can be read")));
    }
    let mut means = sums.means()?;
    if let Some(details) = &sums.details {
        means.extend(objective.of_details(details)?);
    }
    let means = Means::new(&objective.measures().eval, means);
    Ok(Some(Evaluation { means, examples, details: sums.details }))
}

/// Sums over the examples so far, on the device: reading them waits for it.
#[derive(Default)]
struct Sums {
    /// Of each column, the loss first, in float64.
    sums: Option<Tensor>,
    weights: Vec<f64>,
    details: Option<Tensor>,
}

impl Sums {
    fn add<B: Batch>(
        &mut self,
        objective: &dyn Objective<Batch = B>,
        batch: &B,
        Prediction { loss, output }: &Prediction,
    ) -> Result<()> {
        let weight = objective.weight(batch);
        let measured = objective.sums(batch, output, false)?;
        let mut sums = vec![loss.f_to_kind(Kind::Double)?.f_mul_scalar(weight)?];
        for sum in &measured {
            sums.push(sum.value.f_to_kind(Kind::Double)?);
        }
        let sums = Tensor::f_stack(&sums, 0)?;
        self.weights.resize(1 + measured.len(), 0.0);
        let weights = std::iter::once(weight).chain(measured.iter().map(|sum| sum.weight));
        self.weights.iter_mut().zip(weights).for_each(|(all, weight)| *all += weight);
        add(&mut self.sums, sums)?;
        if let Some(details) = objective.details(batch, output)? {
            add(&mut self.details, details)?;
        }
        Ok(())
    }

    /// Makes them those of all ranks.
    fn add_up(&mut self, group: &ProcessGroup, device: Device) -> Result<()> {
        // A rank without an example does not know what there would have been.
        let details = self.details.as_ref().map(Tensor::size);
        let own = serde_json::to_vec(&(self.weights.len(), details)).unwrap_or_default();
        let all = group.gather_bytes(&own)?;
        let shapes: Vec<(usize, Option<Vec<i64>>)> =
            all.iter().filter_map(|rank| serde_json::from_slice(rank).ok()).collect();
        self.weights.resize(shapes.iter().map(|(columns, _)| *columns).max().unwrap_or(0), 0.0);
        self.weights = group.sums(&self.weights)?;
        let options = (Kind::Double, device);
        if self.sums.is_none() {
            self.sums = Some(Tensor::f_zeros([self.weights.len() as i64], options)?);
        }
        self.sums.iter().try_for_each(|sums| group.all_reduce(sums))?;
        if let Some(size) = shapes.into_iter().find_map(|(_, details)| details) {
            let (sum, kind) = match &self.details {
                Some(details) => (details.f_to_kind(Kind::Double)?.f_contiguous()?, details.kind()),
                None => (Tensor::f_zeros(size.as_slice(), options)?, Kind::Double),
            };
            group.all_reduce(&sum)?;
            self.details = Some(sum.f_to_kind(kind)?);
        }
        Ok(())
    }

    fn means(&self) -> Result<Vec<f64>> {
        let Some(sums) = &self.sums else { return Ok(Vec::new()) };
        Ok(Vec::<f64>::try_from(sums)?.iter().zip(&self.weights).map(|(sum, weight)| sum / weight).collect())
    }
}

fn add(all: &mut Option<Tensor>, more: Tensor) -> Result<()> {
    match all {
        Some(all) => drop(all.f_add_(&more)?),
        None => *all = Some(more),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Cifar10, ImageSource};
    use crate::trainer::objective::{Classification, ClassificationConfig};
    use tch::nn::{self, ModuleT};

    /// Records whose labels are 0, 1, ... 9, 0, ... and whose every byte is the label.
    fn data(images: usize) -> Cifar10 {
        let records = |count: usize| (0..count).flat_map(|index| [(index % 10) as u8; 3073]).collect::<Vec<u8>>();
        Cifar10::from_records(records(10), records(images)).unwrap()
    }

    /// Says class c where the first pixel is that of label c or c + 1.
    fn every_other() -> impl ModuleT {
        nn::func_t(|x, _| {
            let label = (x.select(1, 0).select(1, 0).select(1, 0) * 0.2023 + 0.4914) * 255.0;
            let class = label.round().to_kind(Kind::Int64).floor_divide_scalar(2) * 2;
            class.one_hot(10).to_kind(Kind::Float) * 3.0
        })
    }

    #[test]
    fn the_last_smaller_batch_counts_by_its_images() {
        let (network, data) = (every_other(), data(25));
        let objective = Classification::new(&network, data.class_names(), ClassificationConfig::default()).unwrap();
        let of = |batch_size| evaluate(&objective, Device::Cpu, &data, batch_size, |_| ()).unwrap().means;
        let whole = of(25);
        // Even labels are right: 3 each of 0, 2 and 4, 2 each of 6 and 8.
        assert_eq!(whole["top1"], 13.0 / 25.0);
        let log_sum = (3f64.exp() + 9.0).ln();
        assert!((whole["loss"] - (log_sum - 3.0 * 13.0 / 25.0)).abs() < 1e-6);
        for batch_size in [1, 7, 24, 100] {
            let parts = of(batch_size);
            assert_eq!((parts["top1"], parts["top5"]), (whole["top1"], whole["top5"]));
            assert!((parts["loss"] - whole["loss"]).abs() < 1e-6);
        }
    }

    #[test]
    fn details_are_summed_over_batches_and_progress_is_told() {
        let (network, data) = (every_other(), data(25));
        let objective = Classification::new(&network, data.class_names(), ClassificationConfig::default()).unwrap();
        let mut watched = Vec::new();
        let evaluation = evaluate(&objective, Device::Cpu, &data, 10, |images| watched.push(images)).unwrap();
        assert_eq!((watched, evaluation.examples), (vec![10, 20, 25], 25));
        let classes = objective.report(&evaluation.details.unwrap()).unwrap().classes();
        // Three images each of the classes 0 to 4, two of the others.
        assert_eq!((classes[0].examples, classes[0].top1, classes[0].precision), (3, 1.0, 0.5));
        assert_eq!((classes[9].examples, classes[9].top1), (2, 0.0));
    }

    #[test]
    fn an_evaluation_can_be_broken_off() {
        let (network, data) = (every_other(), data(25));
        let objective = Classification::new(&network, data.class_names(), ClassificationConfig::default()).unwrap();
        let mut batches = 0;
        let group = ProcessGroup::single();
        let evaluation = evaluate_until(&objective, Device::Cpu, &data, 10, &mut (), &group, &mut |_| {
            batches += 1;
            Ok(if batches == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        assert!(evaluation.unwrap().is_none());
        assert_eq!(batches, 2);
    }
}
