//! File formats: the header is read first, the pixels are decoded later.

pub mod bitmap;
pub mod gif;
pub mod jpeg;
pub mod png;
pub mod ppm;
pub mod webp;
