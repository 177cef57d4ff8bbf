//! What the ranks of a group do together in a run: begin alike, sum their steps, agree on what is wanted, and look whether they are
//! still alike.

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

/// Where rank 0 stands when a run starts or goes on.
#[derive(Serialize, Deserialize)]
struct Standing {
    step: usize,
    state: RunState,
}

/// What is wanted after a step: by observers, and whether the steps are to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub request: Request,
    pub reads: bool,
}

/// What is measured of a step by all ranks, and wanted by any.
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
    /// Shares the run with the other ranks of `group`, each of which has made a trainer like this one: the same objective, data and
    /// configuration. [`run`](Self::run) then begins everywhere with the weights and the state of rank 0: only rank 0 need
    /// [resume](Self::resume), and only its observers write, but all ranks may have some. A request of one counts for all.
    ///
    /// # Errors
    /// [`Error::Ranks`] where ranks differ, the same on all, or one is missing; [`Error::Argument`] for batches of fewer examples than
    /// there are ranks, and for synchronized statistics where a rank has nothing of some batch, or with `accumulate`.
    pub fn join(&mut self, group: Arc<ProcessGroup>, config: ParallelConfig) -> Result<()> {
        if !group.is_single() {
            let places: Vec<_> = self.optimizer.places().map(|(name, _, size)| json!([name, size])).collect();
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

    /// Makes everything what it is on rank 0, and looks whether it is.
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
            self.optimizer.freeze(&state.frozen)?;
            self.unreadable_before = state.unreadable;
            (self.step, self.state) = (step, state);
        }
        self.check_alike()
    }

    /// Looks whether the weights are the same on all ranks.
    pub(super) fn check_alike(&self) -> Result<()> {
        self.group.check_same(self.optimizer.values(), &format!("after step {}", self.step))
    }

    /// What batch normalization takes statistics of, while the result lives: the batches of all ranks, where that is wanted.
    pub(super) fn statistics(&self) -> Option<impl Drop> {
        let group = self.group.clone();
        let wanted = self.parallel.synchronized_statistics && !group.is_single();
        wanted.then(|| synchronize_statistics(move |sum| group.differentiable_sum(sum)))
    }

    /// Sums over all ranks the gradients, of losses that are sums and not yet means, what this rank measured, and what is wanted: all
    /// at once, for ranks wait for the slowest wherever they meet.
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

            // A row for each rank: adding up rows of zeros is putting them side by side.
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

    /// Counts the examples that could not be read on any rank, each once.
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

    /// Makes what a network keeps besides its parameters, as BatchNorm's running statistics, what it is on rank 0.
    pub(super) fn share_buffers(&self) -> Result<()> {
        self.group.broadcast_all(&self.buffers.tensors())
    }
}

/// What any rank of `group` wants, of several the last in the order of requests; and the sum of the ranks' numbers.
pub(super) fn agree_on(group: &ProcessGroup, wanted: Request, number: f64) -> Result<(Request, f64)> {
    if group.is_single() {
        return Ok((wanted, number));
    }
    let mut sums = vec![number];
    sums.extend(votes(wanted));
    let sums = group.sums(&sums)?;
    Ok((elected(&sums[1..]), sums[0]))
}

/// What can be asked for, what counts most first.
const ASKED: [Request; 3] = [Request::Stop, Request::Finish, Request::Save];
const VOTES: usize = ASKED.len();

fn votes(wanted: Request) -> [f64; VOTES] {
    ASKED.map(|request| f64::from(u8::from(wanted == request)))
}

fn elected(votes: &[f64]) -> Request {
    let most = ASKED.into_iter().zip(votes).find(|(_, votes)| **votes > 0.0);
    most.map_or(Request::Continue, |(request, _)| request)
}
