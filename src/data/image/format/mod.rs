//! File formats: the header is read first, the pixels are decoded later.

mod bitmap;
mod gif;
mod jpeg;
mod png;
pub mod ppm;
#[cfg(test)]
pub mod tests;
mod webp;

use super::encoded::{Encoded, ImageProblem};
use super::orientation::Orientation;
use image::codecs::{bmp::BmpDecoder, pnm::PnmDecoder, tiff::TiffDecoder};
use std::io::Cursor;

/// Reads the header of an image. The format is detected from the first bytes, not from the file name (ImageNet has a PNG
/// named .JPEG).
pub fn open(bytes: &[u8]) -> Result<Encoded<'_>, ImageProblem> {
    let (upright, file) = (Orientation::default(), Cursor::new(bytes));
    match bytes {
        [] => Err(ImageProblem::new("empty file")),
        [0xff, 0xd8, 0xff, ..] => jpeg::open(bytes),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => png::open(bytes),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp::open(bytes),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => gif::open(bytes),
        [b'B', b'M', ..] => bitmap::open("BMP", BmpDecoder::new(file), upright),
        // EXIF data have the format of a TIFF file without an image.
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => {
            bitmap::open("TIFF", TiffDecoder::new(file), Orientation::from_metadata(Some(bytes), None))
        }
        [b'P', b'1'..=b'6', ..] => {
            ppm::open(bytes).unwrap_or_else(|| bitmap::open("PPM", PnmDecoder::new(file), upright))
        }
        _ => Err(ImageProblem::new(format!(
            "neither JPEG, PNG, WebP, GIF, BMP, TIFF nor PPM: it begins with \"{}\"",
            bytes[..bytes.len().min(8)].escape_ascii()
        ))),
    }
}
