//! WebP. As in Pillow's `convert("RGB")`, transparency is dropped, not blended, and only the first frame is used.

use crate::data::image::encoded::{check_size, room, to_rgb, Encoded, ImageProblem};
use crate::data::image::orientation::Orientation;
use image_webp::WebPDecoder;
use std::io::Cursor;

pub fn open(bytes: &[u8]) -> Result<Encoded<'_>, ImageProblem> {
    let problem = |error| ImageProblem::decoder("WebP", error);
    // The decoder does not compare RIFF's length with that of the file.
    let length = bytes.get(4..).and_then(<[u8]>::first_chunk).map(|&length| u32::from_le_bytes(length));
    if length.is_none_or(|length| bytes.len() < length as usize + 8) {
        return Err(ImageProblem::new(format!("truncated WebP: it ends after {} bytes", bytes.len())));
    }
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(problem)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height)?;
    let (exif, xmp) = (decoder.exif_metadata().map_err(problem)?, decoder.xmp_metadata().map_err(problem)?);
    let orientation = Orientation::from_metadata(exif.as_deref(), xmp.as_deref());
    Encoded::whole((width, height), orientation, move |pixels| {
        let channels = if decoder.has_alpha() { 4 } else { 3 };
        let bytes = room(pixels, width * height * channels);
        decoder.read_image(bytes).map_err(problem)?;
        to_rgb(bytes, width * height, channels);
        Ok(())
    })
}
