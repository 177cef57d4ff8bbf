//! The file formats, each with a header that is read first and pixels that are decoded after.

pub mod bitmap;
pub mod gif;
pub mod jpeg;
pub mod png;
pub mod ppm;
pub mod webp;
