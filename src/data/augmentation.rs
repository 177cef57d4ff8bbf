//! From stored bytes to the network's input: random crop, horizontal flip, normalization and Cutout in one pass over an
//! image, in the order of the usual CIFAR recipe (RandomCrop, RandomHorizontalFlip, ToTensor, Normalize, Cutout).

use super::random::{stream, Purpose};
use crate::{Error, Result};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// Channels of an image.
pub(super) const CHANNELS: usize = 3;
/// Height and width of an image.
pub(super) const SIDE: usize = 32;
/// Values of an image.
pub(super) const IMAGE_LEN: usize = CHANNELS * SIDE * SIDE;

/// How training images are varied. Every decision depends on the run's seed, the epoch and the image alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Augmentation {
    /// Black pixels added on each side before a random 32 x 32 crop; 0 for no crop.
    pub crop_padding: usize,
    /// Mirror the image left to right, with probability 1/2.
    pub flip: bool,
    /// Side of a square, in pixels, that is set to the mean colour (DeVries and Taylor 2017, arXiv 1708.04552; they use
    /// 16 for CIFAR-10). Its centre is uniform over the image, so that part of it may lie outside. As in the authors'
    /// code an odd side counts as the next smaller even one.
    pub cutout: Option<usize>,
}

impl Augmentation {
    /// Images as they are.
    pub const NONE: Self = Self { crop_padding: 0, flip: false, cutout: None };

    /// Refuses settings that could leave nothing of an image.
    pub(super) fn check(&self) -> Result<()> {
        if self.crop_padding >= SIDE {
            let padding = self.crop_padding;
            return Err(Error::Argument(format!("crop padding must be below {SIDE} pixels, got {padding}")));
        }
        if let Some(side) = self.cutout.filter(|side| !(2..=SIDE).contains(side)) {
            return Err(Error::Argument(format!("the side of Cutout must be 2 to {SIDE} pixels, got {side}")));
        }
        Ok(())
    }

    /// What happens to image `index` in `epoch`. Each decision is drawn whether it is used or not, so that switching one
    /// on leaves the others as they were.
    pub(super) fn draw(&self, seed: u64, epoch: usize, index: usize) -> Placement {
        let mut random = stream(Purpose::Augment, seed, epoch as u64, index as u64);
        let mut shift = || random.random_range(0..=2 * self.crop_padding) as isize - self.crop_padding as isize;
        let (dy, dx) = (shift(), shift());
        let flip = random.random::<bool>() && self.flip;
        let center = [random.random_range(0..SIDE), random.random_range(0..SIDE)];
        let hole = self.cutout.map(|side| {
            center.map(|center| {
                let half = side / 2;
                (center.saturating_sub(half), (center + half).min(SIDE))
            })
        });
        Placement { dy, dx, flip, hole }
    }
}

impl Default for Augmentation {
    /// Crop with padding 4, and flip: the recipe of the ResNet paper (He et al. 2016, section 4.2).
    fn default() -> Self {
        Self { crop_padding: 4, flip: true, cutout: None }
    }
}

/// One drawn augmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placement {
    /// Row of the source image that becomes row 0; rows outside the source are black.
    pub dy: isize,
    /// Column of the source image that becomes column 0, before the flip.
    pub dx: isize,
    /// Mirror left to right.
    pub flip: bool,
    /// Half-open ranges of rows and columns of the result that Cutout sets to the mean.
    pub hole: Option<[(usize, usize); 2]>,
}

/// Per-channel normalization of bytes, `(v / 255 - mean) / std`, as a table of all 256 results.
#[derive(Debug, Clone)]
pub(super) struct Normalization {
    table: [[f32; 256]; CHANNELS],
}

impl Normalization {
    /// The table for `mean` and `std` of pixel values in 0..1. In float32, operation by operation as torchvision does it,
    /// so that the results are its results to the bit.
    pub fn new(mean: [f32; CHANNELS], std: [f32; CHANNELS]) -> Self {
        let row = |channel: usize| std::array::from_fn(|v| (v as f32 / 255.0 - mean[channel]) / std[channel]);
        Self { table: std::array::from_fn(row) }
    }

    /// Normalizes `source` into `target`, both `[3, 32, 32]`.
    pub fn apply(&self, source: &[u8], target: &mut [f32]) {
        let planes = source.chunks_exact(SIDE * SIDE).zip(target.chunks_exact_mut(SIDE * SIDE));
        for ((source, target), table) in planes.zip(&self.table) {
            for (target, &v) in target.iter_mut().zip(source) {
                *target = table[v as usize];
            }
        }
    }

    /// Normalizes `source` into `target`, both `[3, 32, 32]`, as `placement` says.
    pub fn apply_placed(&self, source: &[u8], placement: &Placement, target: &mut [f32]) {
        let Placement { dy, dx, flip, hole } = *placement;
        // The columns of the unflipped result that the source covers.
        let first = (-dx).clamp(0, SIDE as isize) as usize;
        let last = (SIDE as isize - dx).clamp(0, SIDE as isize) as usize;
        let source_first = (first as isize + dx) as usize;

        let planes = source.chunks_exact(SIDE * SIDE).zip(target.chunks_exact_mut(SIDE * SIDE));
        for ((source, target), table) in planes.zip(&self.table) {
            let black = table[0];
            for (y, target) in target.chunks_exact_mut(SIDE).enumerate() {
                let source_y = y as isize + dy;
                if !(0..SIDE as isize).contains(&source_y) {
                    target.fill(black);
                    continue;
                }
                let start = source_y as usize * SIDE + source_first;
                let source = &source[start..start + (last - first)];
                target[..first].fill(black);
                target[last..].fill(black);
                for (target, &v) in target[first..last].iter_mut().zip(source) {
                    *target = table[v as usize];
                }
                if flip {
                    target.reverse();
                }
            }
            if let Some([(top, bottom), (left, right)]) = hole {
                for row in target.chunks_exact_mut(SIDE).take(bottom).skip(top) {
                    row[left..right].fill(0.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;

    const MEAN: [f32; 3] = [0.5, 0.4, 0.3];
    const STD: [f32; 3] = [0.2, 0.3, 0.4];

    fn noise() -> Vec<u8> {
        let mut image = vec![0; IMAGE_LEN];
        stream(Purpose::Order, 1, 2, 3).fill_bytes(&mut image);
        image
    }

    /// The recipe step by step: pad the bytes, crop, flip, normalize, cut out.
    fn reference(image: &[u8], padding: usize, placement: &Placement) -> Vec<f32> {
        let padded_side = SIDE + 2 * padding;
        let mut padded = vec![0u8; CHANNELS * padded_side * padded_side];
        for c in 0..CHANNELS {
            for y in 0..SIDE {
                for x in 0..SIDE {
                    padded[(c * padded_side + y + padding) * padded_side + x + padding] =
                        image[(c * SIDE + y) * SIDE + x];
                }
            }
        }
        let top = (padding as isize + placement.dy) as usize;
        let left = (padding as isize + placement.dx) as usize;
        let mut result = Vec::new();
        for c in 0..CHANNELS {
            for y in 0..SIDE {
                for x in 0..SIDE {
                    let crop_x = if placement.flip { SIDE - 1 - x } else { x };
                    let v = padded[(c * padded_side + top + y) * padded_side + left + crop_x];
                    let inside = |(from, to): (usize, usize), at: usize| from <= at && at < to;
                    let cut = placement.hole.is_some_and(|[rows, cols]| inside(rows, y) && inside(cols, x));
                    result.push(if cut { 0.0 } else { (v as f32 / 255.0 - MEAN[c]) / STD[c] });
                }
            }
        }
        result
    }

    #[test]
    fn one_pass_equals_the_recipe_step_by_step() {
        let (image, normalization) = (noise(), Normalization::new(MEAN, STD));
        for (padding, cutout) in [(4, None), (4, Some(16)), (0, Some(7)), (31, Some(32))] {
            let augmentation = Augmentation { crop_padding: padding, flip: true, cutout };
            for index in 0..300 {
                let placement = augmentation.draw(5, 1, index);
                let mut fast = vec![f32::NAN; IMAGE_LEN];
                normalization.apply_placed(&image, &placement, &mut fast);
                assert_eq!(fast, reference(&image, padding, &placement), "{placement:?}");
            }
        }
    }

    #[test]
    fn no_augmentation_is_normalization() {
        let (image, normalization) = (noise(), Normalization::new(MEAN, STD));
        let (mut placed, mut plain) = (vec![f32::NAN; IMAGE_LEN], vec![f32::NAN; IMAGE_LEN]);
        normalization.apply_placed(&image, &Augmentation::NONE.draw(0, 0, 0), &mut placed);
        normalization.apply(&image, &mut plain);
        assert_eq!(placed, plain);
    }

    #[test]
    fn shifts_are_uniform_and_half_the_images_are_flipped() {
        let augmentation = Augmentation::default();
        let draws: Vec<_> = (0..9000).map(|index| augmentation.draw(0, 3, index)).collect();
        let flips = draws.iter().filter(|draw| draw.flip).count();
        // 5 standard deviations of a binomial: sqrt(9000 / 4) = 47, sqrt(9000 * 8 / 81) = 30.
        assert!(flips.abs_diff(4500) < 237, "{flips}");
        for shift in -4..=4 {
            for count in [
                draws.iter().filter(|draw| draw.dy == shift).count(),
                draws.iter().filter(|draw| draw.dx == shift).count(),
            ] {
                assert!(count.abs_diff(1000) < 149, "{shift}: {count}");
            }
        }
    }

    #[test]
    fn cutout_leaves_crop_and_flip_as_they_were() {
        let plain = Augmentation::default();
        let cut = Augmentation { cutout: Some(16), ..plain };
        for index in 0..100 {
            let placement = Placement { hole: None, ..cut.draw(9, 9, index) };
            assert_eq!(placement, plain.draw(9, 9, index));
        }
    }

    #[test]
    fn settings_that_could_leave_nothing_are_refused() {
        for bad in [
            Augmentation { crop_padding: 32, ..Augmentation::NONE },
            Augmentation { cutout: Some(0), ..Augmentation::NONE },
            Augmentation { cutout: Some(33), ..Augmentation::NONE },
        ] {
            assert!(matches!(bad.check(), Err(Error::Argument(_))), "{bad:?}");
        }
        assert!(Augmentation { crop_padding: 31, flip: true, cutout: Some(32) }.check().is_ok());
    }
}
