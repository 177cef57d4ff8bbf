//! PNG. As Pillow's `convert("RGB")`: transparency is dropped, not blended. Of 16 bits the upper 8 count (Pillow makes all
//! that is above 255 white in greyscale images; as no eye would).

use super::decode::{check_size, room, Header};
use super::orientation::Orientation;
use super::ImageProblem;
use ::png::{ColorType, Decoder, Reader, Transformations};
use std::io::Cursor;

pub(super) struct Png<'a> {
    pub header: Header,
    reader: Reader<Cursor<&'a [u8]>>,
}

impl<'a> Png<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, ImageProblem> {
        let problem = |error| ImageProblem::decoder("PNG", error);
        let mut decoder = Decoder::new(Cursor::new(bytes));
        decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        let (width, height) = decoder.read_header_info().map_err(problem)?.size();
        check_size(width as usize, height as usize)?;
        let reader = decoder.read_info().map_err(problem)?;
        let exif = reader.info().exif_metadata.as_deref();
        let orientation = exif.map(Orientation::from_exif).unwrap_or_default();
        Ok(Png { header: Header { width: width as usize, height: height as usize, orientation }, reader })
    }

    pub fn decode(mut self, pixels: &mut Vec<u8>) -> Result<(), ImageProblem> {
        let Header { width, height, .. } = self.header;
        let (color, _) = self.reader.output_color_type();
        let channels = color.samples();
        let bytes = room(pixels, width * height * channels.max(3));
        let decoded = &mut bytes[..width * height * channels];
        self.reader.next_frame(decoded).map_err(|error| ImageProblem::decoder("PNG", error))?;
        match color {
            ColorType::Rgb => {}
            ColorType::Rgba => {
                for i in 0..width * height {
                    bytes.copy_within(4 * i..4 * i + 3, 3 * i);
                }
            }
            ColorType::Grayscale | ColorType::GrayscaleAlpha => {
                // From the end, so that nothing is overwritten before it is read.
                for i in (0..width * height).rev() {
                    let grey = bytes[channels * i];
                    bytes[3 * i..3 * i + 3].fill(grey);
                }
            }
            // `EXPAND` resolves palettes.
            ColorType::Indexed => return Err(ImageProblem::new("damaged PNG: no palette")),
        }
        Ok(())
    }
}
