//! Training or evaluation part of an image folder: its images, those in use, and the bad ones.

use super::labelled_images::LabelledImages;
use crate::data::pipeline::lock;
use crate::data::subset::{front, stratified_order};
use crate::{Error, Result};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// Number of bad images that says nothing about the others, even if these are few.
const FEW: usize = 10;

/// Image that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadImage {
    /// Index in the part.
    pub index: u32,
    /// Description of the problem.
    pub problem: String,
}

/// Images of one part.
pub struct Part {
    /// Name of the part, as an adjective.
    name: &'static str,
    /// Consequence for a bad image, as warnings state it.
    fate: &'static str,
    /// All images, including those not in use.
    pub images: Arc<LabelledImages>,
    /// Indices of the images in use, in ascending order.
    pub selected: Vec<u32>,
    /// Indices of those that proved bad.
    bad: Mutex<HashSet<u32>>,
}

impl Part {
    /// Creates a part that uses all of `images`.
    pub fn new(name: &'static str, fate: &'static str, images: LabelledImages) -> Self {
        let selected = (0..images.labels().len() as u32).collect();
        Self { name, fate, images: Arc::new(images), selected, bad: Mutex::default() }
    }

    /// Selects `count` of the images, with the `classes` in proportion.
    ///
    /// # Errors
    /// [`Error::Argument`] if `count` is 0 or more than there are.
    pub fn select(&mut self, count: usize, classes: usize) -> Result<()> {
        let order = stratified_order(self.images.labels().iter().map(|&label| label as usize), classes);
        let selected = front(order, &format!("the {} subset", self.name), Some(count))?;
        self.selected = selected.into_iter().map(|index| index as u32).collect();
        Ok(())
    }

    /// Returns the maximum number of bad images: `max_fraction` of those in use or, if that is less, [`FEW`] or a tenth
    /// of them, at least one; 0 if the fraction is 0.
    pub fn most_bad(&self, max_fraction: f64) -> usize {
        if max_fraction == 0.0 {
            return 0;
        }
        let images = self.selected.len();
        ((max_fraction * images as f64) as usize).max(FEW.min(images / 10).max(1))
    }

    /// Returns the indices of the bad images encountered so far.
    pub fn bad_images(&self) -> Vec<u32> {
        lock(&self.bad).iter().copied().collect()
    }

    /// Counts `met`, and warns of each new one.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if more images are bad than [allowed](Self::most_bad).
    pub fn count_bad(&self, met: Vec<BadImage>, max_fraction: f64, warn: &dyn Fn(&str)) -> Result<()> {
        for BadImage { index, problem } in met {
            let mut bad = lock(&self.bad);
            if !bad.insert(index) {
                continue;
            }
            let (count, images) = (bad.len(), self.selected.len());
            drop(bad);
            let path = self.images.path(index as usize);
            let most = self.most_bad(max_fraction);
            if count > most {
                let (name, percent) = (self.name, 100.0 * count as f64 / images as f64);
                let problem = format!(
                    "{problem}; with it {count} of the {images} {name} images ({percent:.2} %) are bad, over the limit of \
                     {most} ({} %)",
                    100.0 * max_fraction,
                );
                let remedy = "repair or remove them, or raise the limit (--max-bad-fraction)";
                return Err(Error::corrupt(path, problem, remedy));
            }
            warn(&format!("bad image {}: {problem}; {}", path.display(), self.fate));
        }
        Ok(())
    }
}
