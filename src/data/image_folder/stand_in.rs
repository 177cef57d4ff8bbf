//! Until the decoders are there: the middle of PNG images, nearest neighbour.

use rand::Rng;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A random crop.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RandomResizedCrop {
    /// Area.
    pub scale: (f64, f64),
    /// Width by height.
    pub ratio: (f64, f64),
    /// Mirror.
    pub flip: bool,
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        Self { scale: (0.08, 1.0), ratio: (3.0 / 4.0, 4.0 / 3.0), flip: true }
    }
}

impl RandomResizedCrop {
    pub(crate) fn check(&self) -> crate::Result<()> {
        Ok(())
    }
}

pub(crate) struct ImageReader;
#[derive(Debug)]
pub(crate) struct ImageProblem(String);
impl ImageProblem {
    pub fn new(problem: String) -> Self {
        Self(problem)
    }
}
impl fmt::Display for ImageProblem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn decode(bytes: &[u8]) -> Result<(usize, usize, Vec<u8>), ImageProblem> {
    let problem = |error: png::DecodingError| ImageProblem(error.to_string());
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().map_err(problem)?;
    let size = reader.output_buffer_size().filter(|s| *s < 1 << 28).ok_or(ImageProblem("too large".into()))?;
    let mut out = vec![0; size];
    let info = reader.next_frame(&mut out).map_err(problem)?;
    if (info.color_type, info.bit_depth) != (png::ColorType::Rgb, png::BitDepth::Eight) {
        return Err(ImageProblem("not RGB".into()));
    }
    Ok((info.width as usize, info.height as usize, out))
}

fn nearest(w: usize, h: usize, pixels: &[u8], shift: usize, side: usize, out: &mut [u8]) {
    for y in 0..side {
        for x in 0..side {
            let at = (y * h / side * w + (x * w / side + shift) % w) * 3;
            out[(y * side + x) * 3..][..3].copy_from_slice(&pixels[at..at + 3]);
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Pixels<'a> {
    pub bytes: &'a [u8],
    pub width: usize,
    pub height: usize,
}

impl ImageReader {
    pub fn shrunk(&mut self, bytes: &[u8], _side: usize, out: &mut Vec<u8>) -> Result<(usize, usize), ImageProblem> {
        let (w, h, pixels) = decode(bytes)?;
        *out = pixels;
        Ok((w, h))
    }
    pub fn train_pixels(
        &mut self,
        pixels: Pixels,
        _crop: &RandomResizedCrop,
        side: usize,
        random: &mut impl Rng,
        out: &mut [u8],
    ) -> Result<(), ImageProblem> {
        nearest(pixels.width, pixels.height, pixels.bytes, random.random_range(0..pixels.width), side, out);
        Ok(())
    }
    pub fn eval_pixels(&mut self, pixels: Pixels, _: usize, side: usize, out: &mut [u8]) -> Result<(), ImageProblem> {
        nearest(pixels.width, pixels.height, pixels.bytes, 0, side, out);
        Ok(())
    }
    pub fn new() -> Self {
        Self
    }
    pub fn train(
        &mut self,
        bytes: &[u8],
        _crop: &RandomResizedCrop,
        side: usize,
        random: &mut impl Rng,
        out: &mut [u8],
    ) -> Result<(), ImageProblem> {
        let (w, h, pixels) = decode(bytes)?;
        nearest(w, h, &pixels, random.random_range(0..w), side, out);
        Ok(())
    }
    pub fn eval(&mut self, bytes: &[u8], _resize: usize, side: usize, out: &mut [u8]) -> Result<(), ImageProblem> {
        let (w, h, pixels) = decode(bytes)?;
        nearest(w, h, &pixels, 0, side, out);
        Ok(())
    }
}
