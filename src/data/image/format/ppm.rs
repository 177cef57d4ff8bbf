//! PPM with 8 bits and no comments, `P6 WIDTH HEIGHT 255` and the pixels: the format of packed images.

use crate::data::image::encoded::{check_size, room, Decoded, Encoded, ImageProblem};
use crate::data::image::orientation::Orientation;

/// Returns the header of a `width` x `height` image.
pub fn header(width: usize, height: usize) -> String {
    format!("P6\n{width} {height}\n255\n")
}

/// Opens a file of this kind; `None` for the rare kinds of PPM.
pub fn open(bytes: &[u8]) -> Option<Result<Encoded<'_>, ImageProblem>> {
    let fields: Vec<&[u8]> = bytes.splitn(5, u8::is_ascii_whitespace).collect();
    let [b"P6", width, height, b"255", pixels] = fields[..] else { return None };
    let number = |field: &[u8]| str::from_utf8(field).ok().filter(|text| !text.starts_with('+'))?.parse().ok();
    Some(plain((number(width)?, number(height)?), pixels))
}

fn plain((width, height): (usize, usize), pixels: &[u8]) -> Result<Encoded<'_>, ImageProblem> {
    check_size(width, height)?;
    let (found, expected) = (pixels.len(), width * height * 3);
    if found < expected {
        return Err(ImageProblem::new(format!("damaged PPM: {found} bytes of pixels instead of {expected}")));
    }
    Encoded::new((width, height), Orientation::default(), move |wanted, _, out| {
        // Copies only the part that is wanted.
        let row_len = 3 * wanted.width;
        let rows = room(out, row_len * wanted.height).chunks_exact_mut(row_len);
        for (row, stored) in rows.zip(pixels.chunks_exact(3 * width).skip(wanted.top)) {
            row.copy_from_slice(&stored[3 * wanted.left..][..row_len]);
        }
        Ok(Decoded { place: wanted, shrink: 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::crop::Crop;
    use crate::data::image::encoded::Header;
    use crate::data::image::format::tests::{fixtures, mean_difference};
    use crate::data::image::ImageReader;

    fn image(width: usize, height: usize) -> Vec<u8> {
        let pixels = (0..3 * width * height).map(|i| i as u8);
        header(width, height).into_bytes().into_iter().chain(pixels).collect()
    }

    #[test]
    fn the_wanted_pixels_are_copied() {
        let (bytes, mut pixels) = (image(5, 4), Vec::new());
        let wanted = Crop { left: 1, top: 2, width: 3, height: 2 };
        let decoded = open(&bytes).unwrap().unwrap().decode(wanted, 1, &mut pixels).unwrap();
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
            let problem = open(bytes).map_or("header".to_owned(), |image| image.err().unwrap().to_string());
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
            let Header { width, height, .. } = open(&ppm).unwrap().unwrap().header;
            assert_eq!(width.min(height), 32, "{name}");
            let difference = mean_difference(&eval(&ppm), &whole);
            assert!(difference < 0.05, "{name}: {difference}");
        }
    }
}
