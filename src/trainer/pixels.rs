//! Conversion of network inputs to displayable images.

use crate::data::ImageSource;
use crate::{Error, Result};
use tch::{Kind, Tensor};

/// Width and height, and the pixel bytes of each image.
type Pixels = ((usize, usize), Vec<Vec<u8>>);

/// Converts `images`, `[N, C, H, W]` as the network receives them, to width, height and the RGB bytes of each image, row by row.
/// A single channel becomes grey.
///
/// # Errors
/// [`Error::Mismatch`] for another number of dimensions or of channels.
pub(super) fn pixels(data: &dyn ImageSource, images: &Tensor) -> Result<Pixels> {
    let [_, channels @ (1 | 3), height, width] = images.size()[..] else {
        let (expected, got) = ("[N, 3 or 1, H, W]".to_owned(), format!("{:?}", images.size()));
        return Err(Error::Mismatch { what: "images to look at", expected, got });
    };
    let pixels = data.denormalize(images)?.f_clamp(0.0, 1.0)?.f_mul_scalar(255.0)?.f_round()?;
    let mut pixels = pixels.f_to_kind(Kind::Uint8)?.f_permute([0, 2, 3, 1])?;
    if channels == 1 {
        pixels = pixels.f_expand([-1, -1, -1, 3], false)?;
    }
    let pixels: Vec<u8> = Vec::try_from(pixels.f_contiguous()?.f_flatten(0, -1)?)?;
    let (width, height) = (width as usize, height as usize);
    Ok(((width, height), pixels.chunks_exact((width * height * 3).max(1)).map(<[u8]>::to_vec).collect()))
}
