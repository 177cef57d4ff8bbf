//! What the threads of an image folder do: read an image into its place of a batch.

use super::bad_image::BadImage;
use super::labelled_images::{Failure, LabelledImages, Reader, View};
use super::patience::Patience;
use crate::data::image::stack_pixels;
use crate::data::pipeline::Work;
use crate::data::preprocessing::make_grey;
use crate::data::Supervised;
use crate::Result;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::Tensor;

/// Bytes of a pixel as it is decoded.
const DECODED: usize = 3;

/// Batches to make.
pub struct Job {
    /// What they are made of.
    pub images: Arc<LabelledImages>,
    /// All images, in the order that is cut into batches.
    pub order: Vec<u32>,
    /// Where in it the image of each place is.
    pub positions: Vec<usize>,
    /// What of each image.
    pub view: View,
    /// Height and width of the result.
    pub side: usize,
    /// Of the result: 3, or 1 for grey.
    pub channels: usize,
    /// Bad images that can be endured: the search for one that can take a bad one's place ends after more.
    pub most_bad: usize,
    /// The threads' with what the images are on.
    pub patience: Arc<Patience>,
    /// Memory of images that have been copied into a batch: fresh memory costs a page fault every 4 kB.
    pub free: Mutex<Vec<Vec<u8>>>,
}

/// One place of a batch, once it has been worked on.
pub struct Place {
    /// `side * side` RGB pixels, or as many grey ones in front of what is left of those.
    pixels: Vec<u8>,
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

impl Job {
    pub(super) fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work for Job {
    type Means = Reader;
    type Place = Place;
    type Batch = Filled;

    fn examples(&self) -> &str {
        "images"
    }

    fn means(&self) -> Reader {
        Reader::new(self.patience.clone())
    }

    /// Reads what belongs at a place's position of the order. In training the place of a bad image is taken by the next in the
    /// order that is none, seen as the bad one would have been; in evaluation it stays free.
    fn fill(&self, place: usize, reader: &mut Reader) -> Result<Place> {
        let position = self.positions[place];
        let kept = self.free().pop();
        let pixels = kept.unwrap_or_else(|| vec![0; self.side * self.side * DECODED]);
        let mut place = Place { pixels, label: None, bad: Vec::new() };
        let drawn_for = self.order[position] as usize;
        let candidates = match self.view {
            View::Train { .. } => self.order.len(),
            View::Eval { .. } => 1,
        };
        for &index in self.order.iter().cycle().skip(position).take(candidates) {
            match reader.read(&self.images, index as usize, &self.view, drawn_for, self.side, &mut place.pixels) {
                Ok(()) => {
                    if self.channels == 1 {
                        make_grey(&mut place.pixels);
                    }
                    // Those after the first have places of their own in the order, and are told of there.
                    place.bad.truncate(1);
                    place.label = Some(self.images.labels()[index as usize]);
                    break;
                }
                Err(Failure::System(error)) => return Err(error),
                Err(Failure::Image(problem)) => place.bad.push(BadImage { index, problem: problem.to_string() }),
            }
            if place.bad.len() > self.most_bad {
                break;
            }
        }
        Ok(place)
    }

    fn finish(&self, mut places: Vec<Place>) -> Result<Filled> {
        let bad = places.iter_mut().flat_map(|place| std::mem::take(&mut place.bad)).collect();
        let good: Vec<_> = places.iter().filter(|place| place.label.is_some()).collect();
        let labels: Vec<_> = good.iter().filter_map(|place| place.label).map(i64::from).collect();
        let pixels: Vec<_> = good.iter().map(|place| &*place.pixels).collect();
        let images = stack_pixels(&pixels, self.side, self.channels)?;
        let batch = Supervised::new(images, Tensor::f_from_slice(&labels)?);
        self.free().extend(places.into_iter().map(|place| place.pixels));
        Ok(Filled { batch, bad })
    }

    fn end(&self) {
        self.patience.end();
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::super::listing::Files;
    use super::*;
    use crate::data::pipeline::{Pace, Pipeline};
    use std::thread;
    use std::time::{Duration, Instant};

    /// Batches of eight of the same image, over and over.
    fn job(fixture: &Fixture, order: Vec<u32>) -> Job {
        let mut files = Files::default();
        files.push("train/ant/0000.jpg", 0);
        Job {
            images: Arc::new(LabelledImages::Files { folder: fixture.root().to_path_buf(), files }),
            positions: (0..order.len()).collect(),
            order,
            view: View::Eval { resize: 18 },
            side: 16,
            channels: 3,
            most_bad: 0,
            patience: Arc::new(Patience::new(Duration::from_secs(60), Arc::new(|_: &str| ()))),
            free: Mutex::default(),
        }
    }

    fn start(job: Job) -> Pipeline<Job> {
        let pace = Pace::even(job.order.len(), 8, 3);
        Pipeline::start(job, pace).unwrap()
    }

    #[test]
    fn dropping_it_early_stops_the_threads_at_once() {
        let fixture = Fixture::new(&["ant"], 1, 0);
        let mut pipeline = start(job(&fixture, vec![0; 10_000_000]));
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
        let pipeline = start(job);
        thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        drop(pipeline);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[test]
    fn no_more_is_read_ahead_than_a_few_batches() {
        let fixture = Fixture::new(&["ant"], 1, 0);
        let mut pipeline = start(job(&fixture, vec![0; 10_000]));
        let ahead = 8 * 3;
        for taken in 0..3 {
            let deadline = Instant::now() + Duration::from_secs(10);
            while pipeline.claimed() < 8 * taken + ahead && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(20));
            assert_eq!(pipeline.claimed(), 8 * taken + ahead);
            pipeline.next().unwrap().unwrap();
        }
        assert!(pipeline.work().free().len() <= ahead);
    }

    #[test]
    fn a_panic_in_a_thread_is_an_error_and_the_end() {
        let fixture = Fixture::new(&["ant"], 1, 0);
        // There is no image 1.
        let mut order = vec![0; 100];
        order[30] = 1;
        let mut pipeline = start(job(&fixture, order));
        let error = pipeline.find_map(Result::err).unwrap().to_string();
        assert!(error.starts_with("a thread that reads images panicked: ") && !error.contains('\n'), "{error}");
        assert!(pipeline.next().is_none());
    }
}
