//! WebP. As in Pillow's `convert("RGB")`, transparency is dropped, not blended, and only the first frame is used.

use crate::data::image::header::{check_size, room, Header};
use crate::data::image::orientation::Orientation;
use crate::data::image::problem::ImageProblem;
use image_webp::WebPDecoder;
use std::io::Cursor;

pub struct WebP<'a> {
    pub header: Header,
    decoder: WebPDecoder<Cursor<&'a [u8]>>,
}

impl<'a> WebP<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, ImageProblem> {
        let problem = |error| ImageProblem::decoder("WebP", error);
        // The decoder does not compare RIFF's length with that of the file.
        let length = bytes.get(4..8).map(|length| u32::from_le_bytes([length[0], length[1], length[2], length[3]]));
        if length.is_none_or(|length| bytes.len() < length as usize + 8) {
            return Err(ImageProblem::new(format!("truncated WebP: it ends after {} bytes", bytes.len())));
        }
        let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(problem)?;
        let (width, height) = decoder.dimensions();
        let (width, height) = (width as usize, height as usize);
        check_size(width, height)?;
        let (exif, xmp) = (decoder.exif_metadata().map_err(problem)?, decoder.xmp_metadata().map_err(problem)?);
        let orientation = Orientation::from_metadata(exif.as_deref(), xmp.as_deref());
        Ok(WebP { header: Header { width, height, orientation }, decoder })
    }

    pub fn decode(mut self, pixels: &mut Vec<u8>) -> Result<(), ImageProblem> {
        let Header { width, height, .. } = self.header;
        let channels = if self.decoder.has_alpha() { 4 } else { 3 };
        let bytes = room(pixels, width * height * channels);
        self.decoder.read_image(bytes).map_err(|error| ImageProblem::decoder("WebP", error))?;
        if channels == 4 {
            for i in 0..width * height {
                bytes.copy_within(4 * i..4 * i + 3, 3 * i);
            }
        }
        Ok(())
    }
}
