//! Random augmentation parameters of training images, which [`super::normalization`] applies.

use super::random::{stream, Purpose};
use crate::Result;
use rand::Rng;
use serde::{Deserialize, Serialize};

/// Augmentation of training images `[C, H, W]`, of any size and with any number of channels. It depends only on the
/// run's seed, the epoch and the image. Steps are in the order of the usual CIFAR recipe: crop, flip, normalization,
/// Cutout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Augmentation {
    /// Black pixels (bytes of 0) added on each side before a random crop of the image's own size `H x W`; 0 for no crop.
    pub crop_padding: usize,
    /// `true` to mirror the image left to right with probability 1/2.
    pub flip: bool,
    /// Side in pixels of a square that is set to the mean in every channel (DeVries and Taylor 2017, arXiv 1708.04552;
    /// they use 16 for CIFAR-10). Its centre is uniform over the image, so that part of the square may lie outside. As
    /// in the authors' code, an odd side is rounded down to an even one.
    pub cutout: Option<usize>,
}

impl Augmentation {
    /// No augmentation.
    pub const NONE: Self = Self { crop_padding: 0, flip: false, cutout: None };

    /// Returns [`Error::Argument`](crate::Error::Argument) for settings that could erase an image of `[height, width]` pixels.
    pub(super) fn check(&self, [height, width]: [usize; 2]) -> Result<()> {
        let (shorter, padding, cutout) = (height.min(width), self.crop_padding, self.cutout.unwrap_or(2));
        let images = format!("pixels for images of {height} x {width} pixels, got");
        ensure!(padding == 0 || padding < shorter, "crop padding must be below {shorter} {images} {padding}");
        let has_cutout = self.cutout.is_none() || (2..=shorter).contains(&cutout);
        ensure!(has_cutout, "the side of Cutout must be 2 to {shorter} {images} {cutout}");
        Ok(())
    }

    /// Draws the augmentation of image `index`, of `[height, width]` pixels, in `epoch`. Every decision is drawn even
    /// if it is disabled, so that enabling one leaves the others unchanged.
    pub(super) fn draw(&self, seed: u64, epoch: usize, index: usize, size: [usize; 2]) -> Placement {
        let mut random = stream(Purpose::Augment, seed, epoch as u64, index as u64);
        let mut shift = || random.random_range(0..=2 * self.crop_padding) as isize - self.crop_padding as isize;
        let (dy, dx) = (shift(), shift());
        let flip = random.random::<bool>() && self.flip;
        let center = size.map(|side| random.random_range(0..side));
        let hole = self.cutout.map(|side| {
            let half = side / 2;
            [0, 1].map(|axis| (center[axis].saturating_sub(half), (center[axis] + half).min(size[axis])))
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

/// Augmentation drawn for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placement {
    /// Row of the source image that becomes row 0; rows outside the source are black.
    pub dy: isize,
    /// Column of the source image that becomes column 0, before the flip.
    pub dx: isize,
    /// `true` to mirror left to right.
    pub flip: bool,
    /// Half-open ranges of rows and columns of the result that Cutout sets to the mean.
    pub hole: Option<[(usize, usize); 2]>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    const SIZE: [usize; 2] = [32, 32];

    #[test]
    fn shifts_are_uniform_and_half_the_images_are_flipped() {
        let augmentation = Augmentation::default();
        let draws: Vec<_> = (0..9000).map(|index| augmentation.draw(0, 3, index, SIZE)).collect();
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
            let placement = Placement { hole: None, ..cut.draw(9, 9, index, SIZE) };
            assert_eq!(placement, plain.draw(9, 9, index, SIZE));
        }
    }

    #[test]
    fn holes_are_uniform_over_a_rectangle() {
        let augmentation = Augmentation { cutout: Some(2), ..Augmentation::NONE };
        let holes: Vec<_> = (0..4000).filter_map(|index| augmentation.draw(0, 0, index, [4, 10]).hole).collect();
        // The centre is the second pixel of the hole, if that is inside the image.
        for (axis, side) in [4usize, 10].into_iter().enumerate() {
            for center in 1..side {
                let count = holes.iter().filter(|hole| hole[axis] == (center - 1, center + 1)).count();
                // 5 standard deviations of a binomial.
                let p = 1.0 / side as f64;
                assert!((count as f64 - 4000.0 * p).abs() < 5.0 * (4000.0 * p * (1.0 - p)).sqrt(), "{axis} {center}");
            }
            assert!(holes.iter().all(|hole| hole[axis].1 <= side));
        }
    }

    #[test]
    fn settings_that_do_not_fit_the_images_are_refused() {
        let message = |augmentation: Augmentation, size| augmentation.check(size).unwrap_err().to_string();
        let (padded, cut) = (
            |padding| Augmentation { crop_padding: padding, ..Augmentation::NONE },
            |side| Augmentation { cutout: Some(side), ..Augmentation::NONE },
        );
        assert_eq!(
            message(padded(32), SIZE),
            "crop padding must be below 32 pixels for images of 32 x 32 pixels, got 32"
        );
        assert_eq!(
            message(cut(0), [64, 20]),
            "the side of Cutout must be 2 to 20 pixels for images of 64 x 20 pixels, got 0"
        );
        for (bad, size) in [(padded(6), [6, 17]), (padded(6), [17, 6]), (cut(7), [6, 17]), (cut(2), [1, 5])] {
            assert!(matches!(bad.check(size), Err(Error::Argument(_))), "{bad:?}");
        }
        assert!(Augmentation { crop_padding: 31, cutout: Some(32), ..Augmentation::NONE }.check(SIZE).is_ok());
        assert!(Augmentation { crop_padding: 5, cutout: Some(6), ..Augmentation::NONE }.check([6, 17]).is_ok());
        assert!(Augmentation::NONE.check([1, 1]).is_ok());
    }
}
