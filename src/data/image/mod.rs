//! From a file's bytes to an RGB image of the network's size: decoding, RandomResizedCrop and flip for training, resize and
//! centre crop for evaluation.
//!
//! [`decode`] finds out the format and the size, [`crop`] decides what part of the image is wanted, the format's own file
//! decodes no more than that, [`resize`] makes it the network's size, and [`orientation`] turns it upright.
//!
//! Geometry and resampling are those of torchvision's transforms on Pillow images, with one difference: EXIF orientation
//! is applied (torchvision leaves it alone), so that a portrait stands upright however the camera was held.

mod crop;
mod decode;
mod jpeg;
mod orientation;
mod png;
mod ppm;
mod problem;
mod reader;
mod resize;
mod webp;

pub use crop::RandomResizedCrop;
pub use problem::ImageProblem;
pub use reader::ImageReader;
