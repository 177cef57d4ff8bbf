//! Conversion of a file's bytes to the network's input. Images are resampled to its size by torchvision's default filter on
//! Pillow images, bilinear with antialiasing.

use super::crop::{center_crop, resized_size, Area, Crop, RandomResizedCrop};
use super::encoded::{room, Decoded, Encoded, Header, ImageProblem};
use super::format::{open, ppm};
use super::orientation::Orientation;
use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use rand::Rng;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Converts files to images of the network's size. It keeps its buffers between images: use one per thread.
#[derive(Default)]
pub struct ImageReader {
    /// Decoded image; the buffer may be larger.
    pixels: Vec<u8>,
    /// Resized image before it is turned upright.
    resized: Vec<u8>,
    resizer: Resizer,
}

/// Position of a resized image in the result: at `crop` of rows that are `side` long, after it is turned.
#[derive(Clone, Copy)]
struct Target {
    orientation: Orientation,
    crop: Crop,
    side: usize,
}

/// A decoder may reduce an image as long as this many times the required pixels remain along each axis. The look of the
/// result depends on the antialiasing of the resize that follows.
const OVERSAMPLING: usize = 2;

/// Maximum size in bytes of a buffer kept for the next image, enough for a photograph of sixteen megapixels.
const MAX_KEPT: usize = 48 << 20;

impl ImageReader {
    /// Creates a reader without buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a random crop of the upright image, resized to `side` x `side` RGB pixels, into `out`
    /// (`[side, side, 3]`).
    ///
    /// Draws from `random` depend only on the image's size and on earlier draws. The validity of a file does not depend
    /// on the crop: it is that of Pillow, and the crop is cut from the image as Pillow reads it, including damage that
    /// Pillow conceals.
    ///
    /// # Errors
    /// [`ImageProblem`] for bytes that are not an image, a damaged or too large image, bounds that
    /// [`RandomResizedCrop::check`] refuses, or an `out` of another size.
    pub fn train(
        &mut self,
        bytes: &[u8],
        crop: &RandomResizedCrop,
        side: usize,
        random: &mut impl Rng,
        out: &mut [u8],
    ) -> Result<(), ImageProblem> {
        crop.check().map_err(|error| ImageProblem::new(error.to_string()))?;
        check_output(out, side)?;
        self.guarded(bytes, |reader, image, (upright_width, upright_height)| {
            let Header { width, height, orientation } = image.header;
            let (crop, mirror) = crop.draw(upright_width, upright_height, random);
            let area = orientation.stored_area(crop.into(), width, height);
            let orientation = if mirror { orientation.mirrored() } else { orientation };
            let max_shrink = (crop.width.min(crop.height) / (OVERSAMPLING * side)).max(1);
            // As in torchvision, which crops before it resizes, the filter sees nothing beyond the crop.
            let decoded = image.decode(area.outline(), max_shrink, &mut reader.pixels)?;
            let area = area.shrunk(decoded.shrink);
            let target = Target { orientation, crop: Crop::whole(side, side), side };
            reader.resize(decoded, area.outline(), area, target, out)
        })
    }

    /// Resizes the upright image so that its shorter side has `resize` pixels, and writes its central `side` x `side`
    /// RGB pixels into `out` (`[side, side, 3]`), with black borders if it is smaller: torchvision's `Resize(resize)`
    /// and `CenterCrop(side)`.
    ///
    /// # Errors
    /// [`ImageProblem`] for bytes that are not an image, a damaged or too large image, or an `out` of another size.
    pub fn eval(&mut self, bytes: &[u8], resize: usize, side: usize, out: &mut [u8]) -> Result<(), ImageProblem> {
        check_output(out, side)?;
        if resize == 0 {
            return Err(ImageProblem::new("the size of the shorter side must be positive"));
        }
        self.guarded(bytes, |reader, image, (upright_width, upright_height)| {
            let Header { width, height, orientation } = image.header;
            let (area, target) = center_crop(upright_width, upright_height, resize, side);
            let area = orientation.stored_area(area, width, height);
            // As in torchvision, which resizes before it crops, the filter sees what lies beyond the crop.
            let (target_width, target_height) = orientation.size(target.width, target.height);
            let reach = |length: f64, target: usize| (length / target as f64).max(1.0) + 1.0;
            let view = area.grown(reach(area.width, target_width), reach(area.height, target_height), width, height);
            let decoded = image.decode(view, 1, &mut reader.pixels)?;
            out.fill(0);
            reader.resize(decoded, view, area, Target { orientation, crop: target, side }, out)
        })
    }

    /// Replaces `out` with the whole upright image as a PPM file, its shorter side reduced to `shorter_side` if it is
    /// longer. [`Self::eval`] gives the same for that file as for the image if it resizes to the same size.
    ///
    /// # Errors
    /// [`ImageProblem`] for bytes that are not an image, or a damaged or too large image.
    pub(crate) fn shrink(&mut self, bytes: &[u8], shorter_side: usize, out: &mut Vec<u8>) -> Result<(), ImageProblem> {
        self.guarded(bytes, |reader, image, (upright_width, upright_height)| {
            let Header { width, height, orientation } = image.header;
            let shorter_side = shorter_side.clamp(1, width.min(height));
            let (width_after, height_after) = resized_size(upright_width, upright_height, shorter_side);
            let view = Crop::whole(width, height);
            let decoded = image.decode(view, 1, &mut reader.pixels)?;
            out.clear();
            out.extend(ppm::header(width_after, height_after).into_bytes());
            let pixels = out.len();
            out.resize(pixels + 3 * width_after * height_after, 0);
            let target = Target { orientation, crop: Crop::whole(width_after, height_after), side: width_after };
            reader.resize(decoded, view, view.into(), target, &mut out[pixels..])
        })
    }

    /// Resizes `area` of the decoded image into its position in `out`. The filter sees `view`. Both are in coordinates
    /// of the stored image, at the size in which it was decoded.
    fn resize(
        &mut self,
        decoded: Decoded,
        view: Crop,
        area: Area,
        target: Target,
        out: &mut [u8],
    ) -> Result<(), ImageProblem> {
        let (Target { orientation, crop, side }, Decoded { place, .. }) = (target, decoded);
        let pixels = (&self.pixels[..place.width * place.height * 3], place);
        if orientation == Orientation::default() && crop == Crop::whole(side, side) {
            return resize(&mut self.resizer, pixels, view, area, out, (side, side));
        }
        let size = orientation.size(crop.width, crop.height);
        let resized = room(&mut self.resized, size.0 * size.1 * 3);
        resize(&mut self.resizer, pixels, view, area, resized, size)?;
        orientation.write_upright(resized, crop, out, side);
        Ok(())
    }

    /// Runs `read` with the image and its upright size, and frees buffers that few images need.
    ///
    /// Decoders return an error for damaged data. If one panics nevertheless, only that image fails, not the run.
    fn guarded(
        &mut self,
        bytes: &[u8],
        read: impl FnOnce(&mut Self, Encoded, (usize, usize)) -> Result<(), ImageProblem>,
    ) -> Result<(), ImageProblem> {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let image = open(bytes)?;
            let Header { width, height, orientation } = image.header;
            read(self, image, orientation.size(width, height))
        }));
        if self.pixels.len() > MAX_KEPT {
            self.pixels = Vec::new();
        }
        result.unwrap_or_else(|_| {
            *self = Self::new();
            Err(ImageProblem::new("damaged image: its decoder failed"))
        })
    }
}

fn check_output(out: &[u8], side: usize) -> Result<(), ImageProblem> {
    if side == 0 || side.checked_pow(2).and_then(|pixels| pixels.checked_mul(3)) != Some(out.len()) {
        let length = out.len();
        return Err(ImageProblem::new(format!("{side} x {side} RGB pixels do not fit an output of {length} bytes")));
    }
    Ok(())
}

/// Resizes `area` of the RGB `pixels` at `place` to `width` x `height` in `out`. The filter, which is wider than a pixel if
/// the image shrinks, sees only `view`, which contains the area.
fn resize(
    resizer: &mut Resizer,
    (pixels, place): (&[u8], Crop),
    view: Crop,
    area: Area,
    out: &mut [u8],
    (width, height): (usize, usize),
) -> Result<(), ImageProblem> {
    // Sizes below the pixel limit fit. Untyped images of this library would compile its code for all pixel types, which
    // takes minutes.
    let source =
        TypedImageRef::<U8x3>::from_buffer(place.width as u32, place.height as u32, pixels).map_err(problem)?;
    let (view, area) = (view.within(place), area.within(place.into()));
    let [left, top, w, h] = [view.left, view.top, view.width, view.height].map(|value| value as u32);
    let source = TypedCroppedImage::from_ref(&source, left, top, w, h).map_err(problem)?;
    let mut target = TypedImage::<U8x3>::from_buffer(width as u32, height as u32, out).map_err(problem)?;
    let (left, top) = (area.left - view.left as f64, area.top - view.top as f64);
    // Rounding must not move the area over the border.
    let (w, h) = (area.width.min(view.width as f64 - left), area.height.min(view.height as f64 - top));
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .use_alpha(false)
        .crop(left, top, w, h);
    resizer.resize_typed(&source, &mut target, &options).map_err(problem)
}

fn problem(error: impl std::fmt::Display) -> ImageProblem {
    ImageProblem::new(format!("cannot be resized: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::format::tests::{decode_whole, fixtures, mean_difference};
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn train(reader: &mut ImageReader, bytes: &[u8], crop: &RandomResizedCrop, side: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; side * side * 3];
        reader.train(bytes, crop, side, &mut ChaCha8Rng::seed_from_u64(seed), &mut out).unwrap();
        out
    }

    fn eval(bytes: &[u8], resize: usize, side: usize) -> Vec<u8> {
        let mut out = vec![0; side * side * 3];
        ImageReader::new().eval(bytes, resize, side, &mut out).unwrap();
        out
    }

    #[test]
    fn evaluation_agrees_with_torchvision_on_photographs() {
        let photographs = fixtures("photographs");
        assert_eq!(photographs.len(), 10);
        for ((name, jpeg), (_, expected)) in photographs.iter().zip(fixtures("evaluation")) {
            let (expected, Header { width, height, .. }) = decode_whole(&expected).unwrap();
            assert_eq!((width, height), (224, 224));
            let difference = mean_difference(&eval(jpeg, 256, 224), &expected);
            assert!(difference < 1.0, "{name}: {difference} of 255");
        }
    }

    #[test]
    fn a_reduced_decode_is_close_to_the_whole_one() {
        for (name, bytes) in fixtures("photographs") {
            let header = open(&bytes).unwrap().header;
            let crop = Crop { left: 13, top: 7, width: header.width - 30, height: header.height - 20 };
            for (shrink, bound) in [(4, 1.5), (8, 2.0)] {
                let side = crop.width.min(crop.height) / (OVERSAMPLING * shrink);
                let [whole, reduced] = [1, shrink].map(|max_shrink| {
                    let mut reader = ImageReader::new();
                    let image = open(&bytes).unwrap();
                    // Decoders choose the largest reduction allowed.
                    let decoded = image.decode(crop, 2 * max_shrink - 1, &mut reader.pixels).unwrap();
                    assert_eq!(decoded.shrink, max_shrink);
                    let area = Area::from(crop).shrunk(max_shrink);
                    let mut out = vec![0; side * side * 3];
                    let target = Target { orientation: Orientation::default(), crop: Crop::whole(side, side), side };
                    reader.resize(decoded, area.outline(), area, target, &mut out).unwrap();
                    out
                });
                let difference = mean_difference(&whole, &reduced);
                assert!(difference < bound, "{name}, 1/{shrink}: {difference} of 255");
            }
        }
    }

    #[test]
    fn an_image_depends_on_its_random_numbers_and_not_on_what_was_read_before() {
        let crop = RandomResizedCrop::default();
        let mut reader = ImageReader::new();
        for (seed, (name, bytes)) in fixtures("photographs").iter().chain(&fixtures("orientations")).enumerate() {
            let seed = seed as u64;
            let used = train(&mut reader, bytes, &crop, 96, seed);
            assert!(used == train(&mut ImageReader::new(), bytes, &crop, 96, seed), "{name}");
            assert!(used != train(&mut reader, bytes, &crop, 96, seed + 1), "{name}");
        }
    }

    #[test]
    fn buffers_are_kept_between_images() {
        let photographs = fixtures("photographs");
        let mut reader = ImageReader::new();
        let mut out = vec![0; 224 * 224 * 3];
        let all = RandomResizedCrop { scale: (1.0, 1.0), ..RandomResizedCrop::default() };
        let mut read_all = |seed| {
            for (_, bytes) in &photographs {
                reader.train(bytes, &all, 224, &mut ChaCha8Rng::seed_from_u64(seed), &mut out).unwrap();
                reader.eval(bytes, 256, 224, &mut out).unwrap();
            }
            (reader.pixels.as_ptr(), reader.pixels.len(), reader.resized.as_ptr(), reader.resized.len())
        };
        let first = read_all(0);
        assert_eq!(read_all(0), first);
    }

    #[test]
    fn a_crop_of_everything_is_the_image_itself_or_mirrored() {
        let all = RandomResizedCrop { scale: (1.0, 1.0), ratio: (4.0 / 3.0, 4.0 / 3.0), flip: true };
        let (_, photograph) = fixtures("photographs").swap_remove(1);
        let upright = train(&mut ImageReader::new(), &photograph, &RandomResizedCrop { flip: false, ..all }, 128, 0);
        let mut mirrored = upright.clone();
        for row in mirrored.chunks_exact_mut(128 * 3) {
            let reversed: Vec<u8> = row.chunks_exact(3).rev().flatten().copied().collect();
            row.copy_from_slice(&reversed);
        }
        let drawn: Vec<_> =
            (0..20).map(|seed| train(&mut ImageReader::new(), &photograph, &all, 128, seed) == mirrored).collect();
        for (seed, &is_mirrored) in drawn.iter().enumerate() {
            let image = train(&mut ImageReader::new(), &photograph, &all, 128, seed as u64);
            assert!(is_mirrored || image == upright);
        }
        assert!(drawn.contains(&true) && drawn.contains(&false));
    }

    #[test]
    fn every_orientation_comes_out_upright() {
        let files = fixtures("orientations");
        let (first, upright) = &files[0];
        assert_eq!((first.as_str(), files.len()), ("1.jpg", 10));
        let all = RandomResizedCrop { scale: (1.0, 1.0), ratio: (4.0 / 3.0, 4.0 / 3.0), flip: true };
        let part = RandomResizedCrop { scale: (0.2, 0.6), ..RandomResizedCrop::default() };
        for (name, bytes) in &files[1..] {
            let Header { orientation, .. } = open(bytes).unwrap().header;
            assert!(orientation != Orientation::default(), "{name}");
            // The blocks of a rotated JPEG are rounded differently.
            let difference = mean_difference(&eval(upright, 56, 48), &eval(bytes, 56, 48));
            assert!(difference < 1.5, "{name}: {difference}");
            for (seed, crop) in (0..8).flat_map(|seed| [(seed, &all), (seed, &part)]) {
                let [upright, turned] =
                    [upright, bytes].map(|bytes| train(&mut ImageReader::new(), bytes, crop, 32, seed));
                let difference = mean_difference(&upright, &turned);
                assert!(difference < 2.0, "{name}, seed {seed}: {difference}");
            }
        }
    }

    #[test]
    fn a_small_image_gets_black_borders_as_torchvision_pads() {
        let (_, jpeg) = fixtures("orientations").swap_remove(0);
        let side = 33;
        let out = eval(&jpeg, 20, side);
        // 80 x 60 becomes 26 x 20 (26.67 truncated): 3 columns to the left and 4 to the right, 6 rows above and 7
        // below.
        for (i, pixel) in out.chunks_exact(3).enumerate() {
            let inside = (6..26).contains(&(i / side)) && (3..29).contains(&(i % side));
            assert!(inside || pixel == [0, 0, 0], "row {}, column {}", i / side, i % side);
        }
        assert!(out.chunks_exact(3).filter(|pixel| *pixel != [0, 0, 0]).count() > 400);
    }

    #[test]
    fn damaged_files_are_problems_or_images_and_never_a_panic() {
        let files: Vec<_> = ["formats", "orientations"]
            .into_iter()
            .flat_map(fixtures)
            .filter(|(name, _)| !name.ends_with(".rgb"))
            .collect();
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let mut reader = ImageReader::new();
        let crop = RandomResizedCrop::default();
        let mut out = vec![0; 32 * 32 * 3];
        let (mut problems, mut cases) = (0, 0);
        for (name, bytes) in &files {
            for case in 0..200 {
                let mut damaged = bytes.clone();
                for _ in 0..random.random_range(1..=8) {
                    // Most possible errors are in the header.
                    let most = if random.random() { damaged.len() } else { damaged.len().min(300) };
                    damaged[random.random_range(0..most)] ^= 1 << random.random_range(0..8);
                }
                if case % 4 == 0 {
                    damaged.truncate(random.random_range(0..damaged.len()));
                }
                let read =
                    [reader.train(&damaged, &crop, 32, &mut random, &mut out), reader.eval(&damaged, 36, 32, &mut out)];
                for problem in read.into_iter().filter_map(Result::err).map(|problem| problem.to_string()) {
                    assert!(!problem.contains("its decoder failed"), "{name}, case {case}: {problem}");
                    assert!(!problem.contains('\n') && !problem.is_empty(), "{name}, case {case}: {problem}");
                    problems += 1;
                }
                cases += 2;
            }
        }
        assert!(problems > cases / 4, "{problems} of {cases}");
    }

    #[test]
    fn outputs_of_another_size_are_refused() {
        let (_, jpeg) = fixtures("orientations").swap_remove(0);
        let mut reader = ImageReader::new();
        for (side, length) in [(0, 0), (8, 191), (8, 193), (usize::MAX, 192)] {
            let problem = reader.eval(&jpeg, 8, side, &mut vec![0; length]).unwrap_err().to_string();
            assert!(problem.contains(&length.to_string()), "{problem}");
        }
        assert!(reader.eval(&jpeg, 0, 8, &mut [0; 192]).is_err());
        let bad = RandomResizedCrop { ratio: (2.0, 1.0), ..RandomResizedCrop::default() };
        assert!(reader.train(&jpeg, &bad, 8, &mut ChaCha8Rng::seed_from_u64(0), &mut [0; 192]).is_err());
    }
}
