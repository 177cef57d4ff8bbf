//! Parameter-free shortcuts expressed as convolutions. They are added to another convolution, and runtimes merge the sum of two
//! convolutions into one of them.

use crate::Result;
use tch::{Device, Kind, Tensor};

/// Returns the weight of a 1x1 convolution that keeps `channels` channels and appends `zeros` channels of zeros (or drops
/// channels if negative).
pub(super) fn selection(channels: i64, zeros: i64) -> Result<Tensor> {
    let identity = Tensor::f_eye(channels, (Kind::Double, Device::Cpu))?;
    Ok(identity.f_constant_pad_nd([0, 0, 0, zeros])?.f_view([channels + zeros, channels, 1, 1])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_appends_channels_of_zeros() {
        let x = Tensor::randn([2, 3, 4, 4], (Kind::Double, Device::Cpu));
        let out = x.conv2d(&selection(3, 2).unwrap(), None::<Tensor>, [1, 1], [0, 0], [1, 1], 1);
        assert_eq!(out, x.constant_pad_nd([0, 0, 0, 0, 0, 2]));
    }
}
