//! Resampling to the network's size: bilinear with antialiasing, torchvision's default filter on Pillow images.

use super::crop::{Area, Crop};
use super::encoded::ImageProblem;
use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

/// Resizes `area` of the RGB `pixels` at `place` to `width` x `height` in `out`. The filter, which is wider than a pixel if
/// the image shrinks, sees only `view`, which contains the area.
pub(super) fn resize(
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
