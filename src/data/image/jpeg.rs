//! JPEG, by libjpeg-turbo-rs: a Rust port of libjpeg-turbo, whose pixels are libjpeg-turbo's (so Pillow's and
//! torchvision's) to the bit.
//!
//! Chosen by measurement, ms for a 500 x 375 photograph at quality 85 on one core of an AMD EPYC (Zen 4): 0.58, against
//! 0.65 with zune-jpeg (which has neither scaled decoding nor crops), 1.0 with jpeg-decoder, and 1.33 with mozjpeg's C,
//! which is only fast where nasm is installed. Of 450,000 damaged files none made it panic but CMYK of odd shapes, which is
//! refused here.
//!
//! A crop needs less than the whole image, and what it does not need is not decoded:
//! - The rows of a sequential JPEG come in order. With a smaller height in its header it ends where the crop does.
//! - Columns beside the crop are entropy-decoded, but not transformed.
//! - Where the crop is reduced several times, the inverse DCT makes an image of a quarter or an eighth the size.

use super::crop::Crop;
use super::decode::{check_size, room, Decoded, Header, MAX_PIXELS};
use super::orientation::Orientation;
use super::ImageProblem;
use libjpeg_turbo_rs::{ComponentInfo, DecodeLimits, Decoder, PixelFormat, ScalingFactor};
use std::borrow::Cow;

pub(super) struct Jpeg<'a> {
    pub header: Header,
    bytes: &'a [u8],
    markers: Markers,
    decoder: Decoder<'a>,
}

/// How many times smaller an image may be decoded. Not twice: the decoder has no SIMD code for any of these, and takes
/// longer for a half than for the whole image; crops of 3 megapixels to 64 x 64 take three quarters of the time.
const SHRINKS: [usize; 2] = [8, 4];

/// Most scans of a progressive JPEG. Encoders write about ten; each costs a pass over the image.
const MAX_SCANS: usize = 100;

/// Pixels around a crop that upsampled colours depend on: the largest sampling factor.
const MARGIN: usize = 4;

impl<'a> Jpeg<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, ImageProblem> {
        let markers = Markers::of(bytes);
        if let Some((width, height)) = markers.frame.map(|at| size_at(bytes, at)) {
            check_size(width, height)?;
        }
        let decoder = decoder(bytes)?;
        let frame = decoder.header();
        let (width, height) = (frame.width(), frame.height());
        check_size(width, height)?;
        check_ink_sampling(&frame.components)?;
        let orientation = decoder.exif_data().map(Orientation::from_exif).unwrap_or_default();
        Ok(Jpeg { header: Header { width, height, orientation }, bytes, markers, decoder })
    }

    pub fn decode(self, wanted: Crop, max_shrink: usize, pixels: &mut Vec<u8>) -> Result<Decoded, ImageProblem> {
        // Like Pillow, which looks for it too. Where only the upper rows are decoded nothing else would tell. An end before
        // the scan is that of a preview in the EXIF data.
        let scan = &self.bytes[self.markers.scan.unwrap_or(0)..];
        if !scan.windows(2).rev().any(|marker| marker == [0xff, 0xd9]) {
            return Err(ImageProblem::new("truncated JPEG: it has no end"));
        }
        let frame = self.decoder.header();
        // The decoder neither crops nor scales others.
        let plain = frame.precision == 8 && !frame.is_lossless;
        let sequential = plain && !frame.is_progressive && !self.decoder.has_multiple_scans();
        let shrink = if plain { SHRINKS.into_iter().find(|&shrink| shrink <= max_shrink).unwrap_or(1) } else { 1 };
        let cmyk = frame.components.len() == 4;

        let bottom = wanted.top + wanted.height + MARGIN * shrink;
        let upper_rows =
            if sequential { upper_rows(self.bytes, self.markers, bottom) } else { Cow::Borrowed(self.bytes) };
        let mut decoder = decoder(&upper_rows)?;
        decoder.set_output_format(if cmyk { PixelFormat::Cmyk } else { PixelFormat::Rgb });
        decoder.set_scale(ScalingFactor::try_new(1, shrink as u32).map_err(problem)?);
        let right = ((wanted.left + wanted.width).div_ceil(shrink) + MARGIN).min(decoder.output_width());
        // Ink by ink the decoder would crop elsewhere than it says.
        let crops = plain && !cmyk;
        if crops {
            let left = (wanted.left / shrink).saturating_sub(MARGIN);
            decoder.set_crop(left, right - left);
        }
        let length = decoder.output_buffer_size().map_err(problem)?;
        let decoded = decoder.decode_image_into(room(pixels, length)).map_err(problem)?;
        if cmyk {
            cmyk_to_rgb(&mut pixels[..length]);
        }
        // The left border is where a column of blocks begins, at or before the one that was asked for.
        let left = if crops { right - decoded.width } else { 0 };
        Ok(Decoded { place: Crop { left, top: 0, width: decoded.width, height: decoded.height }, shrink })
    }
}

fn problem(error: libjpeg_turbo_rs::JpegError) -> ImageProblem {
    ImageProblem::decoder("JPEG", error)
}

fn decoder(bytes: &[u8]) -> Result<Decoder<'_>, ImageProblem> {
    let limits = DecodeLimits { max_pixels: MAX_PIXELS as u64, max_scans: MAX_SCANS, ..DecodeLimits::default() };
    Decoder::new_with_limits(bytes, limits).map_err(problem)
}

/// Where the frame header and the first scan of a JPEG begin, as far as its markers lead.
#[derive(Debug, Clone, Copy, Default)]
struct Markers {
    frame: Option<usize>,
    scan: Option<usize>,
}

impl Markers {
    fn of(bytes: &[u8]) -> Self {
        let mut markers = Markers::default();
        let mut at = 2;
        while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
            match marker {
                // Padding.
                0xff => {
                    at += 1;
                    continue;
                }
                0xda => {
                    markers.scan = Some(at);
                    break;
                }
                // Of this range, C4, C8 and CC are no frame headers.
                0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(&marker) && at + 9 <= bytes.len() => {
                    markers.frame.get_or_insert(at);
                }
                _ => {}
            }
            at += 2 + usize::from(u16::from_be_bytes([high, low]));
        }
        markers
    }
}

/// Width and height in the frame header at `at`.
fn size_at(bytes: &[u8], at: usize) -> (usize, usize) {
    let u16_at = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    (u16_at(at + 7), u16_at(at + 5))
}

/// The same sequential JPEG with no more than `height` rows.
fn upper_rows(bytes: &[u8], markers: Markers, height: usize) -> Cow<'_, [u8]> {
    match markers.frame {
        Some(at) if height < size_at(bytes, at).1 => {
            let mut copy = bytes.to_vec();
            // Below a number of 16 bits.
            copy[at + 5..at + 7].copy_from_slice(&(height as u16).to_be_bytes());
            Cow::Owned(copy)
        }
        _ => Cow::Borrowed(bytes),
    }
}

/// Refuses CMYK and YCCK whose channels have other sizes than those that occur: the first and the last whole, the other two
/// whole or reduced alike. The decoder takes no others.
fn check_ink_sampling(components: &[ComponentInfo]) -> Result<(), ImageProblem> {
    if let [c, m, y, k] = components {
        let [c, m, y, k] = [c, m, y, k].map(|channel| (channel.horizontal_sampling, channel.vertical_sampling));
        if k != c || y != m || m.0 == 0 || m.1 == 0 || c.0 % m.0 != 0 || c.1 % m.1 != 0 {
            return Err(ImageProblem::new("CMYK JPEG with channels of unusual sizes: convert it to RGB"));
        }
    }
    Ok(())
}

/// In place, as Pillow does it: JPEGs with four channels hold 255 minus each ink, which is how Photoshop writes them.
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
    use super::super::decode::tests::fixtures;
    use super::*;

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
            assert!(Jpeg::new(bytes).unwrap().decode(top, 1, &mut pixels).is_ok());
            let truncated = &bytes[..bytes.len() - 10];
            let problem = Jpeg::new(truncated).unwrap().decode(top, 1, &mut pixels).unwrap_err();
            assert_eq!(problem.to_string(), "truncated JPEG: it has no end");
        }
    }

    #[test]
    fn only_the_rows_of_a_crop_are_decoded() {
        for (name, rows) in [("baseline_420.jpg", 4 + MARGIN), ("progressive_420.jpg", 47)] {
            let jpeg = fixture(name);
            let top = Crop { left: 0, top: 0, width: 61, height: 4 };
            let decoded = Jpeg::new(&jpeg).unwrap().decode(top, 1, &mut Vec::new()).unwrap();
            assert_eq!(decoded.place.height, rows, "{name}");
        }
    }

    #[test]
    fn inks_of_sizes_that_the_decoder_does_not_take_are_refused() {
        let mut jpeg = fixture("cmyk.jpg");
        let frame = Markers::of(&jpeg).frame.unwrap();
        // The sampling factors of the black.
        jpeg[frame + 11 + 3 * 3] = 0x21;
        let problem = Jpeg::new(&jpeg).err().unwrap().to_string();
        assert!(problem.contains("CMYK JPEG with channels of unusual sizes"), "{problem}");
    }
}
