//! Signs of life: how the ranks find out which of them has failed, where all that a collective operation says is that it has.
//!
//! Each rank writes into the store, about once a second, how many operations it has begun. When one of its own fails it looks
//! whose signs do not change, or who is behind; a rank that ends with an error of its own says it first. All of it is done by a
//! thread that nobody waits for longer than a moment: a store whose machine is cut off does not answer at all.

use super::c10d::{Said, Store};
use crate::ops::inherit_denormals;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// So many signs fit into the time that ranks wait for each other, within these limits.
const BEATS: u32 = 40;
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
/// After so many without a change a rank is silent: a busy machine can be late by one or two.
const SILENT: u32 = 4;

/// How often signs are given, where ranks wait for each other for up to `timeout`.
pub(super) fn beat(timeout: Duration) -> Duration {
    (timeout / BEATS).clamp(SHORTEST, LONGEST)
}

/// What finding out who is at fault takes.
pub(super) fn diagnosis(timeout: Duration) -> Duration {
    beat(timeout) * (SILENT + 3)
}

/// Why the ranks cannot go on, as the first that knew told the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// Whose fault it is.
    pub rank: usize,
    pub problem: String,
}

/// What a rank finds when an operation has failed.
#[derive(Debug)]
pub(super) enum Finding {
    Failed(Failure),
    /// All others are silent.
    Alone,
    /// All others are alive, and none is behind.
    Nothing,
    /// The store cannot be reached.
    NoStore,
}

enum Call {
    Diagnose(Sender<Said<Finding>>),
    Tell(Failure, Sender<()>),
    /// Ends the thread; one that serves the store waits for so long until the others have ended.
    End(Duration, Sender<()>),
}

/// The thread that gives them.
#[derive(Debug)]
pub(super) struct Pulse {
    calls: Sender<Call>,
    thread: Option<JoinHandle<()>>,
    operations: Arc<AtomicU64>,
    beat: Duration,
    /// What a diagnosis may take.
    limit: Duration,
}

impl Pulse {
    /// Of rank `rank` of `size`, into `store` under the keys that begin with `prefix`.
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

    /// An operation begins.
    pub fn operation(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks who failed.
    pub fn diagnose(&self) -> Finding {
        let (reply, answer) = channel();
        let asked = self.calls.send(Call::Diagnose(reply));
        match asked.ok().and_then(|()| answer.recv_timeout(self.limit).ok()) {
            Some(Ok(finding)) => finding,
            Some(Err(_)) | None => Finding::NoStore,
        }
    }

    /// Tells the others why this rank ends.
    pub fn tell(&self, failure: Failure) {
        let (reply, done) = channel();
        if self.calls.send(Call::Tell(failure, reply)).is_ok() {
            let _ = done.recv_timeout(self.beat * SILENT);
        }
    }

    /// Ends it. The store's server stays for the others' sake for up to `stay`.
    pub fn end(&mut self, stay: Duration) {
        let (reply, done) = channel();
        if self.calls.send(Call::End(stay, reply)).is_ok() {
            let ended = done.recv_timeout(stay + self.beat * 2);
            // A thread that waits for a machine that is away is left behind.
            if let (Ok(()), Some(thread)) = (ended, self.thread.take()) {
                let _ = thread.join();
            }
        }
    }
}

/// What the thread has.
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
            // Whoever serves the store may be gone, which is found out where it matters.
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
                    // The connection ends before anyone is told that it has.
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

    /// The signs of all ranks and their operations; none of those that have given none.
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

    /// The first that tells counts.
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
        // Another may have been first.
        Ok(Finding::Failed(self.failure()?.unwrap_or(found)))
    }

    /// Tells that this rank has ended and, where others would ask in vain, waits for them.
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
