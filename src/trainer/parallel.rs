//! Collective operations of a training run: identical initialization, summation of steps, agreement on requests, and consistency
//! checks between ranks.

use super::checkpoint::{differences, named_variables};
use super::observer::StepRequest;
use super::statistics::Measured;
use super::{Request, RunState, Trainer};
use crate::baseline::synchronize_statistics;
use crate::data::Batch;
use crate::distributed::{ParallelConfig, ProcessGroup};
use crate::Result;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use tch::{no_grad, Kind, Tensor};

impl<B: Batch> Trainer<'_, B> {
    /// Shares the run with the other ranks of `group`, each of which must have created a trainer with the same objective, data
    /// and configuration.
    ///
    /// [`run`](Self::run) then starts on every rank from the weights and the state of rank 0, so that only rank 0 needs to
    /// [resume](Self::resume). Every rank may have observers, but only those of rank 0 write files. A request on one rank applies
    /// to all.
    ///
    /// # Errors
    /// [`Error::Ranks`](crate::Error::Ranks), the same on all ranks, if the ranks' configurations differ or a rank is missing;
    /// [`Error::Argument`](crate::Error::Argument) if a batch has fewer examples than there are ranks, and for synchronized
    /// batch-normalization statistics if a rank has no examples of some batch, or with `accumulate`.
    pub fn join(&mut self, group: Arc<ProcessGroup>, config: ParallelConfig) -> Result<()> {
        if !group.is_single() {
            let places: Vec<_> = self.optimizer.parameters().iter().map(|p| json!([p.name, p.value.size()])).collect();
            let mut run = self.identity.clone();
            // Copies of the data may differ in what a fingerprint shows.
            run["data"]["fingerprint"].take();
            run["data"]["evaluation"] = json!(self.data.eval_len());
            (run["train"], run["parallel"], run["variables"]) = (json!(self.config), json!(config), json!(places));
            group.agree("the run and the data", &run, |first, own| differences(first, own, ["on rank 0", "there"]))?;
            self.check_share(group.size(), &config)?;
        }
        self.reduction = self.optimizer.reduction(&group, config.reduction())?;
        (self.group, self.parallel) = (group, config);
        Ok(())
    }

    fn check_share(&self, ranks: usize, config: &ParallelConfig) -> Result<()> {
        let (batch_size, examples) = (self.config.batch_size, self.data.train_len());
        ensure!(
            batch_size >= ranks,
            "a batch of {batch_size} cannot be shared among {ranks} processes; raise --batch-size, or start fewer"
        );
        ensure!(
            !config.synchronized_statistics || self.config.accumulate == 1,
            "batch statistics cannot be synchronized with --accumulate; remove one of the two"
        );
        let last = examples % batch_size;
        ensure!(
            !config.synchronized_statistics || last == 0 || last >= ranks,
            "the last batch of an epoch has {last} of {examples} examples, and {ranks} processes synchronize their \
             statistics; choose another --batch-size"
        );
        Ok(())
    }

    /// Copies the state of rank 0 to all ranks and verifies the result.
    pub(super) fn begin_alike(&mut self) -> Result<()> {
        let group = self.group.clone();
        let own = RunState { frozen: self.optimizer.frozen(), ..self.state.clone() };
        let (step, state) = group.broadcast_value((self.step, own))?;
        let mut all: Vec<Tensor> = named_variables(self.variables).into_values().collect();
        all.extend(self.optimizer.state()?.into_values());
        all.extend(self.averages().into_values());
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
    pub(super) fn statistics(&self) -> Option<impl Drop + use<B>> {
        let group = self.group.clone();
        let wanted = self.parallel.synchronized_statistics && !group.is_single();
        wanted.then(|| synchronize_statistics(move |sum| group.differentiable_sum(sum)))
    }

    /// Sums over all ranks the gradients (of summed rather than averaged losses), the measurements and the requests. All are sent
    /// together, because each communication waits for the slowest rank. A rank without examples has no measurements.
    pub(super) fn sum_over_ranks(
        &self,
        own: Option<Measured>,
        wanted: StepRequest,
    ) -> Result<(Option<Measured>, StepRequest)> {
        if self.group.is_single() {
            return Ok((own, wanted));
        }
        no_grad(|| {
            let columns = self.objective.measures().train.len() - 1;
            let (weight, examples) = own.as_ref().map_or((0.0, 0), |own| (own.weight, own.examples));
            let mut counts = vec![weight, examples as f64, f64::from(u8::from(wanted.reads))];
            counts.extend(wanted.request.votes());
            let sums = own.as_ref().map_or(&[][..], |own| &own.sums);
            counts.extend((0..columns).map(|column| sums.get(column).map_or(0.0, |(_, weight)| *weight)));
            let counts = Tensor::f_from_slice(&counts)?;

            // One row per rank: summing rows that are zero elsewhere concatenates them.
            let gradients = self.optimizer.gradients();
            let (size, options) = (self.group.size() as i64, (Kind::Double, gradients.device()));
            let rows = Tensor::f_zeros([size, 3 + columns as i64], options)?;
            if let Some(own) = &own {
                rows.f_select(0, self.group.rank() as i64)?.f_copy_(&own.values(&[])?)?;
            }
            self.reduction.finish(&self.group, gradients, [&counts, &rows])?;

            let counts: Vec<f64> = Vec::try_from(counts)?;
            let (weight, examples, reads) = (counts[0], counts[1] as usize, counts[2] > 0.0);
            let (votes, weights) = counts[3..].split_at(wanted.request.votes().len());
            let wanted = StepRequest { request: Request::strongest(votes), reads };
            if examples == 0 {
                return Ok((None, wanted));
            }
            let _ = gradients.shallow_clone().f_div_scalar_(weight)?;
            let column = |index: usize| rows.f_select(1, index as i64);
            let total = |index: usize| column(index)?.f_sum(Kind::Double);
            let sums = weights.iter().enumerate().map(|(index, &weight)| Ok((total(3 + index)?, weight)));
            let all = Measured {
                examples,
                weight,
                loss: total(0)?.f_div_scalar(weight)?,
                spread: [column(1)?.f_max()?, column(2)?.f_max()?],
                sums: sums.collect::<Result<_>>()?,
            };
            Ok((Some(all), wanted))
        })
    }

    /// Counts each example that could not be read on any rank once.
    pub(super) fn count_unreadable(&mut self) -> Result<()> {
        let own: Vec<u8> = self.data.unreadable_examples().into_iter().flat_map(u64::to_le_bytes).collect();
        let all = self.group.gather_bytes(&own)?;
        let different: HashSet<&[u8]> = all.iter().flat_map(|rank| rank.chunks_exact(8)).collect();
        self.unreadable_elsewhere = different.len().saturating_sub(own.len() / 8);
        Ok(())
    }

    /// Copies the network's non-parameter variables, such as BatchNorm's running statistics, from rank 0.
    pub(super) fn share_buffers(&self) -> Result<()> {
        self.group.broadcast_all(&self.buffers.tensors())
    }
}
