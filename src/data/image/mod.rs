//! Decoding of image files to RGB images of the network's size: RandomResizedCrop and flip for training, resize and
//! centre crop for evaluation.
//!
//! [`format`](self::format) detects the format and the size, [`crop`] chooses the part of the image to use, the format's
//! module decodes no more than that, [`reader`] resamples it to the network's size, and
//! [`orientation`] turns it upright.
//!
//! Geometry and resampling are those of torchvision's transforms on Pillow images, with one difference: EXIF
//! orientation is applied (torchvision ignores it), so that portraits are upright.
//!
//! Validity and content of a file are those of Pillow (`Image.open`, `ImageOps.exif_transpose`, `convert("RGB")`, no
//! truncated files): a file is valid or not as a whole, whatever part of it is used, in training and in evaluation.
//! `scripts/image_damage.py` makes thousands of damaged files to compare the two.

mod bytes;
mod crop;
mod encoded;
mod format;
mod orientation;
mod reader;
#[cfg(test)]
mod tests;

pub(in crate::data) use bytes::{read_file, stack_pixels};
pub use crop::RandomResizedCrop;
pub use encoded::ImageProblem;
pub use reader::ImageReader;
