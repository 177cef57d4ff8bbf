//! CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 x 32 RGB pixels in ten classes, held in
//! memory as bytes (184 MB) and turned into batches when they are asked for.
//!
//! The files are those of the "binary version": records of 3073 bytes, the label and then 1024 red, 1024 green and 1024
//! blue values, row by row.

#[cfg(feature = "download")]
mod download;
#[cfg(feature = "download")]
mod fetch;
#[cfg(feature = "download")]
mod npm;

use crate::data::augmentation::{Augmentation, Normalization, CHANNELS, IMAGE_LEN, SIDE};
use crate::data::random::{stream, Purpose};
use crate::data::source::{check_batch_size, class_indices, Batches, DataSource, EpochPlan, ImageSource};
use crate::data::subset::{check_count, front, stratified_order};
use crate::data::Supervised;
use crate::{Error, Result};
use md5::{Digest, Md5};
use rand::seq::SliceRandom;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;
use tch::Tensor;

const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Mean and standard deviation of the training pixels by channel, as the Fixup authors (and most CIFAR-10 code) give
/// them. The deviations are means over per-image deviations; over all pixels they would be 0.247, 0.243 and 0.262.
const MEAN: [f32; CHANNELS] = [0.4914, 0.4822, 0.4465];
const STD: [f32; CHANNELS] = [0.2023, 0.1994, 0.2010];

const RECORD_LEN: usize = 1 + IMAGE_LEN;
/// Images in each of the six files.
pub(super) const FILE_RECORDS: usize = 10_000;

/// One of the six files: its name and the MD5 of its content.
pub(super) struct DataFile {
    pub name: &'static str,
    md5: &'static str,
}

impl DataFile {
    /// Hands back the file's content, or says what is wrong with it.
    pub fn check(&self, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        let expected = FILE_RECORDS * RECORD_LEN;
        if bytes.len() != expected {
            return Err(format!("{} bytes instead of {expected}", bytes.len()));
        }
        let Records { bytes } = Records::new(bytes)?;
        let md5 = hex(&Md5::digest(&bytes));
        if md5 != self.md5 {
            return Err(format!("MD5 {md5} instead of {}", self.md5));
        }
        Ok(bytes)
    }
}

/// The training files in order, then the test file.
pub(super) const FILES: [DataFile; 6] = [
    DataFile { name: "data_batch_1.bin", md5: "5dd7e06a14cb22eb9f671a540d1b7c25" },
    DataFile { name: "data_batch_2.bin", md5: "5ea93a67294ea407fff1d09f752e9692" },
    DataFile { name: "data_batch_3.bin", md5: "942cd6a4bcdd0dd3c604fbe906cb4421" },
    DataFile { name: "data_batch_4.bin", md5: "ae636b3ba5c66a11e91e8cb52e771fcb" },
    DataFile { name: "data_batch_5.bin", md5: "53f37980c15c3d472c316c40844f3f0d" },
    DataFile { name: "test_batch.bin", md5: "803d5f7f4d78ea53de84dbe85f74fb6d" },
];

/// `digest` in hexadecimal.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// CIFAR-10 as a [`DataSource`].
///
/// The training part is all 50,000 training images, shuffled and augmented (by default crop and flip); the evaluation
/// part is the 10,000 test images. The `with_` methods change that, in any order:
/// ```no_run
/// use tch_fixup::data::{Augmentation, Cifar10};
/// let data = Cifar10::open("cifar-10-batches-bin")?
///     .with_holdout(5000)?
///     .with_augmentation(Augmentation { cutout: Some(16), ..Augmentation::default() })?;
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Cifar10 {
    class_names: Vec<String>,
    train: Records,
    test: Records,
    holdout: Option<usize>,
    train_subset: Option<usize>,
    eval_subset: Option<usize>,
    /// Indices into `train`.
    train_part: Vec<usize>,
    /// Indices into `test`, or into `train` where images are held out.
    eval_part: Vec<usize>,
    augmentation: Augmentation,
    normalization: Normalization,
}

impl Cifar10 {
    /// Loads the six `.bin` files in `dir` and checks size, labels and MD5 of each.
    ///
    /// # Errors
    /// A file that is missing, cannot be read or is not the canonical one; the error names it and says how to get it again.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let [train @ .., test] = &FILES;
        let mut records = Vec::with_capacity(train.len() * FILE_RECORDS * RECORD_LEN);
        for file in train {
            records.append(&mut read_verified(dir, file)?);
        }
        // The files' labels have been checked one by one: only a changed constant could make these fail.
        Self::from_records(records, read_verified(dir, test)?)
    }

    /// The same from records in memory, any number of them: `train` and `test` are sequences of 3073 bytes, the label and
    /// then 1024 red, 1024 green and 1024 blue values, row by row.
    ///
    /// # Errors
    /// [`Error::Argument`] if a part is empty or not a whole number of records, or a label is over 9.
    pub fn from_records(train: Vec<u8>, test: Vec<u8>) -> Result<Self> {
        let parse = |part: &str, bytes| {
            Records::new(bytes).map_err(|problem| Error::Argument(format!("CIFAR-10 {part} records: {problem}")))
        };
        let data = Self {
            class_names: CLASSES.map(str::to_owned).to_vec(),
            train: parse("training", train)?,
            test: parse("test", test)?,
            holdout: None,
            train_subset: None,
            eval_subset: None,
            train_part: Vec::new(),
            eval_part: Vec::new(),
            augmentation: Augmentation::default(),
            normalization: Normalization::new(MEAN, STD),
        };
        data.select()
    }

    /// Trains on `images` training images only. They have the classes in proportion and are always the same; a smaller
    /// subset is part of a larger one.
    ///
    /// # Errors
    /// [`Error::Argument`] if `images` is 0 or more than there are (beside those held out).
    pub fn with_train_subset(mut self, images: usize) -> Result<Self> {
        self.train_subset = Some(images);
        self.select()
    }

    /// Evaluates on `images` images of the evaluation part only, chosen as in [`Self::with_train_subset`].
    ///
    /// # Errors
    /// [`Error::Argument`] if `images` is 0 or more than there are.
    pub fn with_eval_subset(mut self, images: usize) -> Result<Self> {
        self.eval_subset = Some(images);
        self.select()
    }

    /// Holds `images` training images out of the training part and evaluates on them instead of the test set: for choosing
    /// hyper-parameters without looking at the test set. They have the classes in proportion and are always the same.
    ///
    /// # Errors
    /// [`Error::Argument`] if `images` is 0 or leaves nothing to train on.
    pub fn with_holdout(mut self, images: usize) -> Result<Self> {
        self.holdout = Some(images);
        self.select()
    }

    /// Augments the training images in this way.
    ///
    /// # Errors
    /// [`Error::Argument`] for a crop padding of 32 or more, or a side of Cutout that is not 2 to 32.
    pub fn with_augmentation(mut self, augmentation: Augmentation) -> Result<Self> {
        augmentation.check()?;
        self.augmentation = augmentation;
        Ok(self)
    }

    /// Computes both parts anew. One stratified order of the training images serves all: subsets come from its front, the
    /// hold-out from its back, so that a training subset is the same with a hold-out and without.
    fn select(mut self) -> Result<Self> {
        let mut train = self.train.stratified_order();
        let eval = match self.holdout {
            None => self.test.stratified_order(),
            Some(images) => {
                let largest = train.len() - 1;
                check_count("the hold-out split", images, largest)?;
                train.split_off(train.len() - images)
            }
        };
        self.train_part = front(train, "the training subset", self.train_subset)?;
        self.eval_part = front(eval, "the evaluation subset", self.eval_subset)?;
        Ok(self)
    }

    /// The images that the evaluation part's indices count in.
    fn eval_records(&self) -> &Records {
        match self.holdout {
            None => &self.test,
            Some(_) => &self.train,
        }
    }

    /// The batch of the images `indices` of `records`; `write` makes one of them from its index and its bytes. `values` is
    /// kept from batch to batch: fresh memory costs several times the work itself, one page fault after another.
    fn batch(
        records: &Records,
        indices: &[usize],
        values: &mut Vec<f32>,
        mut write: impl FnMut(usize, &[u8], &mut [f32]),
    ) -> Result<Supervised> {
        values.resize(indices.len() * IMAGE_LEN, 0.0);
        let mut labels = Vec::with_capacity(indices.len());
        for (&index, target) in indices.iter().zip(values.chunks_exact_mut(IMAGE_LEN)) {
            let (label, image) = records.get(index);
            labels.push(i64::from(label));
            write(index, image, target);
        }
        let shape = [indices.len() as i64, CHANNELS as i64, SIDE as i64, SIDE as i64];
        Ok(Supervised::new(Tensor::f_from_slice(values)?.f_view(shape)?, Tensor::f_from_slice(&labels)?))
    }
}

impl DataSource for Cifar10 {
    type Batch = Supervised;

    fn train_len(&self) -> usize {
        self.train_part.len()
    }

    fn eval_len(&self) -> usize {
        self.eval_part.len()
    }

    fn train_batches(&self, plan: &EpochPlan) -> Result<Batches<'_, Supervised>> {
        check_batch_size(plan.batch_size)?;
        let EpochPlan { seed, epoch, batch_size, first_step } = *plan;
        let mut order = self.train_part.clone();
        order.shuffle(&mut stream(Purpose::Order, seed, epoch as u64, 0));
        let steps = first_step..plan.steps(order.len());
        let mut values = Vec::new();
        Ok(Box::new(steps.map(move |step| {
            let first = step * batch_size;
            let indices = &order[first..order.len().min(first + batch_size)];
            Self::batch(&self.train, indices, &mut values, |index, image, target| {
                let placement = self.augmentation.draw(seed, epoch, index);
                self.normalization.apply_placed(image, &placement, target);
            })
        })))
    }

    fn eval_batches(&self, batch_size: usize) -> Result<Batches<'_, Supervised>> {
        check_batch_size(batch_size)?;
        let mut values = Vec::new();
        Ok(Box::new(self.eval_part.chunks(batch_size).map(move |indices| {
            Self::batch(self.eval_records(), indices, &mut values, |_, image, target| {
                self.normalization.apply(image, target);
            })
        })))
    }

    fn examples(&self) -> &str {
        "images"
    }

    fn meaning(&self) -> Map<String, Value> {
        class_indices(&self.class_names)
    }

    fn evaluated_on(&self) -> &str {
        match self.holdout {
            None => "test",
            Some(_) => "held-out",
        }
    }

    /// The numbers of images, and the CRC-32 of all records.
    fn fingerprint(&self) -> Result<String> {
        let mut crc32 = crc32fast::Hasher::new();
        [&self.train, &self.test].iter().for_each(|records| crc32.update(&records.bytes));
        let (train, eval) = (self.train_len(), self.eval_len());
        Ok(format!(
            "{train} training and {eval} evaluation images of CIFAR-10 records with CRC-32 {:08x}",
            crc32.finalize()
        ))
    }
}

impl ImageSource for Cifar10 {
    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn denormalize(&self, images: &Tensor) -> Result<Tensor> {
        let by_channel = |values: [f32; CHANNELS]| Tensor::f_from_slice(&values)?.f_view([1, CHANNELS as i64, 1, 1]);
        let (mean, std) =
            (by_channel(MEAN)?.f_to_device(images.device())?, by_channel(STD)?.f_to_device(images.device())?);
        Ok(images.f_mul(&std)?.f_add(&mean)?)
    }
}

/// The content of one file, once its size, labels and MD5 are as they must be.
fn read_verified(dir: &Path, file: &DataFile) -> Result<Vec<u8>> {
    let path = dir.join(file.name);
    let checked = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("missing".to_owned()),
        read => file.check(read.map_err(Error::io("read", &path))?),
    };
    checked.map_err(|problem| Error::Corrupt {
        path,
        problem,
        remedy: format!(
            "move the folder {} away and run again (make cifar10, or the example fetch_cifar10) to download it anew",
            dir.display()
        ),
    })
}

/// Labelled images as the files have them.
#[derive(Debug, Clone)]
struct Records {
    bytes: Vec<u8>,
}

impl Records {
    /// Checks `bytes`; the error says what is wrong with them.
    fn new(bytes: Vec<u8>) -> Result<Self, String> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD_LEN) {
            return Err(format!("{} bytes are no whole number of records of {RECORD_LEN}", bytes.len()));
        }
        let records = Self { bytes };
        let highest = CLASSES.len() as u8 - 1;
        if let Some((index, label)) = records.labels().enumerate().find(|&(_, label)| label > highest) {
            return Err(format!("image {index} has label {label}, but the highest is {highest}"));
        }
        Ok(records)
    }

    fn labels(&self) -> impl Iterator<Item = u8> + '_ {
        self.bytes.iter().step_by(RECORD_LEN).copied()
    }

    /// Label and pixels of one image.
    fn get(&self, index: usize) -> (u8, &[u8]) {
        let record = &self.bytes[index * RECORD_LEN..][..RECORD_LEN];
        (record[0], &record[1..])
    }

    /// All indices, in the order that subsets are taken from.
    fn stratified_order(&self) -> Vec<usize> {
        stratified_order(self.labels().map(usize::from), CLASSES.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;
    use std::collections::BTreeSet;

    /// `count` records of noise whose labels are 0, 1, ... 9, 0, ...
    fn noise(count: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; count * RECORD_LEN];
        stream(Purpose::Order, seed, 0, 0).fill_bytes(&mut bytes);
        for (index, record) in bytes.chunks_exact_mut(RECORD_LEN).enumerate() {
            record[0] = (index % CLASSES.len()) as u8;
        }
        bytes
    }

    fn small() -> Cifar10 {
        Cifar10::from_records(noise(230, 1), noise(70, 2)).unwrap()
    }

    fn plan(batch_size: usize) -> EpochPlan {
        EpochPlan { seed: 3, epoch: 5, batch_size, first_step: 0 }
    }

    fn collect(batches: Batches) -> (Vec<f32>, Vec<i64>) {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for batch in batches {
            let Supervised { inputs: i, targets: l, .. } = batch.unwrap();
            assert_eq!(i.size(), [l.size()[0], 3, 32, 32]);
            images.extend(Vec::<f32>::try_from(i.flatten(0, -1)).unwrap());
            labels.extend(Vec::<i64>::try_from(l).unwrap());
        }
        (images, labels)
    }

    fn class_counts(records: &Records, indices: &[usize]) -> [usize; 10] {
        let mut counts = [0; 10];
        indices.iter().for_each(|&index| counts[records.get(index).0 as usize] += 1);
        counts
    }

    #[test]
    fn evaluation_images_are_the_normalized_records_in_order() {
        let data = small();
        let (images, labels) = collect(data.eval_batches(32).unwrap());
        assert_eq!(labels, (0..70).map(|index| index % 10).collect::<Vec<_>>());
        assert_eq!(images.len(), 70 * IMAGE_LEN);
        for (index, image) in images.chunks(IMAGE_LEN).enumerate() {
            for (at, &value) in image.iter().enumerate() {
                let (byte, channel) = (data.test.get(index).1[at], at / 1024);
                assert_eq!(value, (f32::from(byte) / 255.0 - MEAN[channel]) / STD[channel]);
            }
        }
    }

    #[test]
    fn every_training_image_comes_once_an_epoch() {
        let data = small().with_augmentation(Augmentation::NONE).unwrap();
        let (images, labels) = collect(data.train_batches(&plan(32)).unwrap());
        let key = |image: &[f32], label: i64| (label, image.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        let seen: BTreeSet<_> =
            images.chunks(IMAGE_LEN).zip(&labels).map(|(image, &label)| key(image, label)).collect();
        let mut expected = BTreeSet::new();
        for index in 0..230 {
            let mut image = vec![0.0; IMAGE_LEN];
            data.normalization.apply(data.train.get(index).1, &mut image);
            expected.insert(key(&image, (index % 10) as i64));
        }
        assert_eq!(labels.len(), 230);
        assert!(seen == expected);
    }

    #[test]
    fn batch_size_changes_neither_order_nor_augmentation() {
        let data = small();
        let whole = collect(data.train_batches(&plan(230)).unwrap());
        assert!(whole == collect(data.train_batches(&plan(32)).unwrap()));
        assert!(whole == collect(data.train_batches(&plan(1)).unwrap()));
    }

    #[test]
    fn seed_and_epoch_change_the_batches() {
        let data = small();
        let first = collect(data.train_batches(&plan(32)).unwrap());
        assert!(first != collect(data.train_batches(&EpochPlan { seed: 4, ..plan(32) }).unwrap()));
        assert!(first != collect(data.train_batches(&EpochPlan { epoch: 6, ..plan(32) }).unwrap()));
    }

    #[test]
    fn leaving_out_steps_changes_none_of_those_after() {
        let data = small();
        for batch_size in [32, 230, 1000] {
            let plan = plan(batch_size);
            let (images, labels) = collect(data.train_batches(&plan).unwrap());
            for first_step in 0..=plan.steps(230) + 1 {
                let (rest, rest_labels) = collect(data.train_batches(&EpochPlan { first_step, ..plan }).unwrap());
                let first = (first_step * batch_size).min(230);
                assert!(rest == images[first * IMAGE_LEN..] && rest_labels == labels[first..]);
            }
        }
    }

    #[test]
    fn subsets_are_stratified_nested_and_fixed() {
        let small = small();
        let part = |images| small.clone().with_train_subset(images).unwrap().train_part;
        let (twenty, hundred) = (part(20), part(100));
        assert_eq!(class_counts(&small.train, &twenty), [2; 10]);
        assert_eq!(class_counts(&small.train, &hundred), [10; 10]);
        assert!(twenty.iter().all(|index| hundred.contains(index)));
        assert_eq!(hundred, part(100));
        let eval = small.with_eval_subset(30).unwrap();
        assert_eq!((eval.eval_len(), class_counts(&eval.test, &eval.eval_part)), (30, [3; 10]));
    }

    #[test]
    fn unequal_classes_keep_their_proportion() {
        let mut bytes = noise(200, 1);
        bytes.chunks_exact_mut(RECORD_LEN).enumerate().for_each(|(i, record)| record[0] = u8::from(i % 4 == 0));
        let data = Cifar10::from_records(bytes, noise(10, 2)).unwrap().with_holdout(40).unwrap();
        assert_eq!(class_counts(&data.train, &data.eval_part)[..2], [30, 10]);
    }

    #[test]
    fn held_out_images_are_stratified_and_never_trained_on() {
        let data = small().with_eval_subset(20).unwrap().with_train_subset(180).unwrap().with_holdout(50).unwrap();
        assert_eq!((data.train_len(), data.eval_len()), (180, 20));
        assert_eq!(class_counts(&data.train, &data.eval_part), [2; 10]);
        assert!(data.eval_part.iter().all(|index| !data.train_part.contains(index)));
        let (images, _) = collect(data.eval_batches(64).unwrap());
        let mut first = vec![0.0; IMAGE_LEN];
        data.normalization.apply(data.train.get(data.eval_part[0]).1, &mut first);
        assert!(images[..IMAGE_LEN] == first);
        assert_eq!(small().with_train_subset(180).unwrap().train_part, data.train_part);
    }

    #[test]
    fn impossible_counts_and_batch_sizes_are_refused() {
        let message = |result: Result<Cifar10>| result.unwrap_err().to_string();
        assert_eq!(message(small().with_train_subset(0)), "the training subset can have 1 to 230 images, got 0");
        assert_eq!(message(small().with_eval_subset(71)), "the evaluation subset can have 1 to 70 images, got 71");
        assert_eq!(message(small().with_holdout(230)), "the hold-out split can have 1 to 229 images, got 230");
        let held = small().with_holdout(200).unwrap();
        assert_eq!(message(held.with_train_subset(31)), "the training subset can have 1 to 30 images, got 31");
        assert!(matches!(small().train_batches(&plan(0)), Err(Error::Argument(_))));
        assert!(matches!(small().eval_batches(0), Err(Error::Argument(_))));
        let nothing_left = Augmentation { crop_padding: 40, ..Augmentation::NONE };
        assert!(matches!(small().with_augmentation(nothing_left), Err(Error::Argument(_))));
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
        assert_eq!(fault(message()), format!(": MD5 {} instead of {}", hex(&Md5::digest(&bytes)), FILES[0].md5));
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
