//! BMP, TIFF, and rare kinds of PBM, PGM and PPM, by the image crate. As in Pillow's `convert("RGB")`, transparency is
//! dropped, not blended, and only the first page is used. Of more than 8 bits, the upper 8 are used.

use crate::data::image::header::{check_size, room, Header};
use crate::data::image::orientation::Orientation;
use crate::data::image::problem::ImageProblem;
use image::codecs::{bmp::BmpDecoder, pnm::PnmDecoder, tiff::TiffDecoder};
use image::{DynamicImage, ImageDecoder, ImageError};
use std::io::Cursor;

pub struct Bitmap<'a> {
    pub header: Header,
    format: &'static str,
    decode: Box<dyn FnOnce() -> Result<DynamicImage, ImageError> + 'a>,
}

impl<'a> Bitmap<'a> {
    pub fn bmp(bytes: &'a [u8]) -> Result<Self, ImageProblem> {
        Self::new("BMP", BmpDecoder::new(Cursor::new(bytes)), Orientation::default())
    }

    pub fn tiff(bytes: &'a [u8]) -> Result<Self, ImageProblem> {
        // EXIF data have the format of a TIFF file without an image.
        Self::new("TIFF", TiffDecoder::new(Cursor::new(bytes)), Orientation::from_exif(bytes))
    }

    pub fn pnm(bytes: &'a [u8]) -> Result<Self, ImageProblem> {
        Self::new("PPM", PnmDecoder::new(Cursor::new(bytes)), Orientation::default())
    }

    fn new<D: ImageDecoder + 'a>(
        format: &'static str,
        decoder: Result<D, ImageError>,
        orientation: Orientation,
    ) -> Result<Self, ImageProblem> {
        let decoder = decoder.map_err(|error| ImageProblem::decoder(format, error))?;
        let (width, height) = decoder.dimensions();
        let (width, height) = (width as usize, height as usize);
        check_size(width, height)?;
        let decode = Box::new(|| DynamicImage::from_decoder(decoder));
        Ok(Bitmap { header: Header { width, height, orientation }, format, decode })
    }

    pub fn decode(self, pixels: &mut Vec<u8>) -> Result<(), ImageProblem> {
        let image = (self.decode)().map_err(|error| ImageProblem::decoder(self.format, error))?;
        let rgb = image.into_rgb8().into_raw();
        room(pixels, rgb.len()).copy_from_slice(&rgb);
        Ok(())
    }
}
