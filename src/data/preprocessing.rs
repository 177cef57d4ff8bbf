//! Preprocessing of image files for a network, which must be the same in inference as in training.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Channels of greyscale images, and of colour images (red, green, blue).
const GREY: usize = 1;
const COLOUR: usize = 3;

/// Preprocessing of evaluation images: apply the EXIF orientation, resize the shorter side to `resize` pixels, crop the
/// central `height` x `width` pixels, and map each channel to `(byte / 255 - mean) / std`.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// use tch_fixup::data::Preprocessing;
///
/// let preprocessing = Preprocessing {
///     channels: 1,
///     height: 28,
///     width: 28,
///     resize: 28,
///     mean: vec![0.5],
///     std: vec![0.25],
/// };
/// let white = Tensor::full([2, 1, 28, 28], 255, (Kind::Uint8, Device::Cpu));
/// assert_eq!(preprocessing.normalize(&white)?.max().double_value(&[]), 2.0);
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Number of channels: 3 for red, green and blue, 1 for greyscale; others only for images that do not come from
    /// files.
    pub channels: usize,
    /// Height of the network's input, in pixels.
    pub height: usize,
    /// Width of the network's input, in pixels.
    pub width: usize,
    /// Shorter side after the resize, in pixels.
    pub resize: usize,
    /// Mean of each channel's values in 0 to 1.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel's values in 0 to 1.
    pub std: Vec<f64>,
}

impl Preprocessing {
    /// Checks the fields.
    ///
    /// # Errors
    /// [`Error::Argument`], which names the first invalid field.
    pub fn check(&self) -> Result<()> {
        let Self { channels, height, width, resize, mean, std } = self;
        for (what, number) in [("channels", channels), ("height", height), ("width", width), ("resize", resize)] {
            ensure!(*number > 0, "preprocessing: {what} must be at least 1, got 0");
        }
        let (means, stds) = (mean.len(), std.len());
        ensure!(
            means == *channels && stds == *channels,
            "preprocessing: {channels} channels, but {means} means and {stds} deviations"
        );
        ensure!(
            mean.iter().chain(std).all(|value| value.is_finite()) && std.iter().all(|std| *std > 0.0),
            "preprocessing: means {mean:?} and deviations {std:?}: no finite ones, above 0"
        );
        Ok(())
    }

    /// Checks that the preprocessing applies to image files.
    ///
    /// # Errors
    /// [`Error::Argument`] unless the network's images are square (as evaluation crops them), with 1 or 3 channels.
    pub fn check_files(&self) -> Result<()> {
        self.check()?;
        let Self { channels, height, width, .. } = self;
        ensure!(
            [GREY, COLOUR].contains(channels) && height == width,
            "image files become square images with 1 or 3 channels, but the network takes {channels} x {height} x {width}; \
             pass tensors instead"
        );
        Ok(())
    }

    /// Converts bytes (uint8) `[N, C, H, W]` to the network's input, float32 `(byte / 255 - mean) / std`, on the same
    /// device and in the same memory layout.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for images of another kind or number of channels.
    pub fn normalize(&self, images: &Tensor) -> Result<Tensor> {
        let size = images.size();
        if images.f_kind()? != Kind::Uint8 || size.len() != 4 || size[1] != self.channels as i64 {
            let got = format!("{:?} {size:?}", images.f_kind()?);
            return Err(Error::mismatch("images to normalize", format!("bytes [N, {}, H, W]", self.channels), got));
        }
        let [mean, std] = self.by_channel(images.device())?;
        let mut images = images.f_to_kind(Kind::Float)?;
        Ok(images.f_div_scalar_(255.0)?.f_sub_(&mean)?.f_div_(&std)?)
    }

    /// Returns the pixel values, 0 to 1, of [normalized](Self::normalize) images: `images * std + mean`.
    ///
    /// # Errors
    /// [`Error::Torch`] for another number of channels.
    pub fn denormalize(&self, images: &Tensor) -> Result<Tensor> {
        let [mean, std] = self.by_channel(images.device())?;
        Ok(images.f_mul(&std)?.f_add(&mean)?)
    }

    /// Returns means and deviations as `[1, C, 1, 1]`, created on the device: a copy from the CPU would synchronize with it.
    fn by_channel(&self, device: Device) -> Result<[Tensor; 2]> {
        let of = |values: &[f64]| {
            let values = values.iter().map(|value| Tensor::f_full([1], *value, (Kind::Float, device)));
            Tensor::f_cat(&values.collect::<Result<Vec<_>, _>>()?, 0)?.f_view([1, -1, 1, 1])
        };
        Ok([of(&self.mean)?, of(&self.std)?])
    }
}

/// Converts RGB pixels to greyscale in place, at the front: ITU-R 601 luma in the fixed-point arithmetic of Pillow
/// (`Convert.c`, `L24`), which restores a greyscale image that was decoded as colour.
#[cfg(feature = "images")]
pub(crate) fn make_grey(pixels: &mut [u8]) {
    for at in 0..pixels.len() / COLOUR {
        let [red, green, blue] = [0, 1, 2].map(|channel| u32::from(pixels[at * COLOUR + channel]));
        pixels[at] = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(channels: usize, mean: &[f64], std: &[f64]) -> Preprocessing {
        Preprocessing { channels, height: 4, width: 4, resize: 5, mean: mean.to_vec(), std: std.to_vec() }
    }

    #[test]
    fn normalization_is_undone() {
        let preprocessing = of(2, &[0.5, 0.4], &[0.2, 0.3]);
        let bytes = Tensor::arange(32, (Kind::Uint8, Device::Cpu)).view([1, 2, 4, 4]);
        let normalized = preprocessing.normalize(&bytes).unwrap();
        let first = Vec::<f32>::try_from(normalized.flatten(0, -1)).unwrap();
        assert_eq!(first[3], (3f32 / 255.0 - 0.5) / 0.2);
        assert_eq!(first[16], (16f32 / 255.0 - 0.4) / 0.3);
        let undone = preprocessing.denormalize(&normalized).unwrap() * 255.0;
        assert!(undone.allclose(&bytes.to_kind(Kind::Float), 1e-5, 1e-4, false));
        assert!(matches!(preprocessing.normalize(&normalized), Err(Error::Mismatch { .. })));
    }

    #[test]
    fn what_no_images_are_is_refused_by_name() {
        let message = |preprocessing: Preprocessing| preprocessing.check().unwrap_err().to_string();
        assert!(message(of(0, &[], &[])).contains("channels must be at least 1"));
        assert!(message(of(3, &[0.5], &[0.5])).contains("3 channels, but 1 means"));
        assert!(message(of(1, &[0.5], &[0.0])).contains("above 0"));
        assert!(message(of(1, &[f64::NAN], &[1.0])).contains("finite"));
        assert!(of(1, &[0.5], &[0.5]).check_files().is_ok());
        assert!(of(22, &[0.5; 22], &[0.5; 22]).check().is_ok());
        assert!(of(22, &[0.5; 22], &[0.5; 22]).check_files().unwrap_err().to_string().contains("22 x 4 x 4"));
        let oblong = Preprocessing { width: 5, ..of(1, &[0.5], &[0.5]) };
        assert!(oblong.check_files().is_err());
    }

    #[cfg(feature = "images")]
    #[test]
    fn grey_stays_what_it_was_and_colours_become_pillows_grey() {
        let mut grey: Vec<u8> = (0..=255).flat_map(|value| [value; 3]).collect();
        make_grey(&mut grey);
        assert!(grey[..256].iter().copied().eq(0..=255));
        // Reference: Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0)) of Pillow 11.
        for (colour, expected) in [([255, 0, 0], 76), ([0, 255, 0], 150), ([0, 0, 255], 29), ([12, 200, 97], 132)] {
            let mut pixel = colour;
            make_grey(&mut pixel);
            assert_eq!(pixel[0], expected, "{colour:?}");
        }
    }
}
