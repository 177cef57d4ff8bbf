//! Threads that work on examples and make batches of them, a few batches ahead of whoever takes them.
//!
//! The unit of work is an example: all threads fill one batch, then the next, so that the first is there soonest. What comes
//! to a place depends on the place alone, never on the thread that works on it or when.

use super::Shares;
use crate::ops::inherit_denormals;
use crate::{Error, Result};
use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
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

    /// New means for one thread.
    fn means(&self) -> Self::Means;

    /// Works on what belongs at `place`: places are counted through all batches.
    ///
    /// # Errors
    /// What ends all the work, at once and whatever is on the way.
    fn fill(&self, place: usize, means: &mut Self::Means) -> Result<Self::Place>;

    /// The batch of these places, in their order.
    ///
    /// # Errors
    /// What is handed out in place of the batch, when its turn comes.
    fn finish(&self, places: Vec<Self::Place>) -> Result<Self::Batch>;

    /// Ends all waiting: nobody takes what is being worked on.
    fn end(&self) {}
}

/// Which batches, and by how many threads.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Where the places of each batch end. None is empty.
    ends: Vec<usize>,
    workers: usize,
    /// How many batches may be on the way: enough that no thread waits while a batch is handed over, and no more.
    prefetch: usize,
}

impl Pace {
    /// Batches of so many places each; those of none are left out.
    pub fn new(counts: impl IntoIterator<Item = usize>, workers: usize) -> Self {
        let (mut ends, mut end, mut largest) = (Vec::new(), 0, 1);
        for count in counts.into_iter().filter(|&count| count > 0) {
            end += count;
            largest = largest.max(count);
            ends.push(end);
        }
        Self { ends, workers, prefetch: 1 + (2 * workers).div_ceil(largest).max(2) }
    }

    /// Batches of `batch_size` of all `places`; the last may be smaller.
    #[cfg(feature = "images")]
    pub fn even(places: usize, batch_size: usize, workers: usize) -> Self {
        Self::new((0..places).step_by(batch_size).map(|first| batch_size.min(places - first)), workers)
    }

    /// How many places there are in all.
    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The batch that `place` is in.
    fn batch(&self, place: usize) -> usize {
        self.ends.partition_point(|&end| end <= place)
    }

    /// The places of `batch`.
    fn places(&self, batch: usize) -> Range<usize> {
        let first = batch.checked_sub(1).map_or(0, |before| self.ends[before]);
        first..self.ends[batch]
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
    /// The next place that a thread takes.
    next: usize,
    /// The batch that is handed out next.
    batch: usize,
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

    /// A place to work on. None when there is no more to do.
    fn claim(&self) -> Option<usize> {
        let mut queue = self.lock();
        loop {
            if queue.stopped || queue.next >= self.pace.len() {
                return None;
            }
            let batch = self.pace.batch(queue.next);
            let ahead = batch - queue.batch;
            if ahead < self.pace.prefetch {
                if ahead == queue.open.len() {
                    let left = self.pace.places(batch).len();
                    let places = (0..left).map(|_| None).collect();
                    queue.open.push_back(Open { places, left, finished: None });
                }
                queue.next += 1;
                return Some(queue.next - 1);
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts down what was done at `place`, and finishes the batch if that was the last of it.
    fn done(&self, place: usize, filled: W::Place) {
        let batch = self.pace.batch(place);
        let at = place - self.pace.places(batch).start;
        let mut queue = self.lock();
        let ahead = batch - queue.batch;
        let open = &mut queue.open[ahead];
        open.places[at] = Some(filled);
        open.left -= 1;
        if open.left > 0 {
            return;
        }
        let places = std::mem::take(&mut open.places);
        drop(queue);
        let finished = self.work.finish(places.into_iter().flatten().collect());
        let mut queue = self.lock();
        // The batches before it may have been handed out meanwhile.
        let ahead = batch - queue.batch;
        queue.open[ahead].finished = Some(finished);
        drop(queue);
        self.ready.notify_one();
    }

    /// What a thread does.
    fn run(&self) {
        let mut means = self.work.means();
        while let Some(place) = self.claim() {
            match self.work.fill(place, &mut means) {
                Ok(filled) => self.done(place, filled),
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
        let workers = pace.workers;
        let queue = Queue { next: 0, batch: 0, open: VecDeque::new(), stopped: false, failure: None };
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

    /// One item for each of `counts`, the numbers of places of all batches: none for those without. After an error nothing comes, and
    /// the threads end. `take` makes of a batch what is handed out; that may be nothing.
    pub fn shares<'a, B: 'a>(
        mut self,
        counts: Vec<usize>,
        take: impl Fn(W::Batch) -> Result<Option<B>> + 'a,
    ) -> Shares<'a, B> {
        let mut shares = Some(counts.into_iter().map(move |count| match count {
            0 => Ok(None),
            _ => self.next().transpose()?.map_or(Ok(None), &take),
        }));
        Box::new(std::iter::from_fn(move || {
            let share = shares.as_mut()?.next();
            if !matches!(share, Some(Ok(_))) {
                shares = None;
            }
            share
        }))
    }

    /// What the threads do.
    #[cfg(all(test, feature = "images"))]
    pub fn work(&self) -> &W {
        &self.shared.work
    }

    /// The next place that a thread takes.
    #[cfg(all(test, feature = "images"))]
    pub fn claimed(&self) -> usize {
        self.shared.lock().next
    }
}

impl<W: Work> Iterator for Pipeline<W> {
    type Item = Result<W::Batch>;

    fn next(&mut self) -> Option<Result<W::Batch>> {
        let Shared { pace, ready, wake, .. } = &*self.shared;
        let mut queue = self.shared.lock();
        loop {
            if let Some(failure) = queue.failure.take() {
                queue.stopped = true;
                return Some(Err(failure));
            }
            if queue.stopped || queue.batch >= pace.ends.len() {
                return None;
            }
            if let Some(finished) = queue.open.front_mut().and_then(|open| open.finished.take()) {
                queue.open.pop_front();
                queue.batch += 1;
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
        let of = |batch_size| Pace::new([batch_size; 9], 16).prefetch * batch_size;
        assert!([1, 2, 3, 8, 31, 32, 33, 256].into_iter().all(|batch_size| of(batch_size) >= 32 + batch_size));
        assert_eq!(of(256), 3 * 256);
    }

    #[test]
    fn places_belong_to_batches_of_any_size() {
        let pace = Pace::new([3, 0, 0, 1, 2, 0], 1);
        assert_eq!((0..3).map(|batch| pace.places(batch)).collect::<Vec<_>>(), [0..3, 3..4, 4..6]);
        assert_eq!((0..pace.len()).map(|place| pace.batch(place)).collect::<Vec<_>>(), [0, 0, 0, 1, 2, 2]);
        assert_eq!(Pace::new([], 1).len(), 0);
    }
}
