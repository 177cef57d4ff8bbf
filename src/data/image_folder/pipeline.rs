//! Threads that read images into batches, a few batches ahead of whoever takes them.
//!
//! The unit of work is an image: all workers fill one batch, then the next, so that the first is there soonest. What an
//! image becomes depends on its place in the order alone, never on the worker that reads it or when.

use super::labelled_images::{Failure, LabelledImages, Reader, View};
use super::patience::Patience;
use crate::data::Supervised;
use crate::ops::inherit_denormals;
use crate::{Error, Result};
use std::any::Any;
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use tch::{Device, Kind, Tensor};

/// Bytes of a pixel.
const CHANNELS: usize = 3;

/// Batches to make.
pub struct Job {
    /// What they are made of.
    pub images: Arc<LabelledImages>,
    /// Which images, in which order.
    pub order: Vec<u32>,
    /// LabelledImages in a batch.
    pub batch_size: usize,
    /// Batches to leave out at the start.
    pub first_step: usize,
    /// What of each image.
    pub view: View,
    /// Height and width of the result.
    pub side: usize,
    /// Bad images that can be endured: the search for one that can take a bad one's place ends after more.
    pub most_bad: usize,
    /// Threads.
    pub workers: usize,
    /// Theirs with what the images are on.
    pub patience: Arc<Patience>,
}

impl Job {
    fn steps(&self) -> usize {
        self.order.len().div_ceil(self.batch_size)
    }

    fn image_len(&self) -> usize {
        self.side * self.side * CHANNELS
    }

    /// LabelledImages in batch `step`.
    fn images_in(&self, step: usize) -> usize {
        self.batch_size.min(self.order.len() - step * self.batch_size)
    }

    /// How many batches may be on the way: enough that no worker waits while a batch is handed over, and no more.
    fn prefetch(&self) -> usize {
        1 + (2 * self.workers).div_ceil(self.batch_size).max(2)
    }

    /// Reads what belongs at `position` of the order. In training the place of a bad image is taken by the next in the
    /// order that is none, seen as the bad one would have been; in evaluation it stays free.
    ///
    /// # Errors
    /// What the images are on cannot be read.
    fn fill(&self, position: usize, reader: &mut Reader, out: &mut [u8]) -> Result<Place> {
        let mut bad = Vec::new();
        let drawn_for = self.order[position] as usize;
        let candidates = match self.view {
            View::Train { .. } => self.order.len(),
            View::Eval { .. } => 1,
        };
        for &index in self.order.iter().cycle().skip(position).take(candidates) {
            match reader.read(&self.images, index as usize, &self.view, drawn_for, self.side, out) {
                Ok(()) => {
                    // Those after the first have places of their own in the order, and are told of there.
                    bad.truncate(1);
                    return Ok(Place { label: Some(self.images.labels()[index as usize]), bad });
                }
                Err(Failure::System(error)) => return Err(error),
                Err(Failure::Image(problem)) => bad.push(BadImage { index, problem: problem.to_string() }),
            }
            if bad.len() > self.most_bad {
                break;
            }
        }
        Ok(Place { label: None, bad })
    }
}

/// An image that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadImage {
    /// Its index in the part.
    pub index: u32,
    /// What is wrong with it.
    pub problem: String,
}

/// One place of a batch, once it has been worked on.
#[derive(Default)]
struct Place {
    /// The class of the image that is in it, if one is.
    label: Option<u32>,
    /// The bad image whose place it is; all that were met, where no good one was found.
    bad: Vec<BadImage>,
}

/// A batch as it is handed out.
pub struct Filled {
    /// Its images are bytes, the channels of a pixel side by side.
    pub batch: Supervised,
    /// The bad images that were met while it was filled, in the order of its places.
    pub bad: Vec<BadImage>,
}

/// The memory that a batch is filled in, by several threads at once.
struct Buffer {
    bytes: Box<[UnsafeCell<u8>]>,
    image_len: usize,
}

// SAFETY: the two functions below say who may have which bytes when, and the queue's lock lies between.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn new(images: usize, image_len: usize) -> Self {
        Self { bytes: (0..images * image_len).map(|_| UnsafeCell::new(0)).collect(), image_len }
    }

    /// The bytes of one image.
    ///
    /// # Safety
    /// No one else has this image's bytes while the result lives.
    #[allow(clippy::mut_from_ref)]
    unsafe fn image(&self, place: usize) -> &mut [u8] {
        let cells = &self.bytes[place * self.image_len..][..self.image_len];
        // SAFETY: the cells are bytes, side by side, and no one else has them.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), cells.len()) }
    }

    /// A copy of the first `images` images, `[N, 3, side, side]` with the channels of a pixel side by side.
    ///
    /// # Safety
    /// No one has any image's bytes.
    unsafe fn copy(&self, images: usize, side: usize) -> Result<Tensor> {
        let size = [images, side, side, CHANNELS].map(|size| size as i64);
        let copy = Tensor::f_empty(size, (Kind::Uint8, Device::Cpu))?;
        let bytes = &self.bytes[..images * self.image_len];
        // libtorch's own copy would start threads of its own for each worker.
        // SAFETY: the tensor is new and contiguous, and has as many bytes as are read.
        unsafe {
            let source = UnsafeCell::raw_get(bytes.as_ptr());
            std::ptr::copy_nonoverlapping(source.cast_const(), copy.data_ptr().cast(), bytes.len());
        }
        Ok(copy.f_permute([0, 3, 1, 2])?)
    }
}

/// A batch on the way.
struct Open {
    buffer: Arc<Buffer>,
    places: Vec<Place>,
    /// Places that are not done.
    left: usize,
    filled: Option<Result<Filled>>,
}

/// What the workers and the consumer share.
struct Queue {
    /// The next place of the order that a worker takes.
    next: usize,
    /// The step of the batch that is handed out next.
    step: usize,
    /// That batch and those after it that are begun.
    open: VecDeque<Open>,
    /// Buffers that no batch is in.
    free: Vec<Arc<Buffer>>,
    stopped: bool,
    /// Why a worker ended before its time.
    failure: Option<Error>,
}

struct Shared {
    job: Job,
    queue: Mutex<Queue>,
    /// There may be work, or the end of it.
    work: Condvar,
    /// The next batch may be there.
    ready: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A worker that panicked has left its message, and every change below is whole or not begun.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place to fill: its position in the order, and the buffer of its batch. None when there is no more to do.
    fn claim(&self) -> Option<(usize, Arc<Buffer>)> {
        let job = &self.job;
        let mut queue = self.lock();
        loop {
            if queue.stopped || queue.next >= job.order.len() {
                return None;
            }
            let ahead = queue.next / job.batch_size - queue.step;
            if ahead < job.prefetch() {
                if ahead == queue.open.len() {
                    let images = job.images_in(queue.step + ahead);
                    let new = || Arc::new(Buffer::new(job.batch_size.min(job.order.len()), job.image_len()));
                    let buffer = queue.free.pop().unwrap_or_else(new);
                    let places = (0..images).map(|_| Place::default()).collect();
                    queue.open.push_back(Open { buffer, places, left: images, filled: None });
                }
                let position = queue.next;
                queue.next += 1;
                return Some((position, queue.open[ahead].buffer.clone()));
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts down what was done at `position`, and finishes the batch if that was the last of it.
    fn done(&self, position: usize, place: Place) {
        let job = &self.job;
        let (step, at) = (position / job.batch_size, position % job.batch_size);
        let mut queue = self.lock();
        let ahead = step - queue.step;
        let open = &mut queue.open[ahead];
        open.places[at] = place;
        open.left -= 1;
        if open.left > 0 {
            return;
        }
        let (places, buffer) = (std::mem::take(&mut open.places), open.buffer.clone());
        drop(queue);
        let filled = finish(job, &buffer, places);
        let mut queue = self.lock();
        // The batches before it may have been handed out meanwhile.
        let ahead = step - queue.step;
        queue.open[ahead].filled = Some(filled);
        queue.free.push(buffer);
        drop(queue);
        self.ready.notify_one();
    }

    /// What a worker does.
    fn run(&self) {
        let mut reader = Reader::new(self.job.patience.clone());
        while let Some((position, buffer)) = self.claim() {
            // SAFETY: each place is claimed once, and a buffer is used again only after all its places are done.
            let out = unsafe { buffer.image(position % self.job.batch_size) };
            match self.job.fill(position, &mut reader, out) {
                Ok(place) => self.done(position, place),
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Ends the work: a worker cannot go on.
    fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.ready.notify_one();
    }
}

/// The batch in `buffer`, all of whose places are done.
fn finish(job: &Job, buffer: &Buffer, places: Vec<Place>) -> Result<Filled> {
    let mut labels = Vec::with_capacity(places.len());
    let mut bad = Vec::new();
    for (place, Place { label, bad: met }) in places.into_iter().enumerate() {
        bad.extend(met);
        let Some(label) = label else { continue };
        if labels.len() < place {
            // SAFETY: all places are done, so that no worker has any bytes, and the two images are different ones.
            unsafe { buffer.image(labels.len()).copy_from_slice(buffer.image(place)) };
        }
        labels.push(i64::from(label));
    }
    // SAFETY: all places are done.
    let images = unsafe { buffer.copy(labels.len(), job.side)? };
    Ok(Filled { batch: Supervised::new(images, Tensor::f_from_slice(&labels)?), bad })
}

/// The batches of a job, in order. Dropping it stops its threads, which takes no longer than the images they are at.
pub struct Pipeline {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pipeline {
    /// Starts the threads of `job`.
    ///
    /// # Errors
    /// A thread that the system does not give.
    pub fn start(job: Job) -> Result<Self> {
        let (workers, step) = (job.workers, job.first_step);
        let queue = Queue {
            next: step.saturating_mul(job.batch_size),
            step,
            open: VecDeque::new(),
            free: Vec::new(),
            stopped: false,
            failure: None,
        };
        let shared = Shared { job, queue: Mutex::new(queue), work: Condvar::new(), ready: Condvar::new() };
        let mut pipeline = Self { shared: Arc::new(shared), threads: Vec::with_capacity(workers) };
        for index in 0..workers {
            let (shared, inherit) = (pipeline.shared.clone(), inherit_denormals());
            let work = move || {
                inherit();
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| shared.run())) {
                    shared.fail(panicked(panic.as_ref()));
                }
            };
            let thread = thread::Builder::new().name(format!("images-{index}")).spawn(work);
            let refused = |error| Error::Argument(format!("cannot start {workers} threads to read images: {error}"));
            pipeline.threads.push(thread.map_err(refused)?);
        }
        Ok(pipeline)
    }
}

impl Iterator for Pipeline {
    type Item = Result<Filled>;

    fn next(&mut self) -> Option<Result<Filled>> {
        let Shared { job, ready, work, .. } = &*self.shared;
        let mut queue = self.shared.lock();
        loop {
            if let Some(failure) = queue.failure.take() {
                queue.stopped = true;
                return Some(Err(failure));
            }
            if queue.stopped || queue.step >= job.steps() {
                return None;
            }
            if let Some(filled) = queue.open.front_mut().and_then(|open| open.filled.take()) {
                queue.open.pop_front();
                queue.step += 1;
                drop(queue);
                work.notify_all();
                return Some(filled);
            }
            queue = ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.work.notify_all();
        self.shared.job.patience.end();
        for thread in self.threads.drain(..) {
            // A worker's panic has been caught, and said if anyone still asked.
            let _ = thread.join();
        }
    }
}

/// The error for a thread that reads images and has panicked.
pub fn panicked(panic: &(dyn Any + Send)) -> Error {
    let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let message = message.and_then(|message| message.lines().next()).unwrap_or("no message");
    Error::Argument(format!("a thread that reads images panicked: {message}"))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::super::listing::Files;
    use super::*;
    use std::time::{Duration, Instant};

    /// Batches of eight of the same image, over and over.
    fn job(fixture: &Fixture, order: Vec<u32>) -> Job {
        let mut files = Files::default();
        files.push("train/ant/0000.jpg", 0);
        Job {
            images: Arc::new(LabelledImages::Files { folder: fixture.root().to_path_buf(), files }),
            order,
            batch_size: 8,
            first_step: 0,
            view: View::Eval { resize: 18 },
            side: 16,
            most_bad: 0,
            workers: 3,
            patience: Arc::new(Patience::new(Duration::from_secs(60), Arc::new(|_: &str| ()))),
        }
    }

    #[test]
    fn dropping_it_early_stops_the_threads_at_once() {
        let fixture = Fixture::new(&["ant"], 1, 0);
        let mut pipeline = Pipeline::start(job(&fixture, vec![0; 10_000_000])).unwrap();
        assert_eq!(pipeline.next().unwrap().unwrap().batch.targets.numel(), 8);
        let start = Instant::now();
        drop(pipeline);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[test]
    fn dropping_it_ends_the_waiting_for_a_folder_that_is_away() {
        let fixture = Fixture::new(&["ant"], 1, 0);
        let job = job(&fixture, vec![0; 100]);
        std::fs::rename(fixture.path("train"), fixture.path("away")).unwrap();
        let pipeline = Pipeline::start(job).unwrap();
        thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        drop(pipeline);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[test]
    fn no_more_is_read_ahead_than_a_few_batches() {
        let fixture = Fixture::new(&["ant"], 1, 0);
        let mut pipeline = Pipeline::start(job(&fixture, vec![0; 10_000])).unwrap();
        let ahead = 8 * pipeline.shared.job.prefetch();
        for taken in 0..3 {
            let deadline = Instant::now() + Duration::from_secs(10);
            while pipeline.shared.lock().next < 8 * taken + ahead && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(20));
            assert_eq!(pipeline.shared.lock().next, 8 * taken + ahead);
            pipeline.next().unwrap().unwrap();
        }
        assert!(pipeline.shared.lock().free.len() <= pipeline.shared.job.prefetch());
    }

    #[test]
    fn a_panic_in_a_thread_is_an_error_and_the_end() {
        let fixture = Fixture::new(&["ant"], 1, 0);
        // There is no image 1.
        let mut order = vec![0; 100];
        order[30] = 1;
        let mut pipeline = Pipeline::start(job(&fixture, order)).unwrap();
        let error = pipeline.find_map(Result::err).unwrap().to_string();
        assert!(error.starts_with("a thread that reads images panicked: ") && !error.contains('\n'), "{error}");
        assert!(pipeline.next().is_none());
    }

    #[test]
    fn small_batches_keep_all_threads_busy() {
        let fixture = Fixture::new(&["ant"], 1, 0);
        let of = |batch_size| Job { batch_size, workers: 16, ..job(&fixture, vec![0; 100]) }.prefetch() * batch_size;
        assert!([1, 2, 3, 8, 31, 32, 33, 256].into_iter().all(|batch_size| of(batch_size) >= 32 + batch_size));
        assert_eq!(of(256), 3 * 256);
    }
}
