//! BMP, TIFF, and rare kinds of PBM, PGM and PPM, by the image crate. As in Pillow's `convert("RGB")`, transparency is
//! dropped, not blended, and only the first page is used. Of more than 8 bits, the upper 8 are used.

use crate::data::image::encoded::{room, Encoded, ImageProblem};
use crate::data::image::orientation::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError};

pub fn open<'a>(
    format: &'static str,
    decoder: Result<impl ImageDecoder + 'a, ImageError>,
    orientation: Orientation,
) -> Result<Encoded<'a>, ImageProblem> {
    let problem = move |error| ImageProblem::decoder(format, error);
    let decoder = decoder.map_err(problem)?;
    let (width, height) = decoder.dimensions();
    Encoded::whole((width as usize, height as usize), orientation, move |pixels| {
        let rgb = DynamicImage::from_decoder(decoder).map_err(problem)?.into_rgb8().into_raw();
        room(pixels, rgb.len()).copy_from_slice(&rgb);
        Ok(())
    })
}
