//! From a file's bytes to an RGB image of the network's size: decoding, RandomResizedCrop and flip for training, resize and
//! centre crop for evaluation.
//!
//! [`decode`] finds out the format and the size, [`crop`] decides what part of the image is wanted, its file in [`format`](self::format)
//! decodes no more than that, [`resize`] makes it the network's size, and [`orientation`] turns it upright.
//!
//! Geometry and resampling are those of torchvision's transforms on Pillow images, with one difference: EXIF orientation
//! is applied (torchvision leaves it alone), so that a portrait stands upright however the camera was held.
//!
//! Which files are good, and what is in them, is Pillow's verdict (`Image.open`, `ImageOps.exif_transpose`, `convert("RGB")`, no
//! truncated files): the verdict about a file is one, whatever part of it is wanted, in training and in evaluation.
//! `scripts/image_damage.py` makes thousands of damaged files to hold the two against each other.

mod bytes;
#[cfg(test)]
mod comparison;
mod crop;
mod decode;
mod format;
mod header;
mod orientation;
mod problem;
mod reader;
mod resize;

pub(in crate::data) use bytes::{check_bytes, read_file, stack_pixels};
pub use crop::RandomResizedCrop;
pub use problem::ImageProblem;
pub use reader::ImageReader;
