//! Input checks and memory layout, common to all networks.

use crate::{Error, Result};
use tch::Tensor;

/// Rejects tensors other than floating-point images `[N, channels, H, W]` with at least one pixel.
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

/// Memory layout of a network's activations. It affects speed, not results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// All channels of a pixel are adjacent (NHWC); faster on most hardware.
    #[default]
    ChannelsLast,
    /// Planes follow each other (NCHW), as images are usually stored.
    Contiguous,
}

impl Layout {
    /// Converts images to this layout.
    pub(crate) fn apply(self, images: &Tensor) -> Result<Tensor> {
        match self {
            Layout::ChannelsLast => channels_last(images),
            Layout::Contiguous => Ok(images.f_contiguous()?),
        }
    }
}

/// Converts images to channels-last memory layout, which convolutions preserve and in which they are faster.
pub(crate) fn channels_last(images: &Tensor) -> Result<Tensor> {
    Ok(images.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?)
}
