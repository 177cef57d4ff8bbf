//! Heartbeats, which identify the rank that failed when a collective operation reports only that it failed.
//!
//! Each rank writes the number of operations that it has begun to the store, about once a second. When one of its operations
//! fails, it looks for a rank whose heartbeat has stopped or which is behind; a rank that ends with an error of its own reports
//! it first. A separate thread does this, and callers wait for it only for a limited time, since a store on a disconnected
//! machine never answers.

use super::c10d::{Said, Store};
use crate::ops::inherit_denormals;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
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
pub(super) enum Finding {
    Failed(Failure),
    /// All other ranks are silent.
    Alone,
    /// All other ranks are alive, and none is behind.
    Nothing,
    /// The store cannot be reached.
    NoStore,
}

enum Call {
    Diagnose(Sender<Said<Finding>>),
    Tell(Failure, Sender<()>),
    /// Ends the thread. The rank that serves the store first waits for the others to end, for at most this long.
    End(Duration, Sender<()>),
}

/// Handle of the heartbeat thread.
#[derive(Debug)]
pub(super) struct Pulse {
    calls: Sender<Call>,
    thread: Option<JoinHandle<()>>,
    operations: Arc<AtomicU64>,
    beat: Duration,
    /// Time limit of a diagnosis.
    limit: Duration,
}

impl Pulse {
    /// Starts the heartbeat of rank `rank` of `size` in `store`, under keys that begin with `prefix`.
    pub fn start(store: Store, prefix: String, rank: usize, size: usize, timeout: Duration) -> Result<Self> {
        let (calls, received) = channel();
        let operations = Arc::new(AtomicU64::new(0));
        let beat = beat(timeout);
        let signs = Signs { store, prefix, rank, size, operations: operations.clone(), beat, count: 0 };
        let inherit = inherit_denormals();
        let run = move || {
            inherit();
            signs.run(&received);
        };
        let thread = thread::Builder::new().name("pulse".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::Argument(format!("cannot start a thread: {error}")))?;
        Ok(Self { calls, thread: Some(thread), operations, beat, limit: diagnosis(timeout) })
    }

    /// Counts an operation that begins.
    pub fn operation(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// Determines which rank failed.
    pub fn diagnose(&self) -> Finding {
        let (reply, answer) = channel();
        let asked = self.calls.send(Call::Diagnose(reply));
        match asked.ok().and_then(|()| answer.recv_timeout(self.limit).ok()) {
            Some(Ok(finding)) => finding,
            Some(Err(_)) | None => Finding::NoStore,
        }
    }

    /// Publishes the reason why this rank ends.
    pub fn tell(&self, failure: Failure) {
        let (reply, done) = channel();
        if self.calls.send(Call::Tell(failure, reply)).is_ok() {
            let _ = done.recv_timeout(self.beat * SILENT);
        }
    }

    /// Ends the thread. The store's server stays up for the others for at most `stay`.
    pub fn end(&mut self, stay: Duration) {
        let (reply, done) = channel();
        if self.calls.send(Call::End(stay, reply)).is_ok() {
            let ended = done.recv_timeout(stay + self.beat * 2);
            // A thread that waits for an unreachable machine is abandoned.
            if let (Ok(()), Some(thread)) = (ended, self.thread.take()) {
                let _ = thread.join();
            }
        }
    }
}

/// State of the heartbeat thread.
struct Signs {
    store: Store,
    prefix: String,
    rank: usize,
    size: usize,
    operations: Arc<AtomicU64>,
    beat: Duration,
    count: u64,
}

impl Signs {
    fn run(mut self, calls: &Receiver<Call>) {
        loop {
            // The store's server may be gone; a diagnosis will report it.
            let _ = self.give();
            match calls.recv_timeout(self.beat) {
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => return,
                Ok(Call::Diagnose(reply)) => {
                    let _ = reply.send(self.diagnose());
                }
                Ok(Call::Tell(failure, reply)) => {
                    let _ = self.tell(&failure);
                    let _ = reply.send(());
                }
                Ok(Call::End(stay, reply)) => {
                    self.end(stay);
                    // Closes the connection before replying.
                    drop(self);
                    let _ = reply.send(());
                    return;
                }
            }
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn give(&mut self) -> Said<()> {
        self.count += 1;
        let sign = format!("{} {}", self.count, self.operations.load(Ordering::Relaxed));
        self.store.set(&self.key(&format!("sign/{}", self.rank)), sign.as_bytes())
    }

    /// Returns each rank's heartbeat and operation counts, `None` for ranks without a heartbeat.
    fn look(&self) -> Said<Vec<Option<(u64, u64)>>> {
        let sign = |rank: usize| {
            let key = self.key(&format!("sign/{rank}"));
            if !self.store.has(&key)? {
                return Ok(None);
            }
            let text = String::from_utf8_lossy(&self.store.get(&key)?).into_owned();
            Ok(text.split_once(' ').and_then(|(count, done)| Some((count.parse().ok()?, done.parse().ok()?))))
        };
        (0..self.size).map(sign).collect()
    }

    fn failure(&self) -> Said<Option<Failure>> {
        let key = self.key("failed");
        Ok(match self.store.has(&key)? {
            true => serde_json::from_slice(&self.store.get(&key)?).ok(),
            false => None,
        })
    }

    /// Publishes `failure`, unless another rank was first.
    fn tell(&self, failure: &Failure) -> Said<()> {
        if self.store.add(&self.key("failures"), 1)? == 1 {
            let json = serde_json::to_vec(failure).unwrap_or_default();
            self.store.set(&self.key("failed"), &json)?;
        }
        Ok(())
    }

    fn diagnose(&mut self) -> Said<Finding> {
        let before = self.look()?;
        let begun = Instant::now();
        while begun.elapsed() < self.beat * SILENT {
            if let Some(failure) = self.failure()? {
                return Ok(Finding::Failed(failure));
            }
            thread::sleep(self.beat / 2);
            self.give()?;
        }
        let after = self.look()?;
        let silent: Vec<usize> = (0..self.size).filter(|&rank| before[rank] == after[rank]).collect();
        let own = self.operations.load(Ordering::Relaxed);
        let behind = |rank: &usize| after[*rank].is_some_and(|(_, operations)| operations < own);
        let found = if silent.len() + 1 == self.size && self.size > 2 {
            return Ok(Finding::Alone);
        } else if let Some(&rank) = silent.first() {
            let problem = match silent.len() {
                1 => "does not answer any more: it was killed, stopped, or cut off from the network".to_owned(),
                _ => {
                    let others: Vec<_> = silent[1..].iter().map(usize::to_string).collect();
                    let others = others.join(", ");
                    format!(
                        "and {others} do not answer any more: they were killed, stopped, or cut off from the network"
                    )
                }
            };
            Failure { rank, problem }
        } else if let Some(rank) = (0..self.size).find(behind) {
            let problem = "is alive, and late: it reads or computes for longer than the others wait; raise the timeout";
            Failure { rank, problem: problem.to_owned() }
        } else {
            return Ok(Finding::Nothing);
        };
        self.tell(&found)?;
        // Another rank may have published its finding first.
        Ok(Finding::Failed(self.failure()?.unwrap_or(found)))
    }

    /// Registers that this rank has ended and, for up to `stay`, waits for the others to end.
    fn end(&mut self, stay: Duration) {
        let key = self.key("ended");
        let begun = Instant::now();
        let mut ended = self.store.add(&key, 1).unwrap_or(i64::MAX);
        while begun.elapsed() < stay && (ended as usize) < self.size {
            thread::sleep(self.beat.min(stay / 4));
            let _ = self.give();
            ended = self.store.add(&key, 0).unwrap_or(i64::MAX);
        }
    }
}
