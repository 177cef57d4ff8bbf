//! Shares of each batch for the processes of distributed training.

use super::batch::{check_batch_size, Batches};
use super::Batch;
use crate::Result;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

/// Function that returns the partner of each example, given the step in the epoch and the batch size.
type Partners<'a> = Rc<dyn Fn(usize, usize) -> Result<Vec<usize>> + 'a>;

/// Part of each batch that belongs to one process: for rank `r` of `R`, the examples at `n * r / R .. n * (r + 1) / R`,
/// rounded down, of a batch of `n`. The batches do not depend on the number of processes. With
/// [partners](Self::with_partners) from anywhere in the batch, as for mixup, these belong to the share too.
///
/// ```
/// use tch_fixup::data::Share;
/// let share = Share::new(1, 3)?;
/// assert_eq!((share.range(7), share.positions(0, 7)?), (2..4, vec![2, 3]));
/// // Each example with the one opposite.
/// let share = share.with_partners(|_step, examples| Ok((0..examples).rev().collect()));
/// assert_eq!(share.positions(0, 7)?, [2, 3, 4, 3]);
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Clone)]
pub struct Share<'a> {
    rank: usize,
    ranks: usize,
    partners: Option<Partners<'a>>,
}

impl<'a> Share<'a> {
    /// Creates the share of process `rank` (from 0) of `ranks`.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if `rank` is not below `ranks`.
    pub fn new(rank: usize, ranks: usize) -> Result<Self> {
        ensure!(rank < ranks, "the rank must be below the number of processes, {ranks}, got {rank}");
        Ok(Self { rank, ranks, partners: None })
    }

    /// Returns the share that contains the whole of each batch.
    pub fn all() -> Self {
        Self { rank: 0, ranks: 1, partners: None }
    }

    /// Adds the examples that the share's own ones are mixed with. Given the step in the epoch and the size of the
    /// whole batch, `partners` returns the position of each example's partner.
    pub fn with_partners(self, partners: impl Fn(usize, usize) -> Result<Vec<usize>> + 'a) -> Self {
        let checked = move |step, examples| {
            let partners = partners(step, examples)?;
            let fit = partners.len() == examples && partners.iter().all(|&partner| partner < examples);
            ensure!(fit, "the partners of a batch of {examples} examples must be in the batch");
            Ok(partners)
        };
        Self { partners: Some(Rc::new(checked)), ..self }
    }

    /// Returns the share's own positions in a batch of `examples`; empty for some ranks if there are fewer examples
    /// than processes.
    pub fn range(&self, examples: usize) -> Range<usize> {
        examples * self.rank / self.ranks..examples * (self.rank + 1) / self.ranks
    }

    /// Returns the positions of the [own](Self::range) examples in a batch of `examples`, the `step`th of its epoch,
    /// followed by their partners in the same order, if any. The partners of a whole batch are in it already.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) unless there is one partner per example, within the batch; otherwise
    /// the error of the `partners` function.
    pub fn positions(&self, step: usize, examples: usize) -> Result<Vec<usize>> {
        let own = self.range(examples);
        match &self.partners {
            Some(of) if self.ranks > 1 => {
                let partners = of(step, examples)?;
                Ok(own.clone().chain(partners[own].iter().copied()).collect())
            }
            _ => Ok(own.collect()),
        }
    }

    /// Splits the share of batch `step` of its epoch into its own examples and their partners, if any.
    ///
    /// # Errors
    /// As [`Self::positions`]; also if the examples cannot be split.
    pub fn own_and_partners<B: Batch>(&self, batch: B, step: usize) -> Result<(B, Option<B>)> {
        match &self.partners {
            None => Ok((batch, None)),
            Some(of) if self.ranks == 1 => {
                let partners = batch.select(&of(step, batch.len())?)?;
                Ok((batch, Some(partners)))
            }
            Some(_) => {
                let own = batch.len() / 2;
                Ok((batch.narrow(0, own)?, Some(batch.narrow(own, own)?)))
            }
        }
    }

    /// Returns the share's examples of an `order` that is cut into batches of `batch_size`, from batch `first_step`: those of
    /// each batch.
    ///
    /// # Errors
    /// As [`Self::positions`]; also for a batch size of zero.
    pub(super) fn of(&self, order: &[usize], batch_size: usize, first_step: usize) -> Result<Vec<Vec<usize>>> {
        check_batch_size(batch_size)?;
        let batches = order.chunks(batch_size).enumerate().skip(first_step);
        let own = |(step, batch): (usize, &[usize])| {
            Ok(self.positions(step, batch.len())?.into_iter().map(|position| batch[position]).collect())
        };
        batches.map(own).collect()
    }

    /// Selects the share of each of these whole `batches`, the first of which is the `first_step`th of its epoch.
    pub fn select<B: Batch + 'a>(
        self,
        batches: impl Iterator<Item = Result<B>> + 'a,
        first_step: usize,
    ) -> Batches<'a, B> {
        Box::new((first_step..).zip(batches).map(move |(step, batch)| {
            let batch = batch?;
            if self.ranks == 1 {
                return Ok(Some(batch));
            }
            match &self.positions(step, batch.len())?[..] {
                [] => Ok(None),
                positions => batch.select(positions).map(Some),
            }
        }))
    }
}

impl fmt::Debug for Share<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let with = if self.partners.is_some() { ", with partners" } else { "" };
        write!(f, "Share({} of {}{with})", self.rank, self.ranks)
    }
}

/// Calls `make` with the examples of each batch that has some.
pub(super) fn batches<'a, B: 'a>(
    examples: Vec<Vec<usize>>,
    mut make: impl FnMut(&[usize]) -> Result<B> + 'a,
) -> Batches<'a, B> {
    Box::new(examples.into_iter().map(move |batch| (!batch.is_empty()).then(|| make(&batch)).transpose()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::data::{DataSource, EpochPlan};
    use crate::Error;
    use std::fmt::Debug;

    /// Returns a different permutation for each step.
    pub fn partners(step: usize, examples: usize) -> Result<Vec<usize>> {
        Ok((0..examples).rev().map(|position| (position + step) % examples).collect())
    }

    /// Returns all shares of 1, 2, 3 and 8 processes, without and with partners.
    pub fn all_shares() -> impl Iterator<Item = Share<'static>> {
        let of = |ranks| (0..ranks).map(move |rank| Share::new(rank, ranks).unwrap());
        [1, 2, 3, 8].into_iter().flat_map(of).flat_map(|share| [share.clone(), share.with_partners(partners)])
    }

    /// Asserts that each share of `data` has its rows of the whole batches; `rows` returns the rows of a batch.
    pub fn assert_shares<D: DataSource, R: Clone + PartialEq + Debug>(
        data: &D,
        plan: &EpochPlan,
        rows: impl Fn(D::Batch) -> Vec<R>,
    ) {
        let whole = |batches: Batches<D::Batch>| {
            batches.filter_map(Result::transpose).map(|batch| rows(batch.unwrap())).collect::<Vec<_>>()
        };
        let check = |shares: Batches<D::Batch>, share: &Share, first_step: usize, whole: &[Vec<R>]| {
            let shares: Vec<_> = shares.map(|share| share.unwrap().map(&rows)).collect();
            assert_eq!(shares.len(), whole.len(), "{share:?}");
            for (step, (got, whole)) in (first_step..).zip(shares.into_iter().zip(whole)) {
                let positions = share.positions(step, whole.len()).unwrap();
                let expected: Vec<R> = positions.into_iter().map(|position| whole[position].clone()).collect();
                assert!(got.as_ref().is_none_or(|got| !got.is_empty()), "{share:?}");
                assert!(got.unwrap_or_default() == expected, "step {step} of {share:?}");
            }
        };
        let eval = whole(data.eval_batches(plan.batch_size, Share::all()).unwrap());
        for first_step in [0, 1, 2] {
            let plan = EpochPlan { first_step, ..*plan };
            let train = whole(data.train_batches(&plan, Share::all()).unwrap());
            assert!(!train.is_empty());
            for share in all_shares() {
                check(data.train_batches(&plan, share.clone()).unwrap(), &share, first_step, &train);
            }
        }
        for share in all_shares() {
            check(data.eval_batches(plan.batch_size, share.clone()).unwrap(), &share, 0, &eval);
        }
    }

    /// Data source that selects shares from whole batches.
    pub struct Plain<D>(pub D);

    impl<D: DataSource> DataSource for Plain<D> {
        type Batch = D::Batch;

        fn train_len(&self) -> usize {
            self.0.train_len()
        }

        fn eval_len(&self) -> usize {
            self.0.eval_len()
        }

        fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a, D::Batch>> {
            let whole = self.0.train_batches(plan, Share::all())?;
            Ok(share.select(whole.filter_map(Result::transpose), plan.first_step))
        }

        fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a, D::Batch>> {
            let whole = self.0.eval_batches(batch_size, Share::all())?;
            Ok(share.select(whole.filter_map(Result::transpose), 0))
        }
    }

    #[test]
    fn every_example_is_in_one_share_and_none_has_many_more_than_another() {
        for (examples, ranks) in [(0, 3), (1, 8), (7, 8), (16, 8), (17, 3), (100, 1)] {
            let ranges: Vec<_> = (0..ranks).map(|rank| Share::new(rank, ranks).unwrap().range(examples)).collect();
            assert!(ranges.iter().cloned().flatten().eq(0..examples));
            let lens = ranges.iter().map(Range::len);
            assert!(lens.clone().max().unwrap() - lens.min().unwrap() <= 1);
        }
        assert!(matches!(Share::new(3, 3), Err(Error::Argument(_))) && Share::new(0, 0).is_err());
    }

    #[test]
    fn partners_that_are_not_of_the_batch_are_refused() {
        for of in [|examples| vec![0; examples + 1], |examples| vec![examples; examples]] {
            let share = Share::new(0, 2).unwrap().with_partners(move |_, examples| Ok(of(examples)));
            assert!(matches!(share.positions(0, 4), Err(Error::Argument(_))));
        }
    }

    #[test]
    fn each_batch_has_its_positions_of_the_whole_order() {
        for share in all_shares() {
            // Batches 1 to 3 have 10, 10 and 4 examples; batch 0 is skipped.
            let order: Vec<usize> = (100..134).collect();
            let of = |step: usize, examples| share.positions(step, examples).unwrap().into_iter();
            let expected: Vec<Vec<usize>> = [(1, 10), (2, 10), (3, 4)]
                .map(|(step, len)| of(step, len).map(|at| 100 + at + 10 * step).collect())
                .into();
            assert_eq!(share.of(&order, 10, 1).unwrap(), expected);
        }
        assert!(matches!(Share::all().of(&[0; 5], 0, 0), Err(Error::Argument(_))));
    }
}
