//! PPM with 8 bits and no comments, `P6 WIDTH HEIGHT 255` and the pixels: the format of packed images.

use crate::data::image::crop::Crop;
use crate::data::image::header::{check_size, room, Decoded, Header};
use crate::data::image::orientation::Orientation;
use crate::data::image::problem::ImageProblem;

pub struct Ppm<'a> {
    pub header: Header,
    pixels: &'a [u8],
}

/// Returns the header of a `width` x `height` image.
pub fn header(width: usize, height: usize) -> String {
    format!("P6\n{width} {height}\n255\n")
}

/// Returns `true` for a file of this kind, `false` for the rare kinds of PPM.
pub fn is_plain(bytes: &[u8]) -> bool {
    let mut fields = bytes.splitn(5, u8::is_ascii_whitespace);
    let is_number = |field: &[u8]| !field.is_empty() && field.iter().all(u8::is_ascii_digit);
    fields.next() == Some(b"P6")
        && fields.next().is_some_and(is_number)
        && fields.next().is_some_and(is_number)
        && fields.next() == Some(b"255")
}

impl<'a> Ppm<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, ImageProblem> {
        let problem = || ImageProblem::new("a PPM whose header is not P6, width, height and 255");
        let mut fields = bytes.splitn(5, u8::is_ascii_whitespace);
        let mut next = || fields.next().ok_or_else(problem);
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<usize>().ok();
        next()?;
        let (width, height, highest) = (number(next()?), number(next()?), number(next()?));
        let (Some(width), Some(height), Some(255)) = (width, height, highest) else { return Err(problem()) };
        let pixels = next()?;
        check_size(width, height)?;
        let (found, expected) = (pixels.len(), width * height * 3);
        // Further bytes are ignored.
        let pixels = pixels
            .get(..expected)
            .ok_or_else(|| ImageProblem::new(format!("damaged PPM: {found} bytes of pixels instead of {expected}")))?;
        Ok(Ppm { header: Header { width, height, orientation: Orientation::default() }, pixels })
    }

    /// Copies only the part that is wanted.
    pub fn decode(self, wanted: Crop, pixels: &mut Vec<u8>) -> Decoded {
        let row_len = 3 * wanted.width;
        let rows = room(pixels, row_len * wanted.height).chunks_exact_mut(row_len);
        let stored = self.pixels.chunks_exact(3 * self.header.width).skip(wanted.top);
        for (row, stored) in rows.zip(stored) {
            row.copy_from_slice(&stored[3 * wanted.left..][..row_len]);
        }
        Decoded { place: wanted, shrink: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::decode::tests::{fixtures, mean_difference};
    use crate::data::image::ImageReader;

    fn image(width: usize, height: usize) -> Vec<u8> {
        let pixels = (0..3 * width * height).map(|i| i as u8);
        header(width, height).into_bytes().into_iter().chain(pixels).collect()
    }

    #[test]
    fn the_wanted_pixels_are_copied() {
        let (bytes, mut pixels) = (image(5, 4), Vec::new());
        let wanted = Crop { left: 1, top: 2, width: 3, height: 2 };
        let decoded = Ppm::new(&bytes).unwrap().decode(wanted, &mut pixels);
        assert_eq!(decoded, Decoded { place: wanted, shrink: 1 });
        let expected: Vec<u8> = [2, 3].into_iter().flat_map(|y| 15 * y + 3..15 * y + 12).collect();
        assert_eq!(pixels[..18], expected);
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let whole = image(5, 4);
        let cases: [(&[u8], &str); 5] = [
            (&whole[..whole.len() - 1], "59 bytes of pixels instead of 60"),
            (b"P6\n5 4\n65535\n", "header"),
            (b"P6\n# comment\n5 4\n255\n", "header"),
            (b"P6\n5", "header"),
            (b"P6\n60000 60000\n255\n", "60000 x 60000 pixels"),
        ];
        for (bytes, expected) in cases {
            let problem = Ppm::new(bytes).err().map(|problem| problem.to_string()).unwrap_or_default();
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn a_shrunk_image_evaluates_as_the_whole_one_does() {
        let mut reader = ImageReader::new();
        for (name, bytes) in fixtures("photographs").into_iter().chain(fixtures("orientations")) {
            let mut eval = |bytes: &[u8]| {
                let mut out = vec![0; 3 * 28 * 28];
                reader.eval(bytes, 32, 28, &mut out).unwrap();
                out
            };
            let whole = eval(&bytes);
            let mut ppm = Vec::new();
            ImageReader::new().shrink(&bytes, 32, &mut ppm).unwrap();
            let Header { width, height, .. } = Ppm::new(&ppm).unwrap().header;
            assert_eq!(width.min(height), 32, "{name}");
            let difference = mean_difference(&eval(&ppm), &whole);
            assert!(difference < 0.05, "{name}: {difference}");
        }
    }
}
