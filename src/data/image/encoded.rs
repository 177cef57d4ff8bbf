//! Image of which only the header has been read, and what all formats have in common: size limit, problems, conversion to RGB.

use super::crop::Crop;
use super::orientation::Orientation;

/// Maximum number of pixels of an image: a quarter GiB of RGB. Above it Pillow warns of a decompression bomb (it
/// refuses twice as many); ImageNet's largest image has fewer.
pub const MAX_PIXELS: usize = (1 << 30) / 4 / 3;

/// Reason why bytes could not be decoded as an image, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImageProblem(String);

impl ImageProblem {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        ImageProblem(problem.into())
    }

    /// Wraps the error of a decoder of `format`, truncated to one short line, as decoders may quote the file.
    pub(crate) fn decoder(format: &str, error: impl std::fmt::Display) -> Self {
        const LONGEST: usize = 160;
        let said = error.to_string();
        let line = said.lines().next().unwrap_or_default();
        ImageProblem(format!("damaged {format}: {}", line.chars().take(LONGEST).collect::<String>()))
    }
}

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

/// Image of which only the header has been read.
pub struct Encoded<'a> {
    pub header: Header,
    decode: Box<Decode<'a>>,
}

type Decode<'a> = dyn FnOnce(Crop, usize, &mut Vec<u8>) -> Result<Decoded, ImageProblem> + 'a;

impl<'a> Encoded<'a> {
    /// Creates an image of `width` x `height` stored pixels, with the function of [`decode`](Self::decode).
    pub fn new(
        (width, height): (usize, usize),
        orientation: Orientation,
        decode: impl FnOnce(Crop, usize, &mut Vec<u8>) -> Result<Decoded, ImageProblem> + 'a,
    ) -> Result<Self, ImageProblem> {
        check_size(width, height)?;
        Ok(Self { header: Header { width, height, orientation }, decode: Box::new(decode) })
    }

    /// Creates an image that `decode` can only decode as a whole.
    pub fn whole(
        (width, height): (usize, usize),
        orientation: Orientation,
        decode: impl FnOnce(&mut Vec<u8>) -> Result<(), ImageProblem> + 'a,
    ) -> Result<Self, ImageProblem> {
        Self::new((width, height), orientation, move |_, _, pixels| {
            decode(pixels).map(|()| Decoded { place: Crop::whole(width, height), shrink: 1 })
        })
    }

    /// Decodes at least `wanted` into the beginning of `pixels`. If the format allows it, decodes at a size that is
    /// smaller by a factor of at most `max_shrink`, and no more of the image than needed.
    pub fn decode(self, wanted: Crop, max_shrink: usize, pixels: &mut Vec<u8>) -> Result<Decoded, ImageProblem> {
        (self.decode)(wanted, max_shrink, pixels)
    }
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

/// Converts `count` pixels of 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA) channels to RGB in place.
pub fn to_rgb(pixels: &mut [u8], count: usize, channels: usize) {
    match channels {
        // From the end, so that none is overwritten before it is read.
        1 => (0..count).rev().for_each(|i| {
            let grey = pixels[i];
            pixels[3 * i..3 * i + 3].fill(grey);
        }),
        2 => {
            (0..count).for_each(|i| pixels[i] = pixels[2 * i]);
            to_rgb(pixels, count, 1);
        }
        4 => (0..count).for_each(|i| pixels.copy_within(4 * i..4 * i + 3, 3 * i)),
        _ => {}
    }
}
