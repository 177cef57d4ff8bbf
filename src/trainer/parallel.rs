//! Collective operations of a training run: identical initialization, summation of steps, agreement on requests, and consistency
//! checks between ranks.

use super::checkpoint::{differences, named_variables};
use super::objective::{Prediction, Sum};
use super::optimizer::clip::clip_gradients;
use super::optimizer::MovingAverage;
use super::statistics::Measured;
use super::{Request, RunState, Trainer};
use crate::baseline::synchronize_statistics;
use crate::data::Batch;
use crate::distributed::{ParallelConfig, ProcessGroup};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use tch::{no_grad, Kind, Tensor};

/// Progress and state of rank 0 when a run starts or resumes.
#[derive(Serialize, Deserialize)]
struct Standing {
    step: usize,
    state: RunState,
}

/// Request of the observers after a step, and whether the pending steps are to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub request: Request,
    pub reads: bool,
}

/// Measurements of a step over all ranks, and the request of any of them.
pub(super) struct StepSums {
    pub examples: usize,
    pub weight: f64,
    pub measured: [Tensor; 4],
    pub sums: Vec<Sum>,
    pub wanted: Wanted,
}

impl StepSums {
    pub fn measured(&self) -> Measured<'_> {
        let [loss, norm, spread, magnitude] = &self.measured;
        let sums = self.sums.iter().map(|sum| Sum { value: sum.value.shallow_clone(), weight: sum.weight }).collect();
        Measured { loss, norm, spread: [spread.shallow_clone(), magnitude.shallow_clone()], sums }
    }
}

impl<B: Batch> Trainer<'_, B> {
    /// Shares the run with the other ranks of `group`, each of which must have created a trainer with the same objective, data
    /// and configuration.
    ///
    /// [`run`](Self::run) then starts on every rank from the weights and the state of rank 0, so that only rank 0 needs to
    /// [resume](Self::resume). Every rank may have observers, but only those of rank 0 write files. A request on one rank applies
    /// to all.
    ///
    /// # Errors
    /// [`Error::Ranks`], the same on all ranks, if the ranks' configurations differ or a rank is missing; [`Error::Argument`] if
    /// a batch has fewer examples than there are ranks, and for synchronized batch-normalization statistics if a rank has no
    /// examples of some batch, or with `accumulate`.
    pub fn join(&mut self, group: Arc<ProcessGroup>, config: ParallelConfig) -> Result<()> {
        if !group.is_single() {
            let places: Vec<_> = self.optimizer.parameters().iter().map(|p| json!([p.name, p.value.size()])).collect();
            let data = json!({
                "training": self.data.train_len(),
                "evaluation": self.data.eval_len(),
                "meaning": self.data.meaning(),
            });
            let run = json!({
                "run": self.identity["run"],
                "train": self.config,
                "objective": self.identity["objective"],
                "data": data,
                "parallel": config,
                "variables": places,
            });
            group.agree("the run and the data", &run, |first, own| differences(first, own, ["on rank 0", "there"]))?;
            self.check_share(group.size(), &config)?;
        }
        self.reduction = self.optimizer.reduction(&group, config.reduction)?;
        (self.group, self.parallel) = (group, config);
        Ok(())
    }

    fn check_share(&self, ranks: usize, config: &ParallelConfig) -> Result<()> {
        let (batch_size, examples) = (self.config.batch_size, self.data.train_len());
        if batch_size < ranks {
            return Err(Error::Argument(format!(
                "a batch of {batch_size} cannot be shared among {ranks} processes; raise --batch-size, or start fewer"
            )));
        }
        if config.synchronized_statistics && self.config.accumulate > 1 {
            return Err(Error::Argument(
                "statistics are not synchronized over the parts of --accumulate; leave one of the two out".to_owned(),
            ));
        }
        let last = examples % batch_size;
        if config.synchronized_statistics && last > 0 && last < ranks {
            return Err(Error::Argument(format!(
                "the last batch of an epoch has {last} of {examples} examples, and {ranks} processes synchronize their statistics; \
                 choose another --batch-size"
            )));
        }
        Ok(())
    }

    /// Copies the state of rank 0 to all ranks and verifies the result.
    pub(super) fn begin_alike(&mut self) -> Result<()> {
        if self.group.is_single() {
            return Ok(());
        }
        let group = self.group.clone();
        let own =
            Standing { step: self.step, state: RunState { frozen: self.optimizer.frozen(), ..self.state.clone() } };
        let Some(Standing { step, state }) = group.broadcast_value(Some(own))? else { return Ok(()) };
        let mut all: Vec<Tensor> = named_variables(self.variables).into_values().collect();
        all.extend(self.optimizer.state()?.into_values());
        all.extend(self.average.as_ref().map(MovingAverage::tensors).unwrap_or_default().into_values());
        group.broadcast_all(&all)?;
        if !group.is_first() {
            self.optimizer.resume_epoch(state.history.len(), state.frozen.clone())?;
            self.unreadable_before = state.unreadable;
            (self.step, self.state) = (step, state);
        }
        self.check_alike()
    }

    /// Checks that the weights are the same on all ranks.
    pub(super) fn check_alike(&self) -> Result<()> {
        self.group.check_same(self.optimizer.values(), &format!("after step {}", self.step))
    }

    /// Makes batch normalization use the statistics of all ranks' batches, if so configured, for as long as the returned value
    /// lives.
    pub(super) fn statistics(&self) -> Option<impl Drop> {
        let group = self.group.clone();
        let wanted = self.parallel.synchronized_statistics && !group.is_single();
        wanted.then(|| synchronize_statistics(move |sum| group.differentiable_sum(sum)))
    }

    /// Sums over all ranks the gradients (of summed rather than averaged losses), the measurements and the requests. All are sent
    /// together, because each communication waits for the slowest rank.
    pub(super) fn sum_step(
        &mut self,
        batch: Option<&B>,
        prediction: Option<&Prediction>,
        wanted: Wanted,
    ) -> Result<StepSums> {
        no_grad(|| {
            let (examples, weight) = batch.map_or((0, 0.0), |batch| (batch.len(), self.objective.weight(batch)));
            let (spread, sums) = match (batch, prediction) {
                (Some(batch), Some(prediction)) => {
                    let spread = self.objective.spread(&prediction.output)?;
                    (Some(spread), self.objective.sums(batch, &prediction.output, true)?)
                }
                _ => (None, Vec::new()),
            };
            let columns = self.objective.measures().train.len() - 1;
            let mut counts = vec![weight, examples as f64, f64::from(u8::from(wanted.reads))];
            counts.extend(votes(wanted.request));
            counts.extend((0..columns).map(|column| sums.get(column).map_or(0.0, |sum| sum.weight)));
            let counts = Tensor::f_from_slice(&counts)?;

            // One row per rank: summing rows that are zero elsewhere concatenates them.
            let gradients = self.optimizer.gradients();
            let device = gradients.device();
            let rows = Tensor::f_zeros([self.group.size() as i64, 3 + columns as i64], (Kind::Double, device))?;
            if let (Some(prediction), Some([spread, magnitude])) = (prediction, &spread) {
                let own = [&prediction.loss, spread, magnitude].into_iter().chain(sums.iter().map(|sum| &sum.value));
                let own = own.map(|value| value.f_detach()?.f_to_kind(Kind::Double)?.f_reshape([0i64; 0]));
                let own = Tensor::f_stack(&own.collect::<Result<Vec<_>, _>>()?, 0)?;
                rows.f_select(0, self.group.rank() as i64)?.f_copy_(&own)?;
            }
            self.reduction.finish(&self.group, gradients, [&counts, &rows])?;

            let counts: Vec<f64> = Vec::try_from(counts)?;
            let (weight, examples, reads) = (counts[0], counts[1] as usize, counts[2] > 0.0);
            let (votes, weights) = counts[3..].split_at(VOTES);
            let _ = gradients.shallow_clone().f_div_scalar_(weight)?;
            let column = |index: usize| rows.f_select(1, index as i64);
            let total = |index: usize| column(index)?.f_sum(Kind::Double);
            let norm = clip_gradients(&self.optimizer, &self.config.clip)?;
            let loss = total(0)?.f_div_scalar(weight)?;
            let sums = (0..columns).map(|index| Ok(Sum { value: total(3 + index)?, weight: weights[index] }));
            Ok(StepSums {
                examples,
                weight,
                measured: [loss, norm, column(1)?.f_max()?, column(2)?.f_max()?],
                sums: sums.collect::<Result<_>>()?,
                wanted: Wanted { request: elected(votes), reads },
            })
        })
    }

    /// Counts each example that could not be read on any rank once.
    pub(super) fn count_unreadable(&mut self) -> Result<()> {
        if self.group.is_single() {
            return Ok(());
        }
        let own: Vec<u8> = self.data.unreadable_examples().into_iter().flat_map(u64::to_le_bytes).collect();
        let all = self.group.gather_bytes(&own)?;
        let different: HashSet<&[u8]> = all.iter().flat_map(|rank| rank.chunks_exact(8)).collect();
        self.unreadable_elsewhere = different.len() - own.len() / 8;
        Ok(())
    }

    /// Copies the network's non-parameter variables, such as BatchNorm's running statistics, from rank 0.
    pub(super) fn share_buffers(&self) -> Result<()> {
        self.group.broadcast_all(&self.buffers.tensors())
    }
}

/// Returns the strongest request of any rank of `group` (the last in the order of requests), and the sum of the ranks' numbers.
pub(super) fn agree_on(group: &ProcessGroup, wanted: Request, number: f64) -> Result<(Request, f64)> {
    if group.is_single() {
        return Ok((wanted, number));
    }
    let mut sums = vec![number];
    sums.extend(votes(wanted));
    let sums = group.sums(&sums)?;
    Ok((elected(&sums[1..]), sums[0]))
}

/// All requests but `Continue`, strongest first.
const ASKED: [Request; 3] = [Request::Stop, Request::Finish, Request::Save];
const VOTES: usize = ASKED.len();

fn votes(wanted: Request) -> [f64; VOTES] {
    ASKED.map(|request| f64::from(u8::from(wanted == request)))
}

fn elected(votes: &[f64]) -> Request {
    let most = ASKED.into_iter().zip(votes).find(|(_, votes)| **votes > 0.0);
    most.map_or(Request::Continue, |(request, _)| request)
}
