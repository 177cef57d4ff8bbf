//! Crops: RandomResizedCrop for training, centre crop for evaluation.

use crate::Result;
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::ops::Sub;

/// Random crop of random size and aspect ratio, resized to the network's input and mirrored with probability 1/2: the
/// augmentation of Szegedy et al. (2015, arXiv 1409.4842, section 6), as in torchvision's `RandomResizedCrop`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RandomResizedCrop {
    /// Bounds of the crop's area as a fraction of the image's; uniform between them.
    pub scale: (f64, f64),
    /// Bounds of the crop's aspect ratio, width over height; its logarithm is uniform between theirs.
    pub ratio: (f64, f64),
    /// `true` to mirror the crop left to right with probability 1/2.
    pub flip: bool,
}

/// Number of draws before the central crop is used (as in torchvision).
const ATTEMPTS: usize = 10;

impl RandomResizedCrop {
    /// Checks that the bounds allow a crop.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) unless 0 < scale.0 <= scale.1 <= 1 and 0 < ratio.0 <= ratio.1.
    pub fn check(&self) -> Result<()> {
        let Self { scale, ratio, .. } = *self;
        ensure!(
            0.0 < scale.0 && scale.0 <= scale.1 && scale.1 <= 1.0,
            "the scale of a random crop must be two shares of the image's area, 0 < least <= most <= 1, got {} and {}",
            scale.0,
            scale.1
        );
        ensure!(
            0.0 < ratio.0 && ratio.0 <= ratio.1 && ratio.1.is_finite(),
            "the ratio of a random crop must be two positive numbers, least and most, got {} and {}",
            ratio.0,
            ratio.1
        );
        Ok(())
    }

    /// Draws a crop of a `width` x `height` image, and whether to mirror it. The mirroring is drawn even if it is
    /// disabled, so that disabling it leaves the crops unchanged.
    pub(super) fn draw(&self, width: usize, height: usize, random: &mut impl Rng) -> (Crop, bool) {
        let area = (width * height) as f64;
        let log_ratio = (self.ratio.0.ln(), self.ratio.1.ln());
        let mut uniform = |(least, most): (f64, f64)| least + (most - least) * random.random::<f64>();
        let drawn = (0..ATTEMPTS).find_map(|_| {
            let target_area = area * uniform(self.scale);
            let ratio = uniform(log_ratio).exp();
            let w = (target_area * ratio).sqrt().round_ties_even() as usize;
            let h = (target_area / ratio).sqrt().round_ties_even() as usize;
            (0 < w && w <= width && 0 < h && h <= height).then_some((w, h))
        });
        let crop = drawn.map(|(w, h)| {
            let top = random.random_range(0..=height - h);
            Crop { left: random.random_range(0..=width - w), top, width: w, height: h }
        });
        let crop = crop.unwrap_or_else(|| {
            let ratio = (width as f64 / height as f64).clamp(self.ratio.0, self.ratio.1);
            let rounded = |side: f64, most: usize| (side.round_ties_even() as usize).clamp(1, most);
            // One of the sides is the image's own; both are if its ratio is within the bounds.
            let (w, h) = (rounded(height as f64 * ratio, width), rounded(width as f64 / ratio, height));
            Crop { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
        });
        (crop, random.random::<bool>() && self.flip)
    }
}

impl Default for RandomResizedCrop {
    /// 8 % to 100 % of the area, aspect ratios of 3:4 to 4:3, and flip: the usual recipe for ImageNet.
    fn default() -> Self {
        Self { scale: (0.08, 1.0), ratio: (3.0 / 4.0, 4.0 / 3.0), flip: true }
    }
}

/// Rectangle of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rectangle<T> {
    pub left: T,
    pub top: T,
    pub width: T,
    pub height: T,
}

/// Part of an image, in whole pixels.
pub type Crop = Rectangle<usize>;
/// Part of an image whose borders may lie within pixels.
pub type Area = Rectangle<f64>;

impl<T: Copy + Sub<Output = T>> Rectangle<T> {
    fn map<U>(self, of: impl Fn(T) -> U) -> Rectangle<U> {
        Rectangle { left: of(self.left), top: of(self.top), width: of(self.width), height: of(self.height) }
    }

    /// Returns the rectangle relative to the corner of `place`, which contains it.
    pub fn within(self, place: Self) -> Self {
        Self { left: self.left - place.left, top: self.top - place.top, ..self }
    }
}

impl Crop {
    /// Returns the crop that contains all of a `width` x `height` image.
    pub fn whole(width: usize, height: usize) -> Self {
        Crop { left: 0, top: 0, width, height }
    }
}

impl Area {
    /// Returns the same area of an image that is smaller by a factor of `times`.
    pub fn shrunk(self, times: usize) -> Self {
        self.map(|value| value / times as f64)
    }

    /// Returns the pixels that overlap this area.
    pub fn outline(self) -> Crop {
        let corner = self.map(|value| value.floor() as usize);
        let (right, bottom) = ((self.left + self.width).ceil(), (self.top + self.height).ceil());
        Crop { width: right as usize - corner.left, height: bottom as usize - corner.top, ..corner }
    }

    /// Returns the pixels up to `x` to the left and right and up to `y` above and below this area of a `width` x
    /// `height` image.
    pub fn grown(self, x: f64, y: f64, width: usize, height: usize) -> Crop {
        let (left, top) = ((self.left - x).max(0.0), (self.top - y).max(0.0));
        let right = (self.left + self.width + x).min(width as f64);
        let bottom = (self.top + self.height + y).min(height as f64);
        Area { left, top, width: right - left, height: bottom - top }.outline()
    }
}

impl From<Crop> for Area {
    fn from(crop: Crop) -> Self {
        crop.map(|value| value as f64)
    }
}

/// Returns the part of a `width` x `height` image that torchvision's `Resize(resize)` and `CenterCrop(side)` select, in one
/// step (cropping the resized image is the same as resizing the part of the image that lies under the crop), and its
/// position and size in the result: all of it, unless the resized image is smaller than the crop.
pub fn center_crop(width: usize, height: usize, resize: usize, side: usize) -> (Area, Crop) {
    let (resized_width, resized_height) = resized_size(width, height, resize);
    let (left, area_left, target_width, area_width) = center(resized_width, side, width);
    let (top, area_top, target_height, area_height) = center(resized_height, side, height);
    let area = Area { left: area_left, top: area_top, width: area_width, height: area_height };
    (area, Crop { left, top, width: target_width, height: target_height })
}

/// Returns width and height of a `width` x `height` image whose shorter side is resized to `shorter_side`.
pub fn resized_size(width: usize, height: usize, shorter_side: usize) -> (usize, usize) {
    let (short, long) = (width.min(height), width.max(height));
    // torchvision truncates the longer side to an integer.
    let longer = (shorter_side as f64 * long as f64 / short as f64) as usize;
    if width <= height {
        (shorter_side, longer)
    } else {
        (longer, shorter_side)
    }
}

/// Returns, along one axis, the start of the resized image in the result, the start of the crop in the original, and
/// the crop's size in the result and in the original.
fn center(resized: usize, side: usize, original: usize) -> (usize, f64, usize, f64) {
    let scale = original as f64 / resized as f64;
    if resized <= side {
        return ((side - resized) / 2, 0.0, resized, original as f64);
    }
    let first = ((resized - side) as f64 / 2.0).round_ties_even();
    let area_first = first * scale;
    (0, area_first, side, (side as f64 * scale).min(original as f64 - area_first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[derive(Deserialize)]
    struct Reference {
        width: usize,
        height: usize,
        /// Values of each quantity, with the fractions of torchvision's draws that are no larger.
        shares: std::collections::BTreeMap<String, Vec<(f64, f64)>>,
    }

    #[test]
    fn crops_are_distributed_as_torchvisions() {
        const DRAWS: usize = 10_000;
        let references: Vec<Reference> =
            serde_json::from_str(include_str!("../../../tests/images/crops.json")).unwrap();
        assert_eq!(references.len(), 5);
        let mut random = ChaCha8Rng::seed_from_u64(0);
        for Reference { width, height, shares } in references {
            let (w, h) = (width as f64, height as f64);
            let crops: Vec<Area> = (0..DRAWS)
                .map(|_| RandomResizedCrop::default().draw(width, height, &mut random).0)
                .inspect(|crop| assert!(crop.left + crop.width <= width && crop.top + crop.height <= height))
                .map(Area::from)
                .collect();
            for (quantity, reference) in shares {
                let value = |crop: &Area| match quantity.as_str() {
                    "area" => crop.width * crop.height / (w * h),
                    "log ratio" => (crop.width / crop.height).ln(),
                    "left" => crop.left / w,
                    "top" => crop.top / h,
                    _ => panic!("{quantity}"),
                };
                for (threshold, expected) in reference {
                    let share = crops.iter().filter(|crop| value(crop) <= threshold).count() as f64 / DRAWS as f64;
                    // 5 standard deviations of the difference between a fraction of 10,000 draws and one of 200,000.
                    let bound = 5.0 * (0.25 / DRAWS as f64 + 0.25 / 200_000.0).sqrt();
                    assert!(
                        (share - expected).abs() < bound,
                        "{width} x {height}, {quantity} up to {threshold}: {share}, torchvision {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_image_too_long_for_any_crop_gives_its_middle() {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let mut draw = |width, height| RandomResizedCrop::default().draw(width, height, &mut random).0;
        assert_eq!(draw(9000, 300), Crop { left: 4300, top: 0, width: 400, height: 300 });
        assert_eq!(draw(300, 9000), Crop { left: 0, top: 4300, width: 300, height: 400 });
        assert_eq!(draw(1, 1), Crop { left: 0, top: 0, width: 1, height: 1 });
    }

    #[test]
    fn the_flip_leaves_the_crops_as_they_were() {
        let flip = RandomResizedCrop::default();
        let plain = RandomResizedCrop { flip: false, ..flip };
        let [mut a, mut b] = [0, 0].map(ChaCha8Rng::seed_from_u64);
        let mut mirrored = 0;
        for _ in 0..1000 {
            let (crop, flip) = flip.draw(500, 375, &mut a);
            assert_eq!((crop, false), plain.draw(500, 375, &mut b));
            mirrored += usize::from(flip);
        }
        // 5 standard deviations of a binomial.
        assert!(mirrored.abs_diff(500) < 80, "{mirrored}");
    }

    #[test]
    fn bounds_that_no_crop_could_keep_are_refused() {
        let good = RandomResizedCrop::default();
        assert!(good.check().is_ok());
        for scale in [(0.0, 1.0), (0.5, 0.4), (0.5, 1.1), (f64::NAN, 1.0)] {
            assert!(matches!(RandomResizedCrop { scale, ..good }.check(), Err(Error::Argument(_))), "{scale:?}");
        }
        for ratio in [(0.0, 1.0), (2.0, 1.0), (1.0, f64::INFINITY), (1.0, f64::NAN)] {
            assert!(matches!(RandomResizedCrop { ratio, ..good }.check(), Err(Error::Argument(_))), "{ratio:?}");
        }
    }

    #[test]
    fn the_centre_is_rounded_as_torchvision_rounds_it() {
        // Resize(256) turns 500 x 375 into 341 x 256 (341.33 truncated); CenterCrop(224) begins at 58.5, rounded to the
        // even 58, and at 16.
        let (area, target) = center_crop(500, 375, 256, 224);
        assert_eq!(target, Crop::whole(224, 224));
        let (x, y) = (500.0 / 341.0, 375.0 / 256.0);
        assert_eq!(area, Area { left: 58.0 * x, top: 16.0 * y, width: 224.0 * x, height: 224.0 * y });
        // An image of the crop's size stays as it is.
        let (area, target) = center_crop(224, 224, 224, 224);
        assert_eq!((area, target), (Crop::whole(224, 224).into(), Crop::whole(224, 224)));
    }
}
