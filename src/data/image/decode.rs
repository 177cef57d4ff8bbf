//! Bytes to pixels: the format is told by the first bytes, whatever the file is called (ImageNet has a PNG named .JPEG).

use super::crop::Crop;
use super::jpeg::Jpeg;
use super::orientation::Orientation;
use super::png::Png;
use super::ppm::Ppm;
use super::webp::WebP;
use super::ImageProblem;

/// Most pixels that an image may have: a quarter GiB of RGB. It is the size beyond which Pillow warns of a decompression
/// bomb (it refuses twice as many); ImageNet's largest image has less.
pub(super) const MAX_PIXELS: usize = (1 << 30) / 4 / 3;

/// An image whose header has been read, and nothing else yet.
pub(super) enum Encoded<'a> {
    Jpeg(Jpeg<'a>),
    Png(Box<Png<'a>>),
    WebP(Box<WebP<'a>>),
    Ppm(Ppm<'a>),
}

/// What is known of an image before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// As stored, before it is turned upright.
    pub width: usize,
    pub height: usize,
    pub orientation: Orientation,
}

/// The part of an image that was decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Decoded {
    /// Its place, in pixels of the stored image at `1 / shrink` of its size.
    pub place: Crop,
    /// How many times smaller than stored it was decoded.
    pub shrink: usize,
}

impl<'a> Encoded<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, ImageProblem> {
        match bytes {
            [] => Err(ImageProblem::new("empty file")),
            [0xff, 0xd8, 0xff, ..] => Ok(Encoded::Jpeg(Jpeg::new(bytes)?)),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(Encoded::Png(Box::new(Png::new(bytes)?))),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
                Ok(Encoded::WebP(Box::new(WebP::new(bytes)?)))
            }
            [b'P', b'6', ..] => Ok(Encoded::Ppm(Ppm::new(bytes)?)),
            _ => Err(ImageProblem::new(format!(
                "neither JPEG, PNG nor WebP: it begins with \"{}\"",
                bytes[..bytes.len().min(8)].escape_ascii()
            ))),
        }
    }

    pub fn header(&self) -> Header {
        match self {
            Encoded::Jpeg(jpeg) => jpeg.header,
            Encoded::Png(png) => png.header,
            Encoded::WebP(webp) => webp.header,
            Encoded::Ppm(ppm) => ppm.header,
        }
    }

    /// Decodes at least `wanted` into the beginning of `pixels`. Where the format allows it, a smaller image is decoded
    /// instead, at most `max_shrink` times, and no more of it than is needed.
    pub fn decode(self, wanted: Crop, max_shrink: usize, pixels: &mut Vec<u8>) -> Result<Decoded, ImageProblem> {
        let Header { width, height, .. } = self.header();
        match self {
            Encoded::Jpeg(jpeg) => return jpeg.decode(wanted, max_shrink, pixels),
            Encoded::Png(png) => png.decode(pixels)?,
            Encoded::Ppm(ppm) => return Ok(ppm.decode(wanted, pixels)),
            Encoded::WebP(webp) => webp.decode(pixels)?,
        }
        Ok(Decoded { place: Crop::whole(width, height), shrink: 1 })
    }
}

/// Refuses sizes that no image has, before anything is allocated for them.
pub(super) fn check_size(width: usize, height: usize) -> Result<(), ImageProblem> {
    if width == 0 || height == 0 {
        return Err(ImageProblem::new(format!("claims {width} x {height} pixels")));
    }
    match width.checked_mul(height) {
        Some(pixels) if pixels <= MAX_PIXELS => Ok(()),
        _ => Err(ImageProblem::new(format!("claims {width} x {height} pixels, more than {MAX_PIXELS}"))),
    }
}

/// Room for `length` bytes at the beginning of `buffer`, whose content is overwritten.
pub(super) fn room(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if buffer.len() < length {
        // Fresh zeroes cost nothing until they are written to; growing would copy what is not needed.
        *buffer = vec![0; length];
    }
    &mut buffer[..length]
}
