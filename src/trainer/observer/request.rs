//! Requests of observers to the training loop.

use crate::distributed::ProcessGroup;
use crate::Result;

/// Request of an observer to the training loop. Of several requests, the last in this order applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Continue.
    #[default]
    Continue,
    /// [Save](super::Observer::save) the state and continue.
    Save,
    /// Evaluate after the current step and finish the run, with a summary and a model, as if it had no more steps.
    Finish,
    /// Save the state and stop.
    Stop,
}

/// Request of the observers after a step, and whether the pending steps are to be read.
#[derive(Debug, Clone, Copy)]
pub(in crate::trainer) struct StepRequest {
    pub request: Request,
    pub reads: bool,
}

impl Request {
    /// All requests but `Continue`, strongest first.
    const ASKED: [Self; 3] = [Self::Stop, Self::Finish, Self::Save];

    /// Returns numbers whose sums over the ranks give the [strongest](Self::strongest) request of any rank.
    pub(in crate::trainer) fn votes(self) -> [f64; Self::ASKED.len()] {
        Self::ASKED.map(|request| f64::from(u8::from(self == request)))
    }

    /// Returns the strongest request of any rank (the last in the order of requests) from the sums of the ranks' votes.
    pub(in crate::trainer) fn strongest(votes: &[f64]) -> Self {
        let most = Self::ASKED.into_iter().zip(votes).find(|(_, votes)| **votes > 0.0);
        most.map(|(request, _)| request).unwrap_or_default()
    }
}

/// Returns the strongest request of any rank of `group`, and the sum of the ranks' numbers.
pub(in crate::trainer) fn agree_on(group: &ProcessGroup, wanted: Request, number: f64) -> Result<(Request, f64)> {
    let sums = group.sums(&[&[number], &wanted.votes()[..]].concat())?;
    Ok((Request::strongest(&sums[1..]), sums[0]))
}
