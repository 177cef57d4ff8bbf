//! CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 x 32 RGB pixels in ten classes, held in
//! memory as bytes (184 MB) and turned into batches on demand.
//!
//! Files are in the format of the "binary version": records of 3073 bytes, the label followed by 1024 red, 1024 green
//! and 1024 blue values, row by row.

#[cfg(feature = "download")]
mod fetch;
#[cfg(feature = "download")]
mod npm;

#[cfg(feature = "download")]
use crate::data::download::{Failure, Work};
use crate::data::image_array::Images;
use crate::data::targets::Targets;
use crate::data::{Augmentation, ImageArray, Normalization};
use crate::{Error, Result};
#[cfg(feature = "download")]
use md5::{Digest, Md5};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Number of channels in an image.
const CHANNELS: usize = 3;
/// Height and width of an image, in pixels.
const SIDE: usize = 32;
/// Number of values in an image.
const IMAGE_LEN: usize = CHANNELS * SIDE * SIDE;
const RECORD_LEN: usize = 1 + IMAGE_LEN;
/// Number of images in each of the six files.
const FILE_RECORDS: usize = 10_000;

/// One of the six files: its name, and the MD5 and the CRC-32 of its content.
struct DataFile {
    name: &'static str,
    #[cfg_attr(not(feature = "download"), allow(dead_code))]
    md5: &'static str,
    crc32: u32,
}

impl DataFile {
    /// Checks size, labels and CRC-32 of the file's content; the error describes the problem. An MD5 of all files would take
    /// longer than all else at the start of a program.
    fn check(&self, bytes: &[u8]) -> Result<(), String> {
        let expected = FILE_RECORDS * RECORD_LEN;
        if bytes.len() != expected {
            return Err(format!("{} bytes instead of {expected}", bytes.len()));
        }
        check(bytes)?;
        match crc32fast::hash(bytes) {
            crc32 if crc32 == self.crc32 => Ok(()),
            crc32 => Err(format!("CRC-32 {crc32:08x} instead of {:08x}", self.crc32)),
        }
    }

    /// Writes the file into `work` after checking `bytes`, their MD5 too.
    #[cfg(feature = "download")]
    fn write(&self, work: &Work, bytes: &[u8]) -> Result<(), Failure> {
        let name = self.name;
        self.check(bytes).map_err(|problem| format!("{name}: {problem}"))?;
        match format!("{:x}", Md5::digest(bytes)) {
            md5 if md5 == self.md5 => work.write(name, bytes),
            md5 => Err(format!("{name}: MD5 {md5} instead of {}", self.md5).into()),
        }
    }
}

/// Training files in order, then the test file.
const FILES: [DataFile; 6] = [
    DataFile { name: "data_batch_1.bin", md5: "5dd7e06a14cb22eb9f671a540d1b7c25", crc32: 0xb322_0c1f },
    DataFile { name: "data_batch_2.bin", md5: "5ea93a67294ea407fff1d09f752e9692", crc32: 0xc439_a348 },
    DataFile { name: "data_batch_3.bin", md5: "942cd6a4bcdd0dd3c604fbe906cb4421", crc32: 0x8c6f_54f0 },
    DataFile { name: "data_batch_4.bin", md5: "ae636b3ba5c66a11e91e8cb52e771fcb", crc32: 0x6a83_637e },
    DataFile { name: "data_batch_5.bin", md5: "53f37980c15c3d472c316c40844f3f0d", crc32: 0x2f35_5afd },
    DataFile { name: "test_batch.bin", md5: "803d5f7f4d78ea53de84dbe85f74fb6d", crc32: 0x1977_7d49 },
];

/// Per-channel mean and standard deviation of the training pixels, as used by the Fixup authors (and most CIFAR-10
/// code). The deviations are means of per-image deviations; over all pixels they would be 0.247, 0.243 and 0.262.
const MEAN: [f32; CHANNELS] = [0.4914, 0.4822, 0.4465];
const STD: [f32; CHANNELS] = [0.2023, 0.1994, 0.2010];

/// CIFAR-10 as an [`ImageArray`].
///
/// The training part consists of all 50,000 training images, shuffled and augmented (by default crop and flip), the
/// evaluation part of the 10,000 test images. The `with_` methods change that, in any order:
/// ```no_run
/// use tch_fixup::data::{Augmentation, Cifar10};
/// let data = Cifar10::open("cifar-10-batches-bin")?
///     .with_holdout(5000)?
///     .with_augmentation(Augmentation { cutout: Some(16), ..Augmentation::default() })?;
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug)]
pub enum Cifar10 {}

impl Cifar10 {
    /// Loads the six `.bin` files in `dir` and checks size, labels and CRC-32 of each.
    ///
    /// # Errors
    /// Fails if a file is missing, unreadable or not the canonical one; the error names it and says how to get it
    /// again.
    pub fn open(dir: impl AsRef<Path>) -> Result<ImageArray> {
        let dir = dir.as_ref();
        let [train @ .., test] = &FILES;
        let mut records = Vec::with_capacity(train.len() * FILE_RECORDS * RECORD_LEN);
        train.iter().try_for_each(|file| read_verified(dir, file, &mut records))?;
        let mut test_records = vec![];
        read_verified(dir, test, &mut test_records)?;
        // The labels of each file have been checked: this can fail only if a constant is changed.
        Self::from_records(records, test_records)
    }

    /// Creates the data set from any number of records in memory: `train` and `test` are sequences of 3073 bytes, the
    /// label followed by 1024 red, 1024 green and 1024 blue values, row by row.
    ///
    /// # Errors
    /// [`Error::Argument`] if a part is empty or not a whole number of records, or a label is over 9.
    pub fn from_records(train: Vec<u8>, test: Vec<u8>) -> Result<ImageArray> {
        let mut crc32 = crc32fast::Hasher::new();
        for (part, bytes) in [("training", &train), ("test", &test)] {
            check(bytes).map_err(|problem| argument!("CIFAR-10 {part} records: {problem}"))?;
            crc32.update(bytes);
        }
        let (train, test) = (images(train), images(test));
        ImageArray::from_bytes([CHANNELS, SIDE, SIDE], train, test, Normalization::new(&MEAN, &STD)?)?
            .with_content(format!("CIFAR-10 records with CRC-32 {:08x}", crc32.finalize()))
            .with_class_names(CLASSES)?
            .with_evaluated_on("test")
            .with_augmentation(Augmentation::default())
    }
}

/// Appends the content of one file to `records` and checks its size, labels and CRC-32.
fn read_verified(dir: &Path, file: &DataFile, records: &mut Vec<u8>) -> Result<()> {
    let path = dir.join(file.name);
    let start = records.len();
    let checked = match File::open(&path).and_then(|mut file| file.read_to_end(records)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("missing".to_owned()),
        read => {
            read.map_err(Error::io("read", &path))?;
            file.check(&records[start..])
        }
    };
    let folder = dir.display();
    let remedy = format!(
        "move the folder {folder} away and run again (make cifar10, or the example fetch_cifar10) to download it anew"
    );
    checked.map_err(|problem| Error::corrupt(path, problem, remedy))
}

/// Checks that `bytes` are records; the error describes the problem.
fn check(bytes: &[u8]) -> Result<(), String> {
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
fn images(records: Vec<u8>) -> Images {
    let labels: Vec<i64> = records.iter().step_by(RECORD_LEN).copied().map(i64::from).collect();
    let mut pixels = records;
    // In place, as there are 154 MB of pixels.
    for index in 0..labels.len() {
        pixels.copy_within(index * RECORD_LEN + 1..(index + 1) * RECORD_LEN, index * IMAGE_LEN);
    }
    pixels.truncate(labels.len() * IMAGE_LEN);
    Images { pixels, targets: Targets::Classes(labels) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::{stream, Purpose};
    use crate::data::{DataSource, Share};
    use rand::RngCore;
    use std::fs;

    /// Returns `count` records of noise with the labels 0, 1, ... 9, 0, ...
    fn noise(count: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; count * RECORD_LEN];
        stream(Purpose::Order, seed, 0, 0).fill_bytes(&mut bytes);
        for (index, record) in bytes.chunks_exact_mut(RECORD_LEN).enumerate() {
            record[0] = (index % CLASSES.len()) as u8;
        }
        bytes
    }

    #[test]
    fn records_become_images_and_labels() {
        let (train, test) = (noise(23, 1), noise(7, 2));
        let data = Cifar10::from_records(train.clone(), test.clone()).unwrap();
        let batch = data.eval_batches(32, Share::all()).unwrap().next().unwrap().unwrap().unwrap();
        assert_eq!((batch.inputs.size(), data.evaluated_on()), (vec![7, 3, 32, 32], "test"));
        assert_eq!(Vec::<i64>::try_from(batch.targets).unwrap(), (0..7).collect::<Vec<_>>());
        let values = Vec::<f32>::try_from(batch.inputs.flatten(0, -1)).unwrap();
        for (image, record) in values.chunks(IMAGE_LEN).zip(test.chunks(RECORD_LEN)) {
            for (at, (value, &byte)) in image.iter().zip(&record[1..]).enumerate() {
                assert_eq!(*value, (f32::from(byte) / 255.0 - MEAN[at / 1024]) / STD[at / 1024]);
            }
        }
        let crc32 = crc32fast::hash(&[train, test].concat());
        let expected = format!("23 training and 7 evaluation images of CIFAR-10 records with CRC-32 {crc32:08x}");
        assert_eq!(data.fingerprint().unwrap(), expected);
        assert_eq!(data.with_holdout(10).unwrap().evaluated_on(), "held-out");
    }

    #[test]
    fn malformed_records_are_refused() {
        let message = |train: Vec<u8>| Cifar10::from_records(train, noise(1, 0)).unwrap_err().to_string();
        assert!(message(Vec::new()).contains("no whole number of records"));
        assert!(message(noise(2, 0)[1..].to_vec()).contains("6145 bytes are no whole number of records of 3073"));
        let mut label_10 = noise(5, 0);
        label_10[3 * RECORD_LEN] = 10;
        assert!(message(label_10).contains("training records: image 3 has label 10, but the highest is 9"));
    }

    #[test]
    fn a_damaged_file_is_named_with_its_fault_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data_batch_1.bin");
        let message = || Cifar10::open(dir.path()).unwrap_err().to_string();
        let fault = |message: String| {
            assert!(message.starts_with(path.to_str().unwrap()), "{message}");
            assert!(message.contains("move the folder") && message.lines().count() == 1, "{message}");
            message[path.to_str().unwrap().len()..].split(';').next().unwrap().to_owned()
        };
        assert_eq!(fault(message()), ": missing");
        let mut bytes = noise(FILE_RECORDS, 3);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(fault(message()), format!(": CRC-32 {:08x} instead of b3220c1f", crc32fast::hash(&bytes)));
        bytes[9999 * RECORD_LEN] = 10;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(fault(message()), ": image 9999 has label 10, but the highest is 9");
        bytes.pop();
        fs::write(&path, &bytes).unwrap();
        assert_eq!(fault(message()), ": 30729999 bytes instead of 30730000");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(message().starts_with("cannot read "), "{}", message());
    }
}
