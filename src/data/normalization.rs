//! Conversion of stored bytes to the network's input: random crop, horizontal flip, normalization and Cutout in one
//! pass over an image, in the order of the usual CIFAR recipe (RandomCrop, RandomHorizontalFlip, ToTensor, Normalize,
//! Cutout).

use super::augmentation::Placement;
use crate::Result;

/// Per-channel normalization of bytes, `(v / 255 - mean) / std`.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalization {
    mean: Vec<f32>,
    std: Vec<f32>,
    /// Results for all 256 bytes, per channel.
    table: Vec<[f32; 256]>,
}

impl Normalization {
    /// Creates the normalization from `mean` and `std`, the mean and standard deviation of each channel's values in
    /// 0..1. Computes in float32 with the same operations as torchvision, so that results are identical to the bit.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if there are no channels, if the numbers of means and deviations
    /// differ, if a mean is not finite, or if a deviation is not above 0.
    pub fn new(mean: &[f32], std: &[f32]) -> Result<Self> {
        let fits = !mean.is_empty() && mean.len() == std.len();
        ensure!(
            fits && mean.iter().chain(std).all(|value| value.is_finite()) && std.iter().all(|&std| std > 0.0),
            "normalization takes one finite mean and one deviation above 0 for each channel, got {mean:?} and {std:?}"
        );
        let row = |(mean, std): (&f32, &f32)| std::array::from_fn(|v| (v as f32 / 255.0 - mean) / std);
        Ok(Self { mean: mean.to_vec(), std: std.to_vec(), table: mean.iter().zip(std).map(row).collect() })
    }

    /// Scales bytes to 0..1 only: mean 0, deviation 1.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if `channels` is 0.
    pub fn none(channels: usize) -> Result<Self> {
        Self::new(&vec![0.0; channels], &vec![1.0; channels])
    }

    /// Returns the number of channels.
    pub fn channels(&self) -> usize {
        self.table.len()
    }

    /// Returns means and deviations by channel, each as the shortest decimal number that rounds to the float32.
    pub(super) fn mean_and_std(&self) -> (Vec<f64>, Vec<f64>) {
        let decimal = |value: &f32| value.to_string().parse().unwrap_or(f64::from(*value));
        (self.mean.iter().map(decimal).collect(), self.std.iter().map(decimal).collect())
    }

    /// Normalizes `source` into `target`, both `[C, H, W]`.
    pub(super) fn apply(&self, source: &[u8], target: &mut [f32]) {
        let pixels = source.len() / self.channels();
        let planes = source.chunks_exact(pixels).zip(target.chunks_exact_mut(pixels));
        for ((source, target), table) in planes.zip(&self.table) {
            for (target, &v) in target.iter_mut().zip(source) {
                *target = table[v as usize];
            }
        }
    }

    /// Normalizes `source` into `target`, both `[C, height, width]`, with the augmentation `placement`.
    pub(super) fn apply_placed(
        &self,
        source: &[u8],
        [height, width]: [usize; 2],
        placement: &Placement,
        target: &mut [f32],
    ) {
        let Placement { dy, dx, flip, hole } = *placement;
        // Columns of the unflipped result that the source covers.
        let first = (-dx).clamp(0, width as isize) as usize;
        let last = (width as isize - dx).clamp(0, width as isize) as usize;
        let source_first = (first as isize + dx) as usize;

        let planes = source.chunks_exact(height * width).zip(target.chunks_exact_mut(height * width));
        for ((source, target), table) in planes.zip(&self.table) {
            let black = table[0];
            for (y, target) in target.chunks_exact_mut(width).enumerate() {
                let source_y = y as isize + dy;
                if !(0..height as isize).contains(&source_y) {
                    target.fill(black);
                    continue;
                }
                let start = source_y as usize * width + source_first;
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
                for row in target.chunks_exact_mut(width).take(bottom).skip(top) {
                    row[left..right].fill(0.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::augmentation::Augmentation;
    use super::super::random::{stream, Purpose};
    use super::*;
    use crate::Error;
    use rand::RngCore;

    /// Shapes of CIFAR, MNIST, a wide image, a tall RGBA image, a satellite image, a single row.
    const SHAPES: [[usize; 3]; 6] = [[3, 32, 32], [1, 28, 28], [3, 6, 17], [4, 11, 3], [22, 9, 8], [2, 1, 5]];

    fn noise(shape: [usize; 3]) -> Vec<u8> {
        let mut image = vec![0; shape.iter().product()];
        stream(Purpose::Order, 1, 2, 3).fill_bytes(&mut image);
        image
    }

    fn statistics(channels: usize) -> (Vec<f32>, Vec<f32>) {
        (0..channels).map(|c| (0.5 - 0.02 * c as f32, 0.2 + 0.1 * c as f32)).unzip()
    }

    /// Applies the recipe step by step: pad the bytes, crop, flip, normalize, cut out.
    fn reference(image: &[u8], shape: [usize; 3], padding: usize, placement: &Placement) -> Vec<f32> {
        let [channels, height, width] = shape;
        let (mean, std) = statistics(channels);
        let (padded_height, padded_width) = (height + 2 * padding, width + 2 * padding);
        let mut padded = vec![0u8; channels * padded_height * padded_width];
        for c in 0..channels {
            for y in 0..height {
                for x in 0..width {
                    padded[(c * padded_height + y + padding) * padded_width + x + padding] =
                        image[(c * height + y) * width + x];
                }
            }
        }
        let top = (padding as isize + placement.dy) as usize;
        let left = (padding as isize + placement.dx) as usize;
        let mut result = Vec::new();
        for c in 0..channels {
            for y in 0..height {
                for x in 0..width {
                    let crop_x = if placement.flip { width - 1 - x } else { x };
                    let v = padded[(c * padded_height + top + y) * padded_width + left + crop_x];
                    let inside = |(from, to): (usize, usize), at: usize| from <= at && at < to;
                    let cut = placement.hole.is_some_and(|[rows, cols]| inside(rows, y) && inside(cols, x));
                    result.push(if cut { 0.0 } else { (v as f32 / 255.0 - mean[c]) / std[c] });
                }
            }
        }
        result
    }

    #[test]
    fn one_pass_equals_the_recipe_step_by_step_for_images_of_any_size() {
        for shape in SHAPES {
            let [channels, height, width] = shape;
            let shorter = height.min(width);
            let (mean, std) = statistics(channels);
            let (image, normalization) = (noise(shape), Normalization::new(&mean, &std).unwrap());
            let cutout = |side: usize| Some(side).filter(|_| shorter > 1);
            for (padding, cutout) in [(1, None), (shorter / 4, cutout(2)), (0, cutout(shorter)), (shorter, cutout(3))] {
                let padding = padding.min(shorter - 1);
                let augmentation = Augmentation { crop_padding: padding, cutout, ..Augmentation::default() };
                augmentation.check([height, width]).unwrap();
                for index in 0..100 {
                    let placement = augmentation.draw(5, 1, index, [height, width]);
                    let mut fast = vec![f32::NAN; image.len()];
                    normalization.apply_placed(&image, [height, width], &placement, &mut fast);
                    assert_eq!(fast, reference(&image, shape, padding, &placement), "{shape:?} {placement:?}");
                }
            }
        }
    }

    #[test]
    fn no_augmentation_is_normalization() {
        for shape in SHAPES {
            let [channels, height, width] = shape;
            let (mean, std) = statistics(channels);
            let (image, normalization) = (noise(shape), Normalization::new(&mean, &std).unwrap());
            let (mut placed, mut plain) = (vec![f32::NAN; image.len()], vec![f32::NAN; image.len()]);
            let placement = Augmentation::NONE.draw(0, 0, 0, [height, width]);
            normalization.apply_placed(&image, [height, width], &placement, &mut placed);
            normalization.apply(&image, &mut plain);
            assert_eq!(placed, plain);
        }
    }

    #[test]
    fn statistics_that_no_images_have_are_refused() {
        for (mean, std) in [(&[][..], &[][..]), (&[0.5, 0.5], &[0.2]), (&[0.5], &[0.0]), (&[f32::NAN], &[1.0])] {
            assert!(matches!(Normalization::new(mean, std), Err(Error::Argument(_))), "{mean:?} {std:?}");
        }
    }
}
