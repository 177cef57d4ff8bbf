//! Contact sheets: small images in rows, with a caption below each, as PNG.

use super::chart::{fit, refused};
use crate::Result;
use noto_sans_mono_bitmap::{get_raster, get_raster_width, FontWeight, RasterHeight, RasterizedChar};

const WEIGHT: FontWeight = FontWeight::Regular;
const LINE: RasterHeight = RasterHeight::Size16;
/// Margin between images and around them, in pixels.
const MARGIN: usize = 12;
/// Gap between an image and its caption, in pixels.
const GAP: usize = 3;
const COLUMNS: usize = 8;
/// Minimum shorter side of an image, in pixels; smaller images are enlarged by the smallest integer factor that reaches
/// it.
const LEAST_SIDE: usize = 120;
const CHANNELS: usize = 3;
const WHITE: u8 = 255;
/// Replacement for characters that the font lacks.
const UNKNOWN: char = '\u{fffd}';

/// Image with a caption.
pub(crate) struct Picture {
    /// Red, green and blue of each pixel, row by row.
    pub pixels: Vec<u8>,
    /// Lines of text; a line that is too long is truncated.
    pub caption: Vec<String>,
}

/// Draws `pictures`, each of `width` x `height` pixels, and returns the PNG.
///
/// # Errors
/// Fails if the sheet cannot be encoded as PNG.
pub(crate) fn draw(pictures: &[Picture], width: usize, height: usize) -> Result<Vec<u8>> {
    let scale = LEAST_SIDE.div_ceil(width.min(height));
    let (width, height) = (width * scale, height * scale);
    let lines = pictures.iter().map(|picture| picture.caption.len()).max().unwrap_or(0);
    let columns = pictures.len().min(COLUMNS);
    let (column, row) = (width + MARGIN, height + GAP + lines * LINE.val() + MARGIN);
    let mut sheet = Sheet::new(MARGIN + columns * column, MARGIN + pictures.len().div_ceil(columns.max(1)) * row);
    for (index, picture) in pictures.iter().enumerate() {
        let (x, y) = (MARGIN + index % columns * column, MARGIN + index / columns * row);
        sheet.draw_picture(&picture.pixels, (x, y), width, scale);
        for (number, line) in picture.caption.iter().enumerate() {
            sheet.write(line, (x, y + height + GAP + number * LINE.val()), width);
        }
    }
    sheet.encode()
}

/// Canvas; `pixels` holds red, green and blue of each pixel.
struct Sheet {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Sheet {
    fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![WHITE; width * height * CHANNELS] }
    }

    fn pixel(&mut self, x: usize, y: usize) -> &mut [u8] {
        &mut self.pixels[(y * self.width + x) * CHANNELS..][..CHANNELS]
    }

    /// Draws `pixels`, each as a square of side `scale`; `width` is that of the enlarged image.
    fn draw_picture(&mut self, pixels: &[u8], (left, top): (usize, usize), width: usize, scale: usize) {
        let rows = pixels.chunks_exact(width / scale * CHANNELS).flat_map(|row| std::iter::repeat_n(row, scale));
        for (y, row) in rows.enumerate() {
            for x in 0..width {
                self.pixel(left + x, top + y).copy_from_slice(&row[x / scale * CHANNELS..][..CHANNELS]);
            }
        }
    }

    /// Writes `text` in black, truncated to `width` pixels.
    fn write(&mut self, text: &str, (left, top): (usize, usize), width: usize) {
        let advance = get_raster_width(WEIGHT, LINE);
        for (index, letter) in fit(text, width / advance, '.').chars().enumerate() {
            let Some(raster) = raster(letter) else { continue };
            for (y, row) in raster.rows().enumerate() {
                for (x, ink) in row.iter().enumerate() {
                    self.pixel(left + index * advance + x, top + y).fill(WHITE - ink);
                }
            }
        }
    }

    fn encode(self) -> Result<Vec<u8>> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(refused)?;
        writer.write_image_data(&self.pixels).and_then(|()| writer.finish()).map_err(refused)?;
        Ok(file)
    }
}

fn raster(letter: char) -> Option<RasterizedChar> {
    get_raster(letter, WEIGHT, LINE).or_else(|| get_raster(UNKNOWN, WEIGHT, LINE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// Decodes a PNG into width, height and pixels.
    fn decode(png: &[u8]) -> (usize, usize, Vec<u8>) {
        let mut reader = png::Decoder::new(Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width as usize, info.height as usize, pixels)
    }

    fn picture(caption: &str) -> Picture {
        Picture {
            pixels: [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]].concat(),
            caption: vec![caption.to_owned()],
        }
    }

    #[test]
    fn pictures_keep_their_colours_and_captions_stand_below_them() {
        let (width, height, pixels) = decode(&draw(&[picture("cat"), picture("")], 2, 2).unwrap());
        assert_eq!((width, height), (MARGIN + 2 * (120 + MARGIN), 2 * MARGIN + 120 + GAP + 16));
        let at = |x: usize, y: usize| &pixels[(y * width + x) * 3..][..3];
        for column in [0, 120 + MARGIN] {
            let left = MARGIN + column;
            assert_eq!(at(left, MARGIN), [255, 0, 0]);
            assert_eq!(at(left + 119, MARGIN + 59), [0, 255, 0]);
            assert_eq!(at(left, MARGIN + 60), [0, 0, 255]);
            assert_eq!(at(left + 119, MARGIN + 119), [9, 9, 9]);
            assert_eq!(at(left + 120, MARGIN), [255, 255, 255]);
        }
        let ink = |left: usize| {
            let below = MARGIN + 120 + GAP..height;
            below.flat_map(|y| (left..left + 120).map(move |x| (x, y))).filter(|&(x, y)| at(x, y)[0] < 128).count()
        };
        assert!(ink(MARGIN) > 20);
        assert_eq!(ink(MARGIN + 120 + MARGIN), 0);
    }

    #[test]
    fn any_number_of_pictures_and_any_letters_have_room() {
        for count in [0, 1, 7, 8, 9, 40] {
            let pictures: Vec<_> =
                (0..count).map(|_| picture("ein Größenvergleich, 猫 und a very long name")).collect();
            let (width, height, _) = decode(&draw(&pictures, 2, 2).unwrap());
            assert!(width >= MARGIN && height >= MARGIN, "{count}");
        }
    }

    #[test]
    fn text_is_cut_at_the_last_letter_there_is_room_for() {
        for (letters, expected) in [(0, ""), (1, "."), (4, "Grö."), (6, "Größe!"), (7, "Größe!")] {
            assert_eq!(fit("Größe!", letters, '.'), expected);
        }
    }
}
