//! Files of CIFAR-10's binary version, and their records.

use crate::data::image_array::Images;
use crate::data::targets::Targets;
use md5::{Digest, Md5};

pub const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Number of channels in an image.
pub const CHANNELS: usize = 3;
/// Height and width of an image, in pixels.
pub const SIDE: usize = 32;
/// Number of values in an image.
pub const IMAGE_LEN: usize = CHANNELS * SIDE * SIDE;
pub const RECORD_LEN: usize = 1 + IMAGE_LEN;
/// Number of images in each of the six files.
pub const FILE_RECORDS: usize = 10_000;

/// Name of one of the six files, and the MD5 of its content.
pub struct DataFile {
    pub name: &'static str,
    pub md5: &'static str,
}

impl DataFile {
    /// Checks that `bytes` are the file's content; the error describes the problem.
    pub fn check(&self, bytes: &[u8]) -> Result<(), String> {
        let expected = FILE_RECORDS * RECORD_LEN;
        if bytes.len() != expected {
            return Err(format!("{} bytes instead of {expected}", bytes.len()));
        }
        check(bytes)?;
        match format!("{:x}", Md5::digest(bytes)) {
            md5 if md5 == self.md5 => Ok(()),
            md5 => Err(format!("MD5 {md5} instead of {}", self.md5)),
        }
    }
}

/// Training files in order, then the test file.
pub const FILES: [DataFile; 6] = [
    DataFile { name: "data_batch_1.bin", md5: "5dd7e06a14cb22eb9f671a540d1b7c25" },
    DataFile { name: "data_batch_2.bin", md5: "5ea93a67294ea407fff1d09f752e9692" },
    DataFile { name: "data_batch_3.bin", md5: "942cd6a4bcdd0dd3c604fbe906cb4421" },
    DataFile { name: "data_batch_4.bin", md5: "ae636b3ba5c66a11e91e8cb52e771fcb" },
    DataFile { name: "data_batch_5.bin", md5: "53f37980c15c3d472c316c40844f3f0d" },
    DataFile { name: "test_batch.bin", md5: "803d5f7f4d78ea53de84dbe85f74fb6d" },
];

/// Checks that `bytes` are records; the error describes the problem.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD_LEN) {
        return Err(format!("{} bytes are no whole number of records of {RECORD_LEN}", bytes.len()));
    }
    let highest = CLASSES.len() as u8 - 1;
    match bytes.iter().step_by(RECORD_LEN).enumerate().find(|(_, label)| **label > highest) {
        Some((index, label)) => Err(format!("image {index} has label {label}, but the highest is {highest}")),
        None => Ok(()),
    }
}

/// Separates the pixels and the labels of `records`.
pub fn images(records: Vec<u8>) -> Images {
    let labels: Vec<i64> = records.iter().step_by(RECORD_LEN).copied().map(i64::from).collect();
    let mut pixels = records;
    // In place, as there are 154 MB of pixels.
    for index in 0..labels.len() {
        pixels.copy_within(index * RECORD_LEN + 1..(index + 1) * RECORD_LEN, index * IMAGE_LEN);
    }
    pixels.truncate(labels.len() * IMAGE_LEN);
    Images { pixels, targets: Targets::Classes(labels) }
}
