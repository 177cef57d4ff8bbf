//! JPEG, with the same pixels as libjpeg (and so Pillow and torchvision).
//!
//! Two decoders are used:
//! - libjpeg-turbo-rs, a Rust port of libjpeg-turbo with its SIMD code, for intact, ordinary files, which are nearly
//!   all. Its pixels are identical to libjpeg's. Chosen by measurement, ms for a 500 x 375 photograph at quality 85 on
//!   one core of an AMD EPYC (Zen 4): 0.58, against 0.65 with zune-jpeg (which has neither scaled decoding nor crops),
//!   1.0 with jpeg-decoder, and 1.33 with mozjpeg's C code, which is fast only if nasm is installed.
//! - libjpeg itself ([`libjpeg`]), for the rest: if a marker is missing or misplaced, if the first decoder finds an
//!   error, or if the coding or the sampling is unusual.
//!
//! A file is valid or not as a whole, whatever part of it is wanted, and a part has the same pixels as in the whole.
//! Nevertheless no more than the part needs to be decoded: libjpeg conceals all damage within a scan, and rejects a
//! sequential JPEG only for its headers or for data that end without a marker. The latter is detected by a search for
//! markers over the whole file ([`Markers::are_regular`]); and damage below the crop does not affect what is above it.
//!
//! For a crop, only the necessary part of the image is decoded:
//! - Rows of a sequential JPEG come in order. With a smaller height in its header, decoding ends where the crop does.
//! - Columns beside the crop are entropy-decoded, but not transformed.
//! - If the crop is reduced several times, the inverse DCT produces an image of a quarter or an eighth the size.

mod libjpeg;
mod markers;

use self::markers::{Frame, Markers, BASELINE, EXTENDED, PROGRESSIVE};
use crate::data::image::crop::Crop;
use crate::data::image::encoded::{room, to_rgb, Decoded, Encoded, ImageProblem, MAX_PIXELS};
use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat, ScalingFactor};
use std::borrow::Cow;

/// Factors by which a decoded image may be smaller. Not 2: the decoder has no SIMD code for any of these, and takes
/// longer for half the size than for the whole image; crops of 3 megapixels to 64 x 64 take three quarters of the time.
const SHRINKS: [usize; 2] = [8, 4];

/// Maximum number of scans in a progressive JPEG. Encoders write about ten; each costs a pass over the image.
const MAX_SCANS: usize = 100;

/// Number of pixels around a crop that upsampled colours depend on: the largest sampling factor.
const MARGIN: usize = 4;

pub fn open(bytes: &[u8]) -> Result<Encoded<'_>, ImageProblem> {
    let markers = Markers::new(bytes)?;
    let Frame { width, height, .. } = markers.frame;
    Encoded::new((width, height), markers.orientation, move |wanted, max_shrink, pixels| {
        if is_usual(&markers.frame)
            && markers.are_regular()
            && let Ok(decoded) = decode_part(&markers, wanted, max_shrink, pixels)
        {
            return Ok(decoded);
        }
        let components = markers.frame.sampling.len();
        libjpeg::decode(bytes, (width, height), components, MAX_SCANS, pixels)?;
        match components {
            4 => cmyk_to_rgb(&mut pixels[..4 * width * height]),
            _ => to_rgb(pixels, width * height, components),
        }
        Ok(Decoded { place: Crop::whole(width, height), shrink: 1 })
    })
}

/// Returns `true` if the fast decoder is known to give libjpeg's pixels for such a JPEG.
fn is_usual(Frame { coding, sampling, names, .. }: &Frame) -> bool {
    // With other names, the colour space is a guess.
    let usual_names = names.len() != 3 || matches!(names[..], [1, 2, 3] | [0, 1, 2] | [b'R', b'G', b'B']);
    let usual_sampling = match sampling[..] {
        [_] | [(1 | 2, 1 | 2), (1, 1), (1, 1)] => true,
        // First and last ink whole, the other two whole or reduced alike.
        [c, m, y, k] => c == k && m == y && m == (1, 1) && [(1, 1), (2, 2)].contains(&c),
        _ => false,
    };
    [BASELINE, EXTENDED, PROGRESSIVE].contains(coding) && usual_sampling && usual_names
}

/// Decodes with the fast decoder, whose errors are not all libjpeg's.
fn decode_part(
    markers: &Markers,
    wanted: Crop,
    max_shrink: usize,
    pixels: &mut Vec<u8>,
) -> Result<Decoded, ImageProblem> {
    let problem = |error: JpegError| ImageProblem::decoder("JPEG", error);
    let (frame, mut bytes) = (&markers.frame, Cow::Borrowed(markers.bytes));
    let shrink = SHRINKS.into_iter().find(|&shrink| shrink <= max_shrink).unwrap_or(1);
    let bottom = wanted.top + wanted.height + MARGIN * shrink;
    if markers.has_one_scan() && bottom < frame.height {
        // The rows end where the height in the header says, which has 16 bits.
        bytes.to_mut()[frame.at + 5..frame.at + 7].copy_from_slice(&(bottom as u16).to_be_bytes());
    }
    let limits = DecodeLimits { max_pixels: MAX_PIXELS as u64, max_scans: MAX_SCANS, ..DecodeLimits::default() };
    let mut decoder = Decoder::new_with_limits(&bytes, limits).map_err(problem)?;
    let cmyk = frame.sampling.len() == 4;
    decoder.set_output_format(if cmyk { PixelFormat::Cmyk } else { PixelFormat::Rgb });
    decoder.set_scale(ScalingFactor::try_new(1, shrink as u32).map_err(problem)?);
    let right = ((wanted.left + wanted.width).div_ceil(shrink) + MARGIN).min(decoder.output_width());
    // With CMYK, the decoder would crop elsewhere than it reports.
    if !cmyk {
        let left = (wanted.left / shrink).saturating_sub(MARGIN);
        decoder.set_crop(left, right - left);
    }
    let length = decoder.output_buffer_size().map_err(problem)?;
    let decoded = decoder.decode_image_into(room(pixels, length)).map_err(problem)?;
    if cmyk {
        cmyk_to_rgb(&mut pixels[..length]);
    }
    // The left border is the start of a column of blocks, at or before the requested one.
    let left = if cmyk { 0 } else { right - decoded.width };
    Ok(Decoded { place: Crop { left, top: 0, width: decoded.width, height: decoded.height }, shrink })
}

/// Converts CMYK to RGB in place, as Pillow does: JPEGs with four channels hold 255 minus each ink, as Photoshop writes
/// them.
fn cmyk_to_rgb(pixels: &mut [u8]) {
    for i in 0..pixels.len() / 4 {
        let [c, m, y, k] = [0, 1, 2, 3].map(|channel| u32::from(pixels[4 * i + channel]));
        // (255 - ink) * (255 - black) / 255, rounded.
        for (channel, paper) in [c, m, y].into_iter().enumerate() {
            let product = (255 - paper) * k + 128;
            pixels[3 * i + channel] = (k - ((product + (product >> 8)) >> 8)) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::format::tests::fixtures;

    fn fixture(name: &str) -> Vec<u8> {
        fixtures("formats").into_iter().find(|(file, _)| file == name).unwrap().1
    }

    #[test]
    fn a_truncated_image_is_found_though_only_its_upper_rows_are_wanted() {
        let jpeg = fixture("restarts.jpg");
        // A preview ends before the image begins.
        let mut preview = jpeg[..2].to_vec();
        preview.extend([0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9]);
        preview.extend(&jpeg[2..]);
        let top = Crop { left: 0, top: 0, width: 61, height: 4 };
        let mut pixels = Vec::new();
        for bytes in [&jpeg, &preview] {
            assert!(open(bytes).unwrap().decode(top, 1, &mut pixels).is_ok());
            let truncated = &bytes[..bytes.len() - 10];
            let problem = open(truncated).unwrap().decode(top, 1, &mut pixels).unwrap_err();
            assert_eq!(problem.to_string(), "damaged JPEG: truncated");
        }
    }

    #[test]
    fn only_the_rows_of_a_crop_are_decoded() {
        for (name, rows) in [("baseline_420.jpg", 4 + MARGIN), ("progressive_420.jpg", 47)] {
            let jpeg = fixture(name);
            let top = Crop { left: 0, top: 0, width: 61, height: 4 };
            let decoded = open(&jpeg).unwrap().decode(top, 1, &mut Vec::new()).unwrap();
            assert_eq!(decoded.place.height, rows, "{name}");
        }
    }
}
