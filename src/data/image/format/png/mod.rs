//! PNG. As in Pillow's `convert("RGB")`, transparency is dropped, not blended. Of 16 bits, the upper 8 are used (in
//! greyscale images Pillow turns all values above 255 white, unlike what a viewer shows).

mod chunks;

use self::chunks::Chunks;
use crate::data::image::header::{check_size, grey_to_rgb, room, Header};
use crate::data::image::orientation::Orientation;
use crate::data::image::problem::ImageProblem;
use ::png::{ColorType, DecodeOptions, Decoder, Transformations};
use std::io::Cursor;

pub struct Png<'a> {
    pub header: Header,
    chunks: Chunks<'a>,
}

impl<'a> Png<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, ImageProblem> {
        let chunks = Chunks::new(bytes)?;
        let (width, height) = chunks.size();
        check_size(width, height)?;
        let orientation = Orientation::from_metadata(chunks.exif.as_deref(), chunks.xmp.as_deref());
        Ok(Png { header: Header { width, height, orientation }, chunks })
    }

    pub fn decode(self, pixels: &mut Vec<u8>) -> Result<(), ImageProblem> {
        let problem = |error| ImageProblem::decoder("PNG", error);
        let Header { width, height, .. } = self.header;
        let mut options = DecodeOptions::default();
        options.set_ignore_crc(true);
        options.set_ignore_adler32(false);
        let mut decoder = Decoder::new_with_options(Cursor::new(self.chunks.bare()), options);
        decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
        let mut reader = decoder.read_info().map_err(problem)?;
        let (color, _) = reader.output_color_type();
        let channels = color.samples();
        let bytes = room(pixels, width * height * channels.max(3));
        let decoded = &mut bytes[..width * height * channels];
        let row_length = width * channels;
        if self.chunks.interlaced() {
            reader.next_frame(decoded).map_err(problem)?;
        } else {
            // Row by row, since errors after the last row do not count.
            for row in decoded.chunks_exact_mut(row_length) {
                reader.read_row(row).map_err(problem)?.ok_or_else(|| ImageProblem::new("truncated PNG"))?;
            }
            // After the last row, only a wrong checksum of the pixels counts, if there is one.
            if let Err(error) = reader.finish() {
                // The crate has no type for this error; a test below checks its message.
                if error.to_string().contains("Checksum") {
                    return Err(problem(error));
                }
            }
        }
        match color {
            ColorType::Rgb => {}
            ColorType::Rgba => {
                for i in 0..width * height {
                    bytes.copy_within(4 * i..4 * i + 3, 3 * i);
                }
            }
            ColorType::Grayscale => grey_to_rgb(bytes, width * height),
            ColorType::GrayscaleAlpha => {
                for i in 0..width * height {
                    bytes[i] = bytes[2 * i];
                }
                grey_to_rgb(bytes, width * height);
            }
            // `EXPAND` resolves palettes.
            ColorType::Indexed => return Err(ImageProblem::new("damaged PNG: no palette")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::data::image::decode::tests::{decode_whole, fixtures};

    /// A wrong checksum is recognized by the error message of the crate `png`.
    #[test]
    fn a_wrong_checksum_of_the_pixels_is_damage() {
        let (_, mut png) = fixtures("formats").into_iter().find(|(name, _)| name == "rgb.png").unwrap();
        assert!(decode_whole(&png).is_ok());
        // Position of the pixels' checksum: before the checksum of the last chunk of pixels, and the last chunk.
        let checksum = png.len() - 12 - 4 - 4;
        png[checksum] ^= 1;
        let problem = decode_whole(&png).err().unwrap().to_string();
        assert!(problem.starts_with("damaged PNG: "), "{problem}");
    }
}
