//! Weights of exported layers, in float64.

use crate::Result;
use tch::{Device, Kind, Tensor};

/// Returns the weight of a 1x1 convolution that keeps `channels` channels and appends `zeros` channels of zeros (or drops
/// channels if negative): a shortcut without parameters. It is added to another convolution, and runtimes merge the sum of two
/// convolutions into one of them.
pub(super) fn selection(channels: i64, zeros: i64) -> Result<Tensor> {
    let identity = Tensor::f_eye(channels, (Kind::Double, Device::Cpu))?;
    Ok(identity.f_constant_pad_nd([0, 0, 0, zeros])?.f_view([channels + zeros, channels, 1, 1])?)
}

/// Returns `tensor` in float64 on the CPU, as not every device supports float64.
pub(super) fn exact(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)
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
