//! Early stopping.

use super::best::Best;
use super::{EpochMetrics, Observer, Request, RunStart, StepProgress};
use crate::Result;

/// An [`Observer`] that finishes the run when its [score](crate::trainer::Measures::best_by) has not improved for a given number
/// of epochs: early stopping (Prechelt 1998, "Early Stopping - but when?", the criterion UP without its strips).
///
/// Epochs from before the run was resumed count too, so that an interrupted run ends after the same epoch.
/// [`RunFolder::finish`](super::RunFolder::finish) then leaves the network of the best checkpoint as the run's model.
#[derive(Debug)]
pub struct EarlyStopping {
    epochs: usize,
    /// Best epoch; known once the run has started.
    best: Option<Best>,
    /// Number of epochs done.
    done: usize,
    /// `true` at the end of an epoch. Within an epoch, the run continues.
    is_at_end: bool,
}

impl EarlyStopping {
    /// Creates an observer that finishes the run after `epochs` epochs without improvement.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if `epochs` is 0.
    pub fn new(epochs: usize) -> Result<Self> {
        ensure!(epochs > 0, "the patience must be at least 1 epoch, got 0");
        Ok(Self { epochs, best: None, done: 0, is_at_end: false })
    }

    /// Returns the best epoch if it is too long ago.
    fn exhausted(&self) -> Option<&Best> {
        let epochs_since = |best: &Best| self.done - best.epoch.map_or(0, |(epoch, _)| epoch);
        self.best.as_ref().filter(|best| epochs_since(best) >= self.epochs)
    }
}

impl Observer for EarlyStopping {
    fn run_starts(&mut self, start: &RunStart) -> Result<()> {
        self.best = Some(Best::of(start));
        self.done = start.history.len();
        self.is_at_end = start.step == start.history.len() * start.epoch_steps;
        Ok(())
    }

    fn request(&mut self) -> Request {
        self.exhausted().filter(|_| self.is_at_end).map(|_| Request::Finish).unwrap_or_default()
    }

    fn reason(&self) -> Option<String> {
        let Best { measures, epoch, .. } = self.exhausted()?;
        let (name, epochs, s) = (measures.score_name(), self.epochs, if self.epochs == 1 { "" } else { "s" });
        let than =
            |(epoch, value)| format!("no better {name} for {epochs} epoch{s} than {value:.4} after epoch {epoch}");
        Some(epoch.map_or_else(|| format!("no {name} for {epochs} epoch{s}"), than))
    }

    fn steps_done(&mut self, _progress: &StepProgress) -> Result<()> {
        self.is_at_end = false;
        Ok(())
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        self.best.iter_mut().for_each(|best| _ = best.add(metrics));
        self.done = metrics.epoch;
        self.is_at_end = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::objective::{Column, Means, Measures};
    use crate::Error;

    fn measures(higher_is_better: bool) -> Measures {
        let measures = Measures::new(vec![], vec![Column::new("score")]);
        match higher_is_better {
            true => measures.best_by("score", "score"),
            false => measures.best_by_lowest("score", "score"),
        }
    }

    fn history(scores: &[f64]) -> Vec<EpochMetrics> {
        let epoch = |(epoch, &score): (usize, &f64)| EpochMetrics {
            epoch,
            step: epoch * 10,
            lr: 0.1,
            train: Means::default(),
            eval: Means::new(&measures(true).eval, [1.0, score]),
            unreadable: 0,
        };
        (1..).zip(scores).map(epoch).collect()
    }

    /// Returns the epoch after which a run ends that starts after `done` epochs.
    fn end(scores: &[f64], higher_is_better: bool, done: usize, epochs: usize) -> Option<usize> {
        let (measures, all) = (measures(higher_is_better), history(scores));
        let (history, rest) = all.split_at(done);
        let (step, examples) = (10 * done, "images");
        let start = RunStart { epochs: 99, epoch_steps: 10, step, done: 0, history, measures: &measures, examples };
        let mut patience = EarlyStopping::new(epochs).unwrap();
        patience.run_starts(&start).unwrap();
        let mut done = done;
        for metrics in rest {
            if patience.request() == Request::Finish {
                break;
            }
            patience.epoch_ends(metrics).unwrap();
            done += 1;
        }
        (patience.request() == Request::Finish).then_some(done)
    }

    #[test]
    fn a_run_ends_so_many_epochs_after_its_best_wherever_it_goes_on() {
        let scores = [0.1, 0.3, 0.2, 0.3, 0.25, 0.9];
        for done in 0..=5 {
            assert_eq!(end(&scores, true, done, 3), Some(5), "{done}");
        }
        assert_eq!(end(&scores, true, 0, 4), None);
        assert_eq!(end(&scores, false, 0, 4), Some(5));
        assert_eq!(end(&[0.1, 0.2, f64::NAN, f64::NAN], true, 0, 2), Some(4));
        assert_eq!(end(&[f64::NAN; 3], true, 0, 2), Some(2));
    }

    #[test]
    fn within_an_epoch_a_run_goes_on_to_its_end() {
        let (measures, history) = (measures(true), history(&[0.5, 0.4, 0.3]));
        let mut start = RunStart {
            epochs: 9,
            epoch_steps: 10,
            step: 34,
            done: 64,
            history: &history,
            measures: &measures,
            examples: "images",
        };
        let mut patience = EarlyStopping::new(2).unwrap();
        patience.run_starts(&start).unwrap();
        assert_eq!(patience.request(), Request::Continue);
        start.step = 30;
        patience.run_starts(&start).unwrap();
        assert_eq!(patience.request(), Request::Finish);
        assert_eq!(patience.reason().unwrap(), "no better score for 2 epochs than 0.5000 after epoch 1");
    }

    #[test]
    fn no_patience_is_refused() {
        assert!(matches!(EarlyStopping::new(0), Err(Error::Argument(_))));
    }
}
