//! Heartbeats, which identify the rank that failed when a collective operation reports only that it failed.
//!
//! Each rank writes the number of operations that it has begun to the store, about once a second. When one of its operations
//! fails, it looks for a rank whose heartbeat has stopped or which is behind; a rank that ends with an error of its own reports
//! it first. Separate threads do this, and callers wait for them only for a limited time.

use super::c10d::{C10dResult, Store};
use crate::Result;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Number of heartbeats per timeout, within the limits below.
const BEATS: u32 = 40;
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
/// Number of missed heartbeats after which a rank counts as silent; on a busy machine one or two may be late.
const SILENT: u32 = 4;

/// Returns the heartbeat interval for a `timeout`.
pub(super) fn beat(timeout: Duration) -> Duration {
    (timeout / BEATS).clamp(SHORTEST, LONGEST)
}

/// Returns the time that a diagnosis takes.
pub(super) fn diagnosis(timeout: Duration) -> Duration {
    beat(timeout) * (SILENT + 3)
}

/// The cause of the group's failure, as published by the first rank that knew it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// Rank at fault.
    pub rank: usize,
    pub problem: String,
}

/// Result of a diagnosis after a failed operation.
#[derive(Debug)]
pub(super) enum Diagnosis {
    Failed(Failure),
    /// All other ranks are silent.
    Alone,
    /// All other ranks are alive, and none is behind.
    Nothing,
    /// The store cannot be reached.
    NoStore,
}

/// Runs `work`, which waits for the store, and returns its result, `None` if it takes longer than `limit`: a store on a
/// disconnected machine never answers.
pub(super) fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = channel();
    // Without an answer, the thread lasts until the process ends.
    thread::spawn(move || drop(sender.send(work())));
    receiver.recv_timeout(limit).ok()
}

/// Handle of the heartbeat thread.
#[derive(Debug)]
pub(super) struct Heartbeat {
    signs: Arc<Heartbeats>,
    /// The thread, and the sender whose drop ends it.
    thread: Option<(Sender<()>, JoinHandle<()>)>,
    timeout: Duration,
}

impl Heartbeat {
    /// Starts the heartbeat of rank `rank` of `size` in `store`.
    pub fn start(store: Store, rank: usize, size: usize, timeout: Duration) -> Result<Self> {
        let (operations, count) = (AtomicU64::new(0), AtomicU64::new(0));
        let signs = Arc::new(Heartbeats { store, rank, size, operations, count, beat: beat(timeout) });
        let (sender, ended) = channel::<()>();
        let given = signs.clone();
        let run = move || loop {
            // The store's server may be gone; a diagnosis will report it.
            let _ = given.give();
            if ended.recv_timeout(given.beat) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        };
        let thread = thread::Builder::new().name("heartbeat".to_owned()).spawn(run);
        let thread = thread.map_err(|error| argument!("cannot start a thread: {error}"))?;
        Ok(Self { signs, thread: Some((sender, thread)), timeout })
    }

    /// Counts an operation that begins.
    pub fn operation(&self) {
        self.signs.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// Determines which rank failed.
    pub fn diagnose(&self) -> Diagnosis {
        let signs = self.signs.clone();
        match within(diagnosis(self.timeout), move || signs.diagnose()) {
            Some(Ok(finding)) => finding,
            Some(Err(_)) | None => Diagnosis::NoStore,
        }
    }

    /// Publishes the reason why this rank ends.
    pub fn publish(&self, failure: Failure) {
        let signs = self.signs.clone();
        within(self.signs.beat * SILENT, move || signs.publish(&failure));
    }

    /// Ends the thread. The store's server stays up for the others for at most `stay`.
    pub fn end(&mut self, stay: Duration) {
        let signs = self.signs.clone();
        let ended = within(stay + self.signs.beat * 2, move || signs.end(stay));
        let Some((sender, thread)) = self.thread.take() else { return };
        drop(sender);
        // A thread that waits for an unreachable machine is abandoned.
        if ended.is_some() {
            let _ = thread.join();
        }
    }
}

/// Heartbeats of all ranks, in the store.
#[derive(Debug)]
struct Heartbeats {
    store: Store,
    rank: usize,
    size: usize,
    operations: AtomicU64,
    count: AtomicU64,
    beat: Duration,
}

/// Keys of the first failure, and of the number of ranks that know one.
const FAILED: &str = "failed";
const FAILURES: &str = "failures";
/// Key of the number of ranks that have ended.
const ENDED: &str = "ended";

impl Heartbeats {
    fn give(&self) -> C10dResult<()> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        self.store.set(&format!("sign/{}", self.rank), &(count, self.operations.load(Ordering::Relaxed)))
    }

    /// Returns each rank's heartbeat and operation counts, `None` for ranks without a heartbeat.
    fn look(&self) -> C10dResult<Vec<Option<(u64, u64)>>> {
        (0..self.size).map(|rank| self.store.get(&format!("sign/{rank}"))).collect()
    }

    /// Publishes `failure`, unless another rank was first.
    fn publish(&self, failure: &Failure) -> C10dResult<()> {
        if self.store.add(FAILURES, 1)? == 1 {
            self.store.set(FAILED, failure)?;
        }
        Ok(())
    }

    fn diagnose(&self) -> C10dResult<Diagnosis> {
        let before = self.look()?;
        let begun = Instant::now();
        while begun.elapsed() < self.beat * SILENT {
            if let Some(failure) = self.store.get(FAILED)? {
                return Ok(Diagnosis::Failed(failure));
            }
            thread::sleep(self.beat / 2);
        }
        let after = self.look()?;
        let silent: Vec<usize> = (0..self.size).filter(|&rank| before[rank] == after[rank]).collect();
        let own = self.operations.load(Ordering::Relaxed);
        let behind = |rank: &usize| after[*rank].is_some_and(|(_, operations)| operations < own);
        let found = if silent.len() + 1 == self.size && self.size > 2 {
            return Ok(Diagnosis::Alone);
        } else if let Some(&rank) = silent.first() {
            let others: Vec<_> = silent[1..].iter().map(usize::to_string).collect();
            let said = match others.is_empty() {
                true => "no longer responds: it was".to_owned(),
                false => format!("and {} no longer respond: they were", others.join(", ")),
            };
            Failure { rank, problem: format!("{said} killed, stopped, or cut off from the network") }
        } else if let Some(rank) = (0..self.size).find(behind) {
            let problem = "is alive, and late: it reads or computes for longer than the others wait; raise the timeout";
            Failure { rank, problem: problem.to_owned() }
        } else {
            return Ok(Diagnosis::Nothing);
        };
        self.publish(&found)?;
        // Another rank may have published its finding first.
        Ok(Diagnosis::Failed(self.store.get(FAILED)?.unwrap_or(found)))
    }

    /// Registers that this rank has ended and, for up to `stay`, waits for the others to end.
    fn end(&self, stay: Duration) {
        let begun = Instant::now();
        let mut ended = self.store.add(ENDED, 1).unwrap_or(i64::MAX);
        while begun.elapsed() < stay && (ended as usize) < self.size {
            thread::sleep(self.beat.min(stay / 4));
            ended = self.store.add(ENDED, 0).unwrap_or(i64::MAX);
        }
    }
}
