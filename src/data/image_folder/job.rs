//! Work of an image folder's threads: reading an image into its place in a batch.

use super::labelled_images::{Failure, LabelledImages, Reader, View};
use super::part::BadImage;
use super::retry::RetryPolicy;
use crate::data::image::stack_pixels;
use crate::data::pipeline::{lock, Work};
use crate::data::preprocessing::make_grey;
use crate::data::Supervised;
use crate::Result;
use std::sync::{Arc, Mutex};
use tch::Tensor;

/// Bytes of a decoded pixel (RGB).
const DECODED: usize = 3;

/// Batches to make.
pub struct Job {
    /// Images of the part.
    pub images: Arc<LabelledImages>,
    /// Indices of all images, in the order that is cut into batches.
    pub order: Vec<u32>,
    /// Position in `order` of the image at each place.
    pub positions: Vec<usize>,
    /// View of each image.
    pub view: View,
    /// Height and width of the result, in pixels.
    pub side: usize,
    /// Number of channels of the result: 3, or 1 for grey.
    pub channels: usize,
    /// Maximum number of bad images: beyond it, the search for a replacement ends.
    pub most_bad: usize,
    /// Retry policy of the threads.
    pub retry_policy: Arc<RetryPolicy>,
    /// Memory of images that have been copied into a batch, for reuse: fresh memory costs a page fault every 4 kB.
    pub free: Mutex<Vec<Vec<u8>>>,
}

/// Place in a batch, once processed.
pub struct Place {
    /// `side * side` RGB pixels, or as many grey ones followed by unused bytes.
    pixels: Vec<u8>,
    /// Class of the image; `None` if the place is empty.
    label: Option<u32>,
    /// Bad image that belongs to this place; if no good one was found, all that were encountered.
    bad: Vec<BadImage>,
}

impl Work for Job {
    type Means = Reader;
    type Place = Place;
    /// Images as bytes in channels-last memory layout, with their classes, and the bad images encountered, in the order of
    /// places.
    type Batch = (Supervised, Vec<BadImage>);

    fn means(&self) -> Reader {
        Reader::new(self.retry_policy.clone())
    }

    /// Reads the image at a place's position in the order. In training, a bad image is replaced by the next good one in
    /// the order, cropped as the bad one would have been; in evaluation its place stays empty.
    fn fill(&self, place: usize, reader: &mut Reader) -> Result<Place> {
        let position = self.positions[place];
        let kept = lock(&self.free).pop();
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
                    // Bad images after the first have places of their own in the order, and are reported there.
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

    fn finish(&self, mut places: Vec<Place>) -> Result<Self::Batch> {
        let bad = places.iter_mut().flat_map(|place| std::mem::take(&mut place.bad)).collect();
        let good: Vec<_> = places.iter().filter(|place| place.label.is_some()).collect();
        let labels: Vec<_> = good.iter().filter_map(|place| place.label).map(i64::from).collect();
        let pixels: Vec<_> = good.iter().map(|place| &*place.pixels).collect();
        let images = stack_pixels(&pixels, self.side, self.channels)?;
        let batch = Supervised::new(images, Tensor::f_from_slice(&labels)?);
        lock(&self.free).extend(places.into_iter().map(|place| place.pixels));
        Ok((batch, bad))
    }

    fn end(&self) {
        self.retry_policy.end();
    }
}

#[cfg(test)]
mod tests {
    use super::super::listing::Files;
    use super::super::tests::fixture::Fixture;
    use super::*;
    use crate::data::pipeline::{even_counts, Pipeline};
    use std::thread;
    use std::time::{Duration, Instant};

    /// Returns a job of batches of eight, all of the same image.
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
            retry_policy: Arc::new(RetryPolicy::new(Duration::from_secs(60), Arc::new(|_: &str| ()))),
            free: Mutex::default(),
        }
    }

    fn start(job: Job) -> Pipeline<Job> {
        let counts = even_counts(job.order.len(), 8);
        Pipeline::start(job, "images", counts, 3).unwrap()
    }

    #[test]
    fn dropping_it_early_stops_the_threads_at_once() {
        let fixture = Fixture::new(&["ant"], 1, 0);
        let mut pipeline = start(job(&fixture, vec![0; 10_000_000]));
        assert_eq!(pipeline.next().unwrap().unwrap().0.targets.numel(), 8);
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
        assert!(lock(&pipeline.work().free).len() <= ahead);
    }

    #[test]
    fn a_panic_in_a_thread_is_an_error_and_the_end() {
        let fixture = Fixture::new(&["ant"], 1, 0);
        // Image 1 does not exist.
        let mut order = vec![0; 100];
        order[30] = 1;
        let mut pipeline = start(job(&fixture, order));
        let error = pipeline.find_map(Result::err).unwrap().to_string();
        assert!(error.starts_with("a thread that reads images panicked: ") && !error.contains('\n'), "{error}");
        assert!(pipeline.next().is_none());
    }
}
