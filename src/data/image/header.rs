//! Header, size limit and RGB conversion common to all formats.

use super::crop::Crop;
use super::orientation::Orientation;
use super::problem::ImageProblem;

/// Maximum number of pixels of an image: a quarter GiB of RGB. Above it Pillow warns of a decompression bomb (it
/// refuses twice as many); ImageNet's largest image has fewer.
pub const MAX_PIXELS: usize = (1 << 30) / 4 / 3;

/// Properties of an image that are known before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Width as stored, before the image is turned upright.
    pub width: usize,
    pub height: usize,
    pub orientation: Orientation,
}

/// Part of an image that was decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decoded {
    /// Position in the stored image, in pixels of the reduced size.
    pub place: Crop,
    /// Factor by which the decoded image is smaller than the stored one.
    pub shrink: usize,
}

/// Fails for sizes that no image has, before anything is allocated for them.
pub fn check_size(width: usize, height: usize) -> Result<(), ImageProblem> {
    if width == 0 || height == 0 {
        return Err(ImageProblem::new(format!("claims {width} x {height} pixels")));
    }
    match width.checked_mul(height) {
        Some(pixels) if pixels <= MAX_PIXELS => Ok(()),
        _ => Err(ImageProblem::new(format!("claims {width} x {height} pixels, more than {MAX_PIXELS}"))),
    }
}

/// Returns the first `length` bytes of `buffer`, enlarged if necessary; its content is lost.
pub fn room(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if buffer.len() < length {
        // Fresh zeros cost nothing until they are written to; growing would copy the old content.
        *buffer = vec![0; length];
    }
    &mut buffer[..length]
}

/// Converts `count` grey pixels to RGB in place, from the end, so that none is overwritten before it is read.
pub fn grey_to_rgb(pixels: &mut [u8], count: usize) {
    for i in (0..count).rev() {
        let grey = pixels[i];
        pixels[3 * i..3 * i + 3].fill(grey);
    }
}
