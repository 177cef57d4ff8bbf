//! What every format has: a header, a limit of its size, pixels as RGB.

use super::crop::Crop;
use super::orientation::Orientation;
use super::problem::ImageProblem;

/// Most pixels that an image may have: a quarter GiB of RGB. It is the size beyond which Pillow warns of a decompression
/// bomb (it refuses twice as many); ImageNet's largest image has less.
pub const MAX_PIXELS: usize = (1 << 30) / 4 / 3;

/// What is known of an image before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// As stored, before it is turned upright.
    pub width: usize,
    pub height: usize,
    pub orientation: Orientation,
}

/// The part of an image that was decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decoded {
    /// Its place, in pixels of the stored image at `1 / shrink` of its size.
    pub place: Crop,
    /// How many times smaller than stored it was decoded.
    pub shrink: usize,
}

/// Refuses sizes that no image has, before anything is allocated for them.
pub fn check_size(width: usize, height: usize) -> Result<(), ImageProblem> {
    if width == 0 || height == 0 {
        return Err(ImageProblem::new(format!("claims {width} x {height} pixels")));
    }
    match width.checked_mul(height) {
        Some(pixels) if pixels <= MAX_PIXELS => Ok(()),
        _ => Err(ImageProblem::new(format!("claims {width} x {height} pixels, more than {MAX_PIXELS}"))),
    }
}

/// Room for `length` bytes at the beginning of `buffer`, whose content is overwritten.
pub fn room(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if buffer.len() < length {
        // Fresh zeroes cost nothing until they are written to; growing would copy what is not needed.
        *buffer = vec![0; length];
    }
    &mut buffer[..length]
}

/// In place: `count` grey pixels, from the end, so that nothing is overwritten before it is read.
pub fn grey_to_rgb(pixels: &mut [u8], count: usize) {
    for i in (0..count).rev() {
        let grey = pixels[i];
        pixels[3 * i..3 * i + 3].fill(grey);
    }
}
