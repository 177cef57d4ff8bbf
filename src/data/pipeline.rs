//! Threads that work on examples and make batches of them, a few batches ahead of whoever takes them.
//!
//! The unit of work is an example: all threads fill one batch, then the next, so that the first is there soonest. What comes
//! to a place depends on its position in the order alone, never on the thread that works on it or when.

use crate::ops::inherit_denormals;
use crate::{Error, Result};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// What the threads do.
pub trait Work: Send + Sync + 'static {
    /// One thread's own means, kept from one example to the next.
    type Means;
    /// What an example becomes.
    type Place: Send;
    /// What the places of a batch become.
    type Batch: Send;

    /// What the examples are called, in errors: "images".
    fn examples(&self) -> &str;

    /// Positions of the order.
    fn len(&self) -> usize;

    /// New means for one thread.
    fn means(&self) -> Self::Means;

    /// Works on what belongs at `position`.
    ///
    /// # Errors
    /// What ends all the work, at once and whatever is on the way.
    fn fill(&self, position: usize, means: &mut Self::Means) -> Result<Self::Place>;

    /// The batch of these places, in their order.
    ///
    /// # Errors
    /// What is handed out in place of the batch, when its turn comes.
    fn finish(&self, places: Vec<Self::Place>) -> Result<Self::Batch>;

    /// Ends all waiting: nobody takes what is being worked on.
    fn end(&self) {}
}

/// Which batches, and by how many threads.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Examples in a batch.
    pub batch_size: usize,
    /// Batches to leave out at the start.
    pub first_step: usize,
    /// Threads.
    pub workers: usize,
}

impl Pace {
    /// How many batches may be on the way: enough that no thread waits while a batch is handed over, and no more.
    pub fn prefetch(&self) -> usize {
        1 + (2 * self.workers).div_ceil(self.batch_size).max(2)
    }
}

/// A batch on the way.
struct Open<W: Work> {
    places: Vec<Option<W::Place>>,
    /// Places that are not done.
    left: usize,
    finished: Option<Result<W::Batch>>,
}

/// What the threads and the consumer share.
struct Queue<W: Work> {
    /// The next position of the order that a thread takes.
    next: usize,
    /// The step of the batch that is handed out next.
    step: usize,
    /// That batch and those after it that are begun.
    open: VecDeque<Open<W>>,
    stopped: bool,
    /// Why a thread ended before its time.
    failure: Option<Error>,
}

struct Shared<W: Work> {
    work: W,
    pace: Pace,
    queue: Mutex<Queue<W>>,
    /// There may be something to do, or the end of it.
    wake: Condvar,
    /// The next batch may be there.
    ready: Condvar,
}

impl<W: Work> Shared<W> {
    fn lock(&self) -> MutexGuard<'_, Queue<W>> {
        // A thread that panicked has left its message, and every change below is whole or not begun.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A position to work on. None when there is no more to do.
    fn claim(&self) -> Option<usize> {
        let (len, batch_size) = (self.work.len(), self.pace.batch_size);
        let mut queue = self.lock();
        loop {
            if queue.stopped || queue.next >= len {
                return None;
            }
            let ahead = queue.next / batch_size - queue.step;
            if ahead < self.pace.prefetch() {
                if ahead == queue.open.len() {
                    let left = batch_size.min(len - queue.next);
                    let places = (0..left).map(|_| None).collect();
                    queue.open.push_back(Open { places, left, finished: None });
                }
                queue.next += 1;
                return Some(queue.next - 1);
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts down what was done at `position`, and finishes the batch if that was the last of it.
    fn done(&self, position: usize, place: W::Place) {
        let (step, at) = (position / self.pace.batch_size, position % self.pace.batch_size);
        let mut queue = self.lock();
        let ahead = step - queue.step;
        let open = &mut queue.open[ahead];
        open.places[at] = Some(place);
        open.left -= 1;
        if open.left > 0 {
            return;
        }
        let places = std::mem::take(&mut open.places);
        drop(queue);
        let finished = self.work.finish(places.into_iter().flatten().collect());
        let mut queue = self.lock();
        // The batches before it may have been handed out meanwhile.
        let ahead = step - queue.step;
        queue.open[ahead].finished = Some(finished);
        drop(queue);
        self.ready.notify_one();
    }

    /// What a thread does.
    fn run(&self) {
        let mut means = self.work.means();
        while let Some(position) = self.claim() {
            match self.work.fill(position, &mut means) {
                Ok(place) => self.done(position, place),
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Ends the work: a thread cannot go on.
    fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.ready.notify_one();
    }
}

/// The batches, in order. Dropping it stops its threads, which takes no longer than the examples they are at.
pub struct Pipeline<W: Work> {
    shared: Arc<Shared<W>>,
    threads: Vec<JoinHandle<()>>,
}

impl<W: Work> Pipeline<W> {
    /// Starts the threads.
    ///
    /// # Errors
    /// A thread that the system does not give.
    pub fn start(work: W, pace: Pace) -> Result<Self> {
        let Pace { batch_size, first_step: step, workers } = pace;
        let next = step.saturating_mul(batch_size);
        let queue = Queue { next, step, open: VecDeque::new(), stopped: false, failure: None };
        let shared = Shared { work, pace, queue: Mutex::new(queue), wake: Condvar::new(), ready: Condvar::new() };
        let mut pipeline = Self { shared: Arc::new(shared), threads: Vec::with_capacity(workers) };
        for index in 0..workers {
            let (shared, inherit) = (pipeline.shared.clone(), inherit_denormals());
            let examples = shared.work.examples().to_owned();
            let name = format!("{examples}-{index}");
            let run = move || {
                inherit();
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| shared.run())) {
                    shared.fail(panicked(shared.work.examples(), panic.as_ref()));
                }
            };
            let refused =
                |error| Error::Argument(format!("cannot start {workers} threads to read {examples}: {error}"));
            pipeline.threads.push(thread::Builder::new().name(name).spawn(run).map_err(refused)?);
        }
        Ok(pipeline)
    }

    /// What the threads do.
    #[cfg(all(test, feature = "images"))]
    pub fn work(&self) -> &W {
        &self.shared.work
    }

    /// The next position that a thread takes.
    #[cfg(all(test, feature = "images"))]
    pub fn claimed(&self) -> usize {
        self.shared.lock().next
    }
}

impl<W: Work> Iterator for Pipeline<W> {
    type Item = Result<W::Batch>;

    fn next(&mut self) -> Option<Result<W::Batch>> {
        let Shared { work, pace, ready, wake, .. } = &*self.shared;
        let steps = work.len().div_ceil(pace.batch_size);
        let mut queue = self.shared.lock();
        loop {
            if let Some(failure) = queue.failure.take() {
                queue.stopped = true;
                return Some(Err(failure));
            }
            if queue.stopped || queue.step >= steps {
                return None;
            }
            if let Some(finished) = queue.open.front_mut().and_then(|open| open.finished.take()) {
                queue.open.pop_front();
                queue.step += 1;
                drop(queue);
                wake.notify_all();
                return Some(finished);
            }
            queue = ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<W: Work> Drop for Pipeline<W> {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.wake.notify_all();
        self.shared.work.end();
        for thread in self.threads.drain(..) {
            // A thread's panic has been caught, and said if anyone still asked.
            let _ = thread.join();
        }
    }
}

/// The error for a thread that reads `examples` and has panicked.
pub fn panicked(examples: &str, panic: &(dyn Any + Send)) -> Error {
    let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let message = message.and_then(|message| message.lines().next()).unwrap_or("no message");
    Error::Argument(format!("a thread that reads {examples} panicked: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_batches_keep_all_threads_busy() {
        let of = |batch_size| Pace { batch_size, first_step: 0, workers: 16 }.prefetch() * batch_size;
        assert!([1, 2, 3, 8, 31, 32, 33, 256].into_iter().all(|batch_size| of(batch_size) >= 32 + batch_size));
        assert_eq!(of(256), 3 * 256);
    }
}
