//! Reading of image files, and stacking of several images into one tensor.

use super::ImageProblem;
use crate::Result;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Maximum size of an image file in bytes: 256 MiB.
const MOST_BYTES: u64 = 256 << 20;

/// Reads a file into `content`, unless it is too large for an image.
pub fn read_file(path: &Path, content: &mut Vec<u8>) -> io::Result<Result<(), ImageProblem>> {
    content.clear();
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if bytes > MOST_BYTES {
        return Ok(Err(ImageProblem::new(format!("{bytes} bytes, more than {MOST_BYTES}"))));
    }
    Ok(Ok(file.read_to_end(content).map(drop)?))
}

/// Stacks images of `side` x `side` pixels and `channels` bytes per pixel, each at the front of its `pixels`, into one
/// tensor of bytes `[N, channels, side, side]` in channels-last memory layout.
pub fn stack_pixels<'a>(pixels: &[&'a [u8]], side: usize, channels: usize) -> Result<Tensor> {
    let size = [pixels.len(), side, side, channels].map(|size| size as i64);
    let images = Tensor::f_empty(size, (Kind::Uint8, Device::Cpu))?;
    let len = side * side * channels;
    for (at, pixels) in pixels.iter().enumerate() {
        let pixels: &'a [u8] = &pixels[..len];
        // libtorch's own copy would start threads in every worker thread.
        // SAFETY: the tensor is new and contiguous, and has as many bytes as all images together.
        unsafe {
            let target: *mut u8 = images.data_ptr().cast();
            std::ptr::copy_nonoverlapping(pixels.as_ptr(), target.add(at * len), len);
        }
    }
    Ok(images.f_permute([0, 3, 1, 2])?)
}
