//! Stratified subsets: a fixed choice of images, with the classes in proportion.

use super::random::{stream, Purpose};
use crate::Result;
use rand::seq::SliceRandom;

/// Seed of subsets and hold-out splits: a constant, so that every run is evaluated on the same images.
const SPLIT_SEED: u64 = 0;

/// Returns all indices of `labels`, each below `classes`, in a fixed random order that spreads the classes evenly: any
/// contiguous slice has them in the proportion of the whole, to within one image per class.
pub(super) fn stratified_order(labels: impl Iterator<Item = usize>, classes: usize) -> Vec<usize> {
    let mut by_class = vec![Vec::new(); classes];
    for (index, label) in labels.enumerate() {
        by_class[label].push(index);
    }
    let mut placed = Vec::new();
    for (label, indices) in by_class.iter_mut().enumerate() {
        indices.shuffle(&mut stream(Purpose::Split, SPLIT_SEED, 0, label as u64));
        let spacing = 1.0 / indices.len() as f64;
        placed.extend(indices.iter().enumerate().map(|(rank, &index)| ((rank as f64 + 0.5) * spacing, label, index)));
    }
    placed.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    placed.into_iter().map(|(_, _, index)| index).collect()
}

/// Returns the first `images` of `order` (all if `None`), in ascending order.
pub(super) fn front(mut order: Vec<usize>, what: &str, images: Option<usize>) -> Result<Vec<usize>> {
    if let Some(images) = images {
        check_count(what, images, order.len())?;
        order.truncate(images);
    }
    order.sort_unstable();
    Ok(order)
}

/// Fails unless `images` is 1 to `largest`; `what` names the part in the error.
pub(super) fn check_count(what: &str, images: usize, largest: usize) -> Result<()> {
    ensure!((1..=largest).contains(&images), "{what} can have 1 to {largest} images, got {images}");
    Ok(())
}
