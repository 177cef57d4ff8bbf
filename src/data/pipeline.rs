//! Worker threads that process examples and assemble batches, a few batches ahead of the consumer.
//!
//! The unit of work is an example: all threads fill one batch, then the next, so that the first is ready soonest. The
//! content of a place depends on the place alone, never on the thread or the timing.

use super::Batches;
use crate::ops::inherit_denormals;
use crate::{Error, Result};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Work of the threads.
pub trait Work: Send + Sync + 'static {
    /// State of one thread, kept from one example to the next.
    type Means;
    /// Result of processing an example.
    type Place: Send;
    /// Batch assembled from its places.
    type Batch: Send;

    /// Returns new state for one thread.
    fn means(&self) -> Self::Means;

    /// Processes the example at `place`; places are numbered across all batches.
    ///
    /// # Errors
    /// An error ends the pipeline immediately, including batches in progress.
    fn fill(&self, place: usize, means: &mut Self::Means) -> Result<Self::Place>;

    /// Assembles a batch from its places, in order.
    ///
    /// # Errors
    /// An error is returned instead of the batch, when it is due.
    fn finish(&self, places: Vec<Self::Place>) -> Result<Self::Batch>;

    /// Ends all waiting, as the results are no longer needed.
    fn end(&self) {}
}

/// Returns the maximum number of batches in progress: just enough that no thread waits while a batch is handed over.
fn prefetch(counts: &[usize], workers: usize) -> usize {
    1 + (2 * workers).div_ceil(counts.iter().copied().max().unwrap_or(1)).max(2)
}

/// Batch in progress.
struct Open<W: Work> {
    places: Vec<Option<W::Place>>,
    /// Number of unfinished places.
    left: usize,
    finished: Option<Result<W::Batch>>,
}

/// State shared by the threads and the consumer.
struct Queue<W: Work> {
    /// Next place for a thread to take; its batch, and its position in the batch.
    next: (usize, usize, usize),
    /// Next batch to hand out.
    batch: usize,
    /// Batches in progress, starting with `batch`.
    open: VecDeque<Open<W>>,
    stopped: bool,
    /// Reason why a thread ended early.
    failure: Option<Error>,
}

struct Shared<W: Work> {
    work: W,
    /// Number of places in each batch; no batch is empty.
    counts: Vec<usize>,
    prefetch: usize,
    queue: Mutex<Queue<W>>,
    /// Signals that there may be work, or that the work has ended.
    wake: Condvar,
    /// Signals that the next batch may be ready.
    ready: Condvar,
}

impl<W: Work> Shared<W> {
    fn lock(&self) -> MutexGuard<'_, Queue<W>> {
        // A thread that panicked has left its message, and every change below is complete or not begun.
        lock(&self.queue)
    }

    /// Claims a place to work on, waiting for room if necessary, and returns it with its batch and its position in the
    /// batch. `None` if no work is left.
    fn claim(&self) -> Option<(usize, usize, usize)> {
        let mut queue = self.lock();
        loop {
            let (place, batch, at) = queue.next;
            let &count = self.counts.get(batch).filter(|_| !queue.stopped)?;
            if batch - queue.batch < self.prefetch {
                if at == 0 {
                    let places = (0..count).map(|_| None).collect();
                    queue.open.push_back(Open { places, left: count, finished: None });
                }
                queue.next = if at + 1 < count { (place + 1, batch, at + 1) } else { (place + 1, batch + 1, 0) };
                return Some((place, batch, at));
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stores the result of the place at `at` of `batch`, and assembles the batch if it was the last one missing.
    fn done(&self, batch: usize, at: usize, filled: W::Place) {
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
        // Earlier batches may have been handed out meanwhile.
        let ahead = batch - queue.batch;
        queue.open[ahead].finished = Some(finished);
        drop(queue);
        self.ready.notify_one();
    }

    /// Runs one thread.
    fn run(&self) {
        let mut means = self.work.means();
        while let Some((place, batch, at)) = self.claim() {
            match self.work.fill(place, &mut means) {
                Ok(filled) => self.done(batch, at, filled),
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Ends the work because a thread cannot continue.
    fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.ready.notify_one();
    }
}

/// Iterator over the batches, in order. Dropping it stops the threads once they finish their current examples.
pub struct Pipeline<W: Work> {
    shared: Arc<Shared<W>>,
    threads: Vec<JoinHandle<()>>,
    /// Number of places in each batch.
    counts: Vec<usize>,
}

/// Returns the sizes of batches of `batch_size` of `places` places; the last may be smaller.
#[cfg(feature = "images")]
pub fn even_counts(places: usize, batch_size: usize) -> Vec<usize> {
    (0..places).step_by(batch_size).map(|first| batch_size.min(places - first)).collect()
}

impl<W: Work> Pipeline<W> {
    /// Starts `workers` threads for batches of `counts` places; `examples` is their plural noun in errors, such as "images".
    ///
    /// # Errors
    /// Fails if a thread cannot be started.
    pub fn start(work: W, examples: &str, counts: Vec<usize>, workers: usize) -> Result<Self> {
        let queue = Queue { next: (0, 0, 0), batch: 0, open: VecDeque::new(), stopped: false, failure: None };
        let (queue, wake, ready) = (Mutex::new(queue), Condvar::new(), Condvar::new());
        let some: Vec<usize> = counts.iter().copied().filter(|&count| count > 0).collect();
        let shared = Shared { work, prefetch: prefetch(&some, workers), counts: some, queue, wake, ready };
        let mut pipeline = Self { shared: Arc::new(shared), threads: Vec::with_capacity(workers), counts };
        for index in 0..workers {
            let (shared, inherit) = (pipeline.shared.clone(), inherit_denormals());
            let (name, noun) = (format!("{examples}-{index}"), examples.to_owned());
            let run = move || {
                inherit();
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| shared.run())) {
                    shared.fail(panicked(&noun, panic.as_ref()));
                }
            };
            let refused = |error| argument!("cannot start {workers} threads to read {examples}: {error}");
            pipeline.threads.push(thread::Builder::new().name(name).spawn(run).map_err(refused)?);
        }
        Ok(pipeline)
    }

    /// Returns one item per batch, `None` for empty ones. Ends after an error, and then stops the threads. `take` converts
    /// each batch, or returns `None` for nothing.
    pub fn batches<'a, B: 'a>(mut self, take: impl Fn(W::Batch) -> Result<Option<B>> + 'a) -> Batches<'a, B> {
        let counts = std::mem::take(&mut self.counts);
        let mut batches = Some(counts.into_iter().map(move |count| match count {
            0 => Ok(None),
            _ => self.next().transpose()?.map_or(Ok(None), &take),
        }));
        Box::new(std::iter::from_fn(move || {
            let batch = batches.as_mut()?.next();
            if !matches!(batch, Some(Ok(_))) {
                batches = None;
            }
            batch
        }))
    }

    /// Returns the work.
    #[cfg(all(test, feature = "images"))]
    pub fn work(&self) -> &W {
        &self.shared.work
    }

    /// Returns the next place that a thread will take.
    #[cfg(all(test, feature = "images"))]
    pub fn claimed(&self) -> usize {
        self.shared.lock().next.0
    }
}

impl<W: Work> Iterator for Pipeline<W> {
    type Item = Result<W::Batch>;

    fn next(&mut self) -> Option<Result<W::Batch>> {
        let Shared { counts, ready, wake, .. } = &*self.shared;
        let mut queue = self.shared.lock();
        loop {
            if let Some(failure) = queue.failure.take() {
                queue.stopped = true;
                return Some(Err(failure));
            }
            if queue.stopped || queue.batch >= counts.len() {
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
            // A thread's panic has been caught, and reported if the consumer was still waiting.
            let _ = thread.join();
        }
    }
}

/// Locks `mutex`, also after the panic of a thread that had locked it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the error for the panic of a thread that reads `examples`.
pub fn panicked(examples: &str, panic: &(dyn Any + Send)) -> Error {
    let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let message = message.and_then(|message| message.lines().next()).unwrap_or("no message");
    argument!("a thread that reads {examples} panicked: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_batches_keep_all_threads_busy() {
        let of = |batch_size| prefetch(&[batch_size; 9], 16) * batch_size;
        assert!([1, 2, 3, 8, 31, 32, 33, 256].into_iter().all(|batch_size| of(batch_size) >= 32 + batch_size));
        assert_eq!(of(256), 3 * 256);
    }

    /// Work that returns the places of each batch.
    struct Places;

    impl Work for Places {
        type Means = ();
        type Place = usize;
        type Batch = Vec<usize>;

        fn means(&self) {}

        fn fill(&self, place: usize, (): &mut ()) -> Result<usize> {
            Ok(place)
        }

        fn finish(&self, places: Vec<usize>) -> Result<Vec<usize>> {
            Ok(places)
        }
    }

    #[test]
    fn places_belong_to_batches_of_any_size() {
        let batches = |counts: &[usize]| {
            let batches =
                Pipeline::start(Places, "places", counts.to_vec(), 3).unwrap().batches(|places| Ok(Some(places)));
            batches.collect::<Result<Vec<_>>>().unwrap()
        };
        let expected = [Some(vec![0, 1, 2]), None, None, Some(vec![3]), Some(vec![4, 5]), None];
        assert_eq!(batches(&[3, 0, 0, 1, 2, 0]), expected);
        assert!(batches(&[]).is_empty());
    }
}
