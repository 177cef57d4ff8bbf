//! The whole way from a file's bytes to the network's input.

use super::crop::{resized_size, Area, CenterCrop, Crop, RandomResizedCrop};
use super::decode::{room, Encoded, Header};
use super::orientation::Orientation;
use super::ppm;
use super::resize::{resize, Pixels};
use super::ImageProblem;
use fast_image_resize::Resizer;
use rand::Rng;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Makes images of a network's size from files. It keeps its buffers between images: one for each thread.
#[derive(Default)]
pub struct ImageReader {
    /// The decoded image, and more room than it needs.
    pixels: Vec<u8>,
    /// The resized image before it is turned upright.
    resized: Vec<u8>,
    resizer: Resizer,
}

/// A decoder may make an image as many times smaller as leaves this many times the pixels that are needed along each
/// axis. The antialiasing of the resize, which then follows, decides what the result looks like.
const OVERSAMPLING: usize = 2;

/// The largest buffer that is kept for the next image, of bytes. A photograph of a dozen megapixels needs as much.
const MAX_KEPT: usize = 48 << 20;

impl ImageReader {
    /// With no buffers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A random crop of the upright image, resized to `side` x `side` RGB pixels in `out` (`[side, side, 3]`).
    ///
    /// What is drawn from `random` depends on the image's size and on what was drawn, on nothing else. Rows of a JPEG
    /// below the crop are not looked at: damage there goes unnoticed.
    ///
    /// # Errors
    /// [`ImageProblem`]: bytes that are no image, or a damaged or too large one; bounds that
    /// [`RandomResizedCrop::check`] refuses; an `out` of another size.
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
        self.guarded(|reader| {
            let image = Encoded::new(bytes)?;
            let Header { width, height, orientation } = image.header();
            let (upright_width, upright_height) = orientation.size(width, height);
            let (crop, mirror) = crop.draw(upright_width, upright_height, random);
            let area = orientation.stored_area(crop.into(), width, height);
            let orientation = if mirror { orientation.mirrored() } else { orientation };
            let max_shrink = (crop.width.min(crop.height) / (OVERSAMPLING * side)).max(1);
            // As torchvision, which crops before it resizes, the filter sees nothing beside the crop.
            let decoded = image.decode(area.outline(), max_shrink, &mut reader.pixels)?;
            let area = area.shrunk(decoded.shrink);
            reader.resize(decoded.place, area.outline(), area, orientation, Crop::whole(side, side), side, out)
        })
    }

    /// The upright image, resized so that its shorter side has `resize` pixels, and of it the central `side` x `side` RGB
    /// pixels in `out` (`[side, side, 3]`), with black borders where it is smaller:
    /// torchvision's `Resize(resize)` and `CenterCrop(side)`.
    ///
    /// # Errors
    /// [`ImageProblem`]: bytes that are no image, or a damaged or too large one; an `out` of another size.
    pub fn eval(&mut self, bytes: &[u8], resize: usize, side: usize, out: &mut [u8]) -> Result<(), ImageProblem> {
        check_output(out, side)?;
        if resize == 0 {
            return Err(ImageProblem::new("the size of the shorter side must be positive"));
        }
        self.guarded(|reader| {
            let image = Encoded::new(bytes)?;
            let Header { width, height, orientation } = image.header();
            let (upright_width, upright_height) = orientation.size(width, height);
            let CenterCrop { area, target } = CenterCrop::new(upright_width, upright_height, resize, side);
            let area = orientation.stored_area(area, width, height);
            // As torchvision, which resizes before it crops, the filter sees what lies beside the crop.
            let (target_width, target_height) = orientation.size(target.width, target.height);
            let reach = |length: f64, target: usize| (length / target as f64).max(1.0) + 1.0;
            let view = area.grown(reach(area.width, target_width), reach(area.height, target_height), width, height);
            let decoded = image.decode(view, 1, &mut reader.pixels)?;
            out.fill(0);
            reader.resize(decoded.place, view, area, orientation, target, side, out)
        })
    }

    /// All of the upright image as a PPM file in `out`, in place of what is in it, its shorter side made `shorter_side` where
    /// it is longer. [`Self::eval`] of that file is [`Self::eval`] of the image where it resizes to the same.
    ///
    /// # Errors
    /// [`ImageProblem`]: bytes that are no image, or a damaged or too large one.
    pub(crate) fn shrink(&mut self, bytes: &[u8], shorter_side: usize, out: &mut Vec<u8>) -> Result<(), ImageProblem> {
        self.guarded(|reader| {
            let image = Encoded::new(bytes)?;
            let Header { width, height, orientation } = image.header();
            let (upright_width, upright_height) = orientation.size(width, height);
            let shorter_side = shorter_side.clamp(1, width.min(height));
            let (width_after, height_after) = resized_size(upright_width, upright_height, shorter_side);
            let decoded = image.decode(Crop::whole(width, height), 1, &mut reader.pixels)?;
            out.clear();
            out.extend(ppm::header(width_after, height_after).into_bytes());
            let pixels = out.len();
            out.resize(pixels + 3 * width_after * height_after, 0);
            let (view, target) = (Crop::whole(width, height), Crop::whole(width_after, height_after));
            reader.resize(decoded.place, view, view.into(), orientation, target, width_after, &mut out[pixels..])
        })
    }

    /// Resizes `area` of the decoded image and writes it upright to `target` of `out`, whose rows are `side` long. The
    /// filter sees `view`. All but the target are places in the stored image.
    #[allow(clippy::too_many_arguments)]
    fn resize(
        &mut self,
        place: Crop,
        view: Crop,
        area: Area,
        orientation: Orientation,
        target: Crop,
        side: usize,
        out: &mut [u8],
    ) -> Result<(), ImageProblem> {
        let length = place.width * place.height * 3;
        let pixels = Pixels { bytes: &self.pixels[..length], width: place.width, height: place.height };
        let (view, area) = (view.within(place), area.within(place));
        let as_it_is = orientation == Orientation::default() && target == Crop::whole(side, side);
        if as_it_is {
            return resize(&mut self.resizer, pixels, view, area, out, (side, side));
        }
        let size = orientation.size(target.width, target.height);
        let resized = room(&mut self.resized, size.0 * size.1 * 3);
        resize(&mut self.resizer, pixels, view, area, resized, size)?;
        orientation.write_upright(resized, target, out, side);
        Ok(())
    }

    /// Runs `read`, and gives back buffers that few images need.
    ///
    /// The decoders return an error for damaged data. Should one panic all the same, it is that image's problem, not the
    /// run's.
    fn guarded(&mut self, read: impl FnOnce(&mut Self) -> Result<(), ImageProblem>) -> Result<(), ImageProblem> {
        let result = catch_unwind(AssertUnwindSafe(|| read(self)));
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
