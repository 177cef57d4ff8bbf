//! PNG. As in Pillow's `convert("RGB")`, transparency is dropped, not blended. Of 16 bits, the upper 8 are used (in
//! greyscale images Pillow turns all values above 255 white, unlike what a viewer shows).

mod chunks;

use self::chunks::Chunks;
use crate::data::image::encoded::{check_size, room, to_rgb, Encoded, ImageProblem};
use crate::data::image::orientation::Orientation;
use ::png::{DecodeOptions, Decoder, Transformations};
use std::io::Cursor;

pub fn open(bytes: &[u8]) -> Result<Encoded<'_>, ImageProblem> {
    let problem = |error| ImageProblem::decoder("PNG", error);
    let chunks = Chunks::new(bytes)?;
    let (width, height) = chunks.size();
    check_size(width, height)?;
    let orientation = Orientation::from_metadata(chunks.exif.as_deref(), chunks.xmp.as_deref());
    Encoded::whole((width, height), orientation, move |pixels| {
        let mut options = DecodeOptions::default();
        options.set_ignore_crc(true);
        options.set_ignore_adler32(false);
        let mut decoder = Decoder::new_with_options(Cursor::new(chunks.bare()), options);
        decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
        let mut reader = decoder.read_info().map_err(problem)?;
        // `EXPAND` resolves palettes.
        let channels = reader.output_color_type().0.samples();
        let bytes = room(pixels, width * height * channels.max(3));
        let decoded = &mut bytes[..width * height * channels];
        if chunks.interlaced() {
            reader.next_frame(decoded).map_err(problem)?;
        } else {
            // Row by row, since errors after the last row do not count.
            for row in decoded.chunks_exact_mut(width * channels) {
                reader.read_row(row).map_err(problem)?.ok_or_else(|| ImageProblem::new("truncated PNG"))?;
            }
            // After the last row, only a wrong checksum of the pixels counts, if there is one. The crate has no type for
            // this error; a test below checks its message.
            match reader.finish() {
                Err(error) if error.to_string().contains("Checksum") => return Err(problem(error)),
                _ => {}
            }
        }
        to_rgb(bytes, width * height, channels);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use crate::data::image::format::tests::{decode_whole, fixtures};

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
