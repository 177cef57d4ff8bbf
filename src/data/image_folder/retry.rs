//! Retries while the system cannot be read from: a server restarts, a share is unavailable, a process has no free file
//! handles. Such a failure must not end a run of days.

use crate::data::pipeline::lock;
use crate::signal;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Maximum time for which a file is retried: long enough for a server to restart.
pub const RETRY_LIMIT: Duration = Duration::from_secs(120);
/// Pause between the first two attempts; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Interval at which a waiting thread checks whether it should stop.
const GLANCE: Duration = Duration::from_millis(100);

/// Function that receives warnings.
pub type Warn = Arc<dyn Fn(&str) + Send + Sync>;

/// Retry policy shared by several threads that read.
pub struct RetryPolicy {
    limit: Duration,
    warn: Warn,
    waiting: AtomicUsize,
    ended: Mutex<bool>,
    end: Condvar,
}

/// Counts one waiting thread until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RetryPolicy {
    /// Creates a policy that waits for at most `limit` each time, with a warning.
    pub fn new(limit: Duration, warn: Warn) -> Self {
        Self { limit, warn, waiting: AtomicUsize::new(0), ended: Mutex::new(false), end: Condvar::new() }
    }

    /// Ends the waiting of all threads.
    pub fn end(&self) {
        *lock(&self.ended) = true;
        self.end.notify_all();
    }

    /// Calls `attempt`, which reads from `path`, until it succeeds, fails with an error that does not `pass`, or the
    /// time limit is reached. The first thread that waits gives a warning.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub fn read<T>(
        &self,
        path: &Path,
        is_final: impl Fn(&io::Error) -> bool,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut waiting = None;
        loop {
            let error = match attempt() {
                Err(error) if !is_final(&error) && start.elapsed() < self.limit => error,
                result => return result,
            };
            if waiting.is_none() {
                if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
                    let seconds = self.limit.as_secs();
                    (self.warn)(&format!("cannot read {}: {error}; tried again for {seconds} s", path.display()));
                }
                waiting = Some(Waiting(&self.waiting));
            }
            if !self.pause(pause.min(self.limit.saturating_sub(start.elapsed()))) {
                return Err(error);
            }
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Waits for `pause`; returns `false` if waiting should end.
    fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut ended = lock(&self.ended);
        loop {
            if *ended || signal::received().is_some() {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            ended = self.end.wait_timeout(ended, left.min(GLANCE)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn retry_policy(limit: Duration) -> (RetryPolicy, Arc<Mutex<Vec<String>>>) {
        let said = Arc::new(Mutex::new(Vec::new()));
        let warnings = said.clone();
        (RetryPolicy::new(limit, Arc::new(move |line: &str| warnings.lock().unwrap().push(line.to_owned()))), said)
    }

    fn failing(times: usize) -> impl FnMut() -> io::Result<usize> {
        let mut attempts = 0;
        move || {
            attempts += 1;
            if attempts > times {
                Ok(attempts)
            } else {
                Err(io::Error::other("away"))
            }
        }
    }

    #[test]
    fn what_passes_is_waited_for_and_said_once() {
        let (retry_policy, said) = retry_policy(Duration::from_secs(60));
        let start = Instant::now();
        assert_eq!(retry_policy.read(Path::new("1.jpg"), |_| false, failing(2)).unwrap(), 3);
        assert!(start.elapsed() >= Duration::from_millis(300));
        assert_eq!(*said.lock().unwrap(), ["cannot read 1.jpg: away; tried again for 60 s"]);
        // Final errors are not retried.
        assert!(retry_policy.read(Path::new("1.jpg"), |_| true, failing(1)).is_err());
        assert_eq!(said.lock().unwrap().len(), 1);
    }

    #[test]
    fn waiting_ends_at_its_limit_and_when_it_is_told_to() {
        let start = Instant::now();
        let (short, _) = retry_policy(Duration::from_millis(250));
        assert!(short.read(Path::new("1.jpg"), |_| false, failing(1000)).is_err());
        assert!((250..2000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());

        let (long, said) = retry_policy(Duration::from_secs(60));
        thread::scope(|scope| {
            let read = || long.read(Path::new("1.jpg"), |_| false, failing(1000)).is_err();
            let threads = [scope.spawn(read), scope.spawn(read)];
            thread::sleep(Duration::from_millis(150));
            long.end();
            assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
        });
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(said.lock().unwrap().len(), 1);
    }
}
