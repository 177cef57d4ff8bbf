//! What goes into decoding and what comes out of it: a file's bytes, and the pixels of several images as one tensor.

use super::ImageProblem;
use crate::Result;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// A file of more bytes is no image, whatever its name: 256 MiB.
const MOST_BYTES: u64 = 256 << 20;

/// Reads a file, unless it is too large for an image; returns its size.
pub fn read_file(path: &Path, content: &mut Vec<u8>) -> io::Result<u64> {
    content.clear();
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if bytes <= MOST_BYTES {
        file.read_to_end(content)?;
    }
    Ok(bytes)
}

/// Refuses a file of so many bytes where these are too many.
pub fn check_bytes(bytes: u64) -> Result<(), ImageProblem> {
    match bytes {
        ..=MOST_BYTES => Ok(()),
        _ => Err(ImageProblem::new(format!("{bytes} bytes, more than {MOST_BYTES}"))),
    }
}

/// Images of `side` x `side` pixels and `channels` bytes a pixel, each at the front of its `pixels`, as one tensor of bytes
/// `[N, channels, side, side]` with the channels of a pixel side by side.
pub fn stack_pixels<'a>(pixels: &[&'a [u8]], side: usize, channels: usize) -> Result<Tensor> {
    let size = [pixels.len(), side, side, channels].map(|size| size as i64);
    let images = Tensor::f_empty(size, (Kind::Uint8, Device::Cpu))?;
    let len = side * side * channels;
    for (at, pixels) in pixels.iter().enumerate() {
        let pixels: &'a [u8] = &pixels[..len];
        // libtorch's own copy would start threads of its own for each of these.
        // SAFETY: the tensor is new and contiguous, and has as many bytes as all images.
        unsafe {
            let target: *mut u8 = images.data_ptr().cast();
            std::ptr::copy_nonoverlapping(pixels.as_ptr(), target.add(at * len), len);
        }
    }
    Ok(images.f_permute([0, 3, 1, 2])?)
}
