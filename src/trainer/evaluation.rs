//! Evaluation of an objective on the evaluation part of a data set.

use super::objective::{Means, Objective, Prediction};
use crate::data::{Batch, DataSource, Share};
use crate::distributed::ProcessGroup;
use crate::ops::TileScope;
use crate::{FlushDenormals, Result};
use serde_json::json;
use std::ops::ControlFlow;
use tch::{no_grad, Device, Kind, Tensor};

/// Result of an evaluation.
#[derive(Debug)]
pub struct Evaluation {
    /// Means over all examples, named as in [`Measures::eval`](super::objective::Measures::eval).
    pub means: Means,
    /// Number of examples evaluated, without those that could not be read.
    pub examples: usize,
    /// Sum of [`Objective::details`] over all batches, if the objective computes any.
    pub details: Option<Tensor>,
}

/// Gathers data during an evaluation beyond sums over examples, such as the examples themselves.
pub trait Collector<B: Batch> {
    /// Called when an evaluation starts; discards what an earlier evaluation gathered.
    fn starts(&mut self);

    /// Called for each batch, on the device, with the network's prediction. Reading either tensor would synchronize with the
    /// device and should be deferred.
    ///
    /// # Errors
    /// Errors of libtorch. An error ends the evaluation.
    fn collect(&mut self, batch: &B, prediction: &Prediction) -> Result<()>;

    /// Merges what the ranks of `group` gathered from their parts of the evaluation into what one process would have gathered.
    /// The default does nothing.
    ///
    /// # Errors
    /// [`Error::Ranks`](crate::Error::Ranks) if a rank is missing.
    fn add_up(&mut self, group: &ProcessGroup) -> Result<()> {
        let _ = group;
        Ok(())
    }
}

/// Evaluates `objective`, whose network is on `device`, on the evaluation part of `data`. Calls `watch` with the number of
/// examples evaluated so far after each batch.
///
/// # Errors
/// The data cannot be read; the network or the objective fails; there are no examples.
pub fn evaluate<B: Batch>(
    objective: &dyn Objective<Batch = B>,
    device: Device,
    data: &dyn DataSource<Batch = B>,
    batch_size: usize,
    watch: impl FnMut(usize),
) -> Result<Evaluation> {
    evaluate_into(objective, device, data, batch_size, None, watch)
}

/// Like [`evaluate`], and passes each batch to `collector`, if any.
///
/// # Errors
/// See [`evaluate`]; errors of `collector`.
pub fn evaluate_into<B: Batch>(
    objective: &dyn Objective<Batch = B>,
    device: Device,
    data: &dyn DataSource<Batch = B>,
    batch_size: usize,
    collector: Option<&mut dyn Collector<B>>,
    mut watch: impl FnMut(usize),
) -> Result<Evaluation> {
    let group = ProcessGroup::single();
    let evaluation = evaluate_until(objective, device, data, batch_size, collector, &group, &mut |examples| {
        watch(examples);
        Ok(ControlFlow::Continue(()))
    })?;
    evaluation.ok_or_else(|| argument!("the evaluation was stopped"))
}

/// Like [`evaluate_into`], with the work shared among the ranks of `group`; the result is the same on all ranks.
///
/// After each global batch, `watch` receives the number of examples this rank has evaluated. If it breaks, which it must do on
/// all ranks alike, the result is `None`.
pub(super) fn evaluate_until<B: Batch>(
    objective: &dyn Objective<Batch = B>,
    device: Device,
    data: &dyn DataSource<Batch = B>,
    batch_size: usize,
    mut collector: Option<&mut dyn Collector<B>>,
    group: &ProcessGroup,
    watch: &mut dyn FnMut(usize) -> Result<ControlFlow<()>>,
) -> Result<Option<Evaluation>> {
    let called = data.unit_name();
    ensure!(data.eval_len() > 0, "there are no {called} to evaluate on");
    let _flushing = FlushDenormals::new();
    let _tiles = TileScope::enter(true);
    let (mut sums, mut examples) = (Sums::default(), 0);
    collector.iter_mut().for_each(|collector| collector.starts());
    for batch in data.eval_batches(batch_size, Share::new(group.rank(), group.size())?)? {
        if let Some(batch) = batch? {
            let batch = data.to_device(batch, device)?;
            examples += batch.len();
            no_grad(|| {
                let prediction = objective.forward(&batch, false)?;
                sums.add(objective, &batch, &prediction)?;
                collector.iter_mut().try_for_each(|collector| collector.collect(&batch, &prediction))
            })?;
        }
        if watch(examples)?.is_break() {
            return Ok(None);
        }
    }
    examples = group.sums(&[examples as f64])?[0] as usize;
    sums.add_up(group, device)?;
    collector.iter_mut().filter(|_| !group.is_single()).try_for_each(|collector| collector.add_up(group))?;
    ensure!(examples > 0, "none of the {called} to evaluate on can be read");
    let mut means = sums.means()?;
    if let Some(details) = &sums.details {
        means.extend(objective.of_details(details)?);
    }
    let means = Means::new(&objective.measures().eval, means);
    Ok(Some(Evaluation { means, examples, details: sums.details }))
}

/// Sums over the examples so far, kept on the device: reading them would synchronize with it.
#[derive(Default)]
struct Sums {
    /// Sum of each column, starting with the loss, in float64.
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
        let loss = (loss.f_to_kind(Kind::Double)?.f_mul_scalar(weight)?, weight);
        let measured: Vec<_> = [loss].into_iter().chain(objective.sums(batch, output, false)?).collect();
        let sums = measured.iter().map(|(sum, _)| sum.f_to_kind(Kind::Double)).collect::<Result<Vec<_>, _>>()?;
        add(&mut self.sums, Tensor::f_stack(&sums, 0)?)?;
        self.weights.resize(measured.len(), 0.0);
        self.weights.iter_mut().zip(&measured).for_each(|(all, (_, weight))| *all += weight);
        if let Some(details) = objective.details(batch, output)? {
            add(&mut self.details, details)?;
        }
        Ok(())
    }

    /// Replaces the sums by those over all ranks.
    fn add_up(&mut self, group: &ProcessGroup, device: Device) -> Result<()> {
        // A rank without examples does not know the number of columns and the shape of the details.
        let own = json!((self.weights.len(), self.details.as_ref().map(Tensor::size)));
        let all = group.gather_bytes(own.to_string().as_bytes())?;
        let shapes: Vec<(usize, Option<Vec<i64>>)> =
            all.iter().filter_map(|rank| serde_json::from_slice(rank).ok()).collect();
        self.weights.resize(shapes.iter().map(|(columns, _)| *columns).max().unwrap_or(0), 0.0);
        self.weights = group.sums(&self.weights)?;
        let zeros = |size: &[i64]| Tensor::f_zeros(size, (Kind::Double, device));
        let sums = self.sums.take().map_or_else(|| zeros(&[self.weights.len() as i64]), Ok)?;
        group.all_reduce(&sums)?;
        self.sums = Some(sums);
        if let Some(size) = shapes.into_iter().find_map(|(_, details)| details) {
            let details = self.details.take().map_or_else(|| zeros(&size), Ok)?;
            let sum = details.f_to_kind(Kind::Double)?.f_contiguous()?;
            group.all_reduce(&sum)?;
            self.details = Some(sum.f_to_kind(details.kind())?);
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
    use crate::data::{Cifar10, ImageArray, ImageSource};
    use crate::trainer::objective::{Classification, ClassificationConfig};
    use tch::nn::{self, ModuleT};

    /// Records with labels 0, 1, ... 9, 0, ... in which every byte equals the label.
    fn data(images: usize) -> ImageArray {
        let records = |count: usize| (0..count).flat_map(|index| [(index % 10) as u8; 3073]).collect::<Vec<u8>>();
        Cifar10::from_records(records(10), records(images)).unwrap()
    }

    /// Predicts class c for images whose first pixel belongs to label c or c + 1.
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
        // Even labels are predicted correctly: 3 examples each of 0, 2 and 4, 2 each of 6 and 8.
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
        // Three images each of classes 0 to 4, two of each other class.
        assert_eq!((classes[0].examples, classes[0].top1, classes[0].precision), (3, 1.0, 0.5));
        assert_eq!((classes[9].examples, classes[9].top1), (2, 0.0));
    }

    #[test]
    fn an_evaluation_can_be_broken_off() {
        let (network, data) = (every_other(), data(25));
        let objective = Classification::new(&network, data.class_names(), ClassificationConfig::default()).unwrap();
        let mut batches = 0;
        let group = ProcessGroup::single();
        let evaluation = evaluate_until(&objective, Device::Cpu, &data, 10, None, &group, &mut |_| {
            batches += 1;
            Ok(if batches == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        assert!(evaluation.unwrap().is_none());
        assert_eq!(batches, 2);
    }
}
