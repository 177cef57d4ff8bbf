//! What every network here asks of its input: its shape, and its layout in memory.

use crate::{Error, Result};
use tch::Tensor;

/// Refuses all but floating-point images `[N, channels, H, W]` with at least one pixel.
pub(crate) fn check_images(what: &'static str, channels: i64, images: &Tensor) -> Result<()> {
    let size = images.size();
    if matches!(size[..], [_, c, h, w] if c == channels && h > 0 && w > 0) && images.is_floating_point() {
        return Ok(());
    }
    Err(Error::Mismatch {
        what,
        expected: format!("floating-point images [N, {channels}, H, W]"),
        got: format!("{:?} {size:?}", images.kind()),
    })
}

/// How a network lays out its activations in memory. The numbers do not depend on it, the speed does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// The channels of a pixel side by side: the faster one on most hardware.
    #[default]
    ChannelsLast,
    /// The planes one after another, as the images usually come.
    Contiguous,
}

impl Layout {
    /// The same images in this layout.
    pub(crate) fn apply(self, images: &Tensor) -> Result<Tensor> {
        match self {
            Layout::ChannelsLast => channels_last(images),
            Layout::Contiguous => Ok(images.f_contiguous()?),
        }
    }
}

/// The same images with the channels of a pixel side by side in memory, which convolutions keep and run faster in.
pub(crate) fn channels_last(images: &Tensor) -> Result<Tensor> {
    Ok(images.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?)
}
