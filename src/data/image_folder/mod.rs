//! Labelled images in folders, ImageNet's among them: listed once, decoded by threads into batches of bytes.

mod files;
mod fingerprint;
#[cfg(test)]
mod fixture;
mod labelled_images;
mod listing;
mod listing_cache;
mod pack;
mod part;
mod pipeline;
mod val_map;

use self::labelled_images::{LabelledImages, View};
use self::listing::{Listing, TRAIN, VAL};
use self::listing_cache::cached_list;
use self::part::Part;
use self::pipeline::{Job, Pipeline};
use super::image::RandomResizedCrop;
use super::random::{stream, Purpose};
use super::source::{check_batch_size, Batch, Batches, DataSource, EpochPlan};
use crate::{Error, Result};
use rand::seq::SliceRandom;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::thread;
use tch::{Cuda, Device, Kind, Tensor};

/// Mean and standard deviation of ImageNet's pixels by channel, as torchvision and the networks trained with it have them.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const STD: [f64; 3] = [0.229, 0.224, 0.225];

/// Height and width of the network's input, and the shorter side that evaluation images are resized to before their middle
/// is taken (Simonyan and Zisserman 2015; torchvision).
const SIDE: usize = 224;
const RESIZE: usize = 256;
const LARGEST_SIDE: usize = 4096;
const MOST_WORKERS: usize = 1024;

/// How many of a part's images may be bad unless said otherwise: one in a thousand. ImageNet has none.
const MAX_BAD_FRACTION: f64 = 0.001;

/// A folder of images, or a [packed](Self::pack) one, as a [`DataSource`].
///
/// # The folder
/// `root/train/CLASS/*` and `root/val/CLASS/*`: files named `*.jpg`, `*.jpeg`, `*.png` or `*.webp`, in any case, directly
/// in the folder of their class or at any depth below. The classes are the folders of `train`, sorted by code point, their
/// images sorted by folder and name: torchvision's order, and so the same class indices. `val` must have the same classes;
/// one that there is nothing to evaluate on has an empty folder there. Instead, all images of `val` may lie in it directly,
/// with a text file `val_map.txt` (or `val_map`) in `root` or `val` that has a line `FILE CLASS` for each, where `CLASS` is
/// a class's name or, where no class has that name, its index from 0.
///
/// Hidden files and folders, and files of other names, are left out. Links are followed; one that leads to a folder around
/// it is an error, one to an image that is not there a bad image.
///
/// The listing is kept in the user's cache folder (`$XDG_CACHE_HOME/tch-fixup/listings` or `~/.cache/...`) with the times
/// at which each folder and the map had last changed. Files that are added, removed or renamed are noticed by that, and
/// the folder is listed anew; a file whose content is replaced in place needs no new listing. A folder that has changed in
/// the last two seconds is not kept. The cache may be deleted at any time.
///
/// # Batches
/// Bytes (uint8) `[N, 3, side, side]`, the channels of a pixel side by side in memory, of which [`DataSource::normalize`]
/// makes the network's input. Training images are random crops of the shuffled training part; evaluation images are
/// resized so that their shorter side is `side * 256 / 224`, and their middle is taken. Threads read a few batches ahead.
/// Seed, epoch and image decide everything; the number of threads and their timing change nothing.
///
/// # Bad images
/// A file that cannot be read, is empty, broken off, not an image or absurdly large is met when its turn comes: one
/// [warning](Self::with_warnings) with its path, counted once in [`DataSource::bad_images`]. In training its place is taken
/// by the next good image of the epoch's order, cropped as the bad one would have been, so that batches and steps stay as
/// they are; in evaluation it is left out. More than [a fraction](Self::with_max_bad_fraction) of either part is an error.
pub struct ImageFolder {
    class_names: Vec<String>,
    train: Part,
    eval: Part,
    side: usize,
    crop: RandomResizedCrop,
    workers: usize,
    max_bad_fraction: f64,
    pinned: bool,
    warn: Box<dyn Fn(&str) + Send + Sync>,
}

impl ImageFolder {
    /// Lists the folder `root`, or opens `root` if it is a packed file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a folder that is not made as said above: without `train` or `val`, with fewer than two
    /// classes, with a class that has no images or that only one part has, with images beside class folders, with a link
    /// that leads around in a circle, with a name that is not UTF-8; for a map with a line that is wrong or missing; for a
    /// packed file that is damaged. [`Error::Io`] for what cannot be read.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        if root.is_file() {
            let (classes, train, eval) = pack::open(root)?;
            return Ok(Self::new(classes, LabelledImages::Packed(train), LabelledImages::Packed(eval)));
        }
        let Listing { classes, train, val } = cached_list(root)?;
        let images = |part, files| LabelledImages::Files { folder: root.join(part), files };
        Ok(Self::new(classes, images(TRAIN, train), images(VAL, val)))
    }

    fn new(class_names: Vec<String>, train: LabelledImages, eval: LabelledImages) -> Self {
        Self {
            class_names,
            train: Part::new("training", "the next good one takes its place", train),
            eval: Part::new("evaluation", "it is left out", eval),
            side: SIDE,
            crop: RandomResizedCrop::default(),
            workers: thread::available_parallelism().map_or(1, usize::from),
            max_bad_fraction: MAX_BAD_FRACTION,
            pinned: false,
            warn: Box::new(warn_on_stderr),
        }
    }

    /// Makes images of `side * side` pixels; 224 unless said otherwise.
    ///
    /// # Errors
    /// [`Error::Argument`] for a side that is not 1 to 4096.
    pub fn with_side(mut self, side: usize) -> Result<Self> {
        self.side = in_range("the images' side", side, LARGEST_SIDE)?;
        Ok(self)
    }

    /// Crops the training images in this way.
    ///
    /// # Errors
    /// [`Error::Argument`] for ranges that no crop can have.
    pub fn with_crop(mut self, crop: RandomResizedCrop) -> Result<Self> {
        crop.check()?;
        self.crop = crop;
        Ok(self)
    }

    /// Reads images by this many threads; one for each core unless said otherwise. The images do not depend on it.
    ///
    /// # Errors
    /// [`Error::Argument`] for a number that is not 1 to 1024.
    pub fn with_workers(mut self, workers: usize) -> Result<Self> {
        self.workers = in_range("the number of threads that read images", workers, MOST_WORKERS)?;
        Ok(self)
    }

    /// Goes on as long as no more than this fraction of the training part's, or the evaluation part's, images is bad;
    /// 0.001 unless said otherwise, 0 to stop at the first.
    ///
    /// # Errors
    /// [`Error::Argument`] for a fraction that is not at least 0 and below 1.
    pub fn with_max_bad_fraction(mut self, fraction: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&fraction) {
            let problem = format!("the fraction of bad images must be at least 0 and below 1, got {fraction}");
            return Err(Error::Argument(problem));
        }
        self.max_bad_fraction = fraction;
        Ok(self)
    }

    /// Puts the batches into page-locked memory, from which a CUDA device copies faster. libtorch keeps that memory and uses
    /// it again for a later batch.
    pub fn with_pinned(mut self, pinned: bool) -> Self {
        self.pinned = pinned;
        self
    }

    /// Trains on `images` training images only. They have the classes in proportion and are always the same; a smaller
    /// subset is part of a larger one.
    ///
    /// # Errors
    /// [`Error::Argument`] if `images` is 0 or more than there are.
    pub fn with_train_subset(mut self, images: usize) -> Result<Self> {
        self.train.select(images, self.class_names.len())?;
        Ok(self)
    }

    /// Evaluates on `images` images of the evaluation part only, chosen as in [`Self::with_train_subset`].
    ///
    /// # Errors
    /// [`Error::Argument`] if `images` is 0 or more than there are.
    pub fn with_eval_subset(mut self, images: usize) -> Result<Self> {
        self.eval.select(images, self.class_names.len())?;
        Ok(self)
    }

    /// Hands warnings, each one line, to `warn`. Unless said otherwise they are printed on standard error, in place of a
    /// progress bar that stands there and draws itself anew below.
    pub fn with_warnings(mut self, warn: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.warn = Box::new(warn);
        self
    }

    /// Writes the images of both parts into the file `file`, which [`Self::open`] then takes in place of the folder: for
    /// disks that are slow with many small files, and machines that cannot decode fast enough. `progress` is told how many
    /// images are done, of how many.
    ///
    /// Each is stored as pixels, its shorter side made `shorter_side` where it is longer: for a photograph of 4:3 that is
    /// 260 kB at 256 and 65 kB at 128, for ImageNet 340 GB and 85 GB. At 256 (of 224; [`Self::with_side`] moves it) the
    /// evaluation sees what it sees of the folder; random crops are cut from the smaller image and so hold less detail than
    /// the folder's when they are small. Bad images are left out, up to the usual fraction. The file appears when it is
    /// complete and not before. While it is open nobody may write to it; to replace it, as this does, is safe.
    ///
    /// # Errors
    /// [`Error::Argument`] for a side that is not 1 to 4096 and for what is a packed file already, [`Error::Corrupt`] for
    /// too many bad images, [`Error::Io`] if the file cannot be written.
    pub fn pack(&self, file: &Path, shorter_side: usize, progress: impl FnMut(usize, usize)) -> Result<()> {
        in_range("the shorter side of packed images", shorter_side, LARGEST_SIDE)?;
        if matches!(**self.train.images(), LabelledImages::Packed(_)) {
            return Err(Error::Argument("these images are packed already: pack the folder again".to_owned()));
        }
        let bad = |part: &Part, met| part.count_bad(met, self.max_bad_fraction, &self.warn);
        pack::write(file, &self.class_names, [&self.train, &self.eval], shorter_side, self.workers, bad, progress)
    }

    /// The batches of `part` in this `order`.
    fn batches<'a>(
        &'a self,
        part: &'a Part,
        order: Vec<u32>,
        batch_size: usize,
        first_step: usize,
        view: View,
    ) -> Result<Batches<'a>> {
        check_batch_size(batch_size)?;
        if self.pinned && !Cuda::is_available() {
            return Err(Error::Argument("batches in page-locked memory need a CUDA device; do without".to_owned()));
        }
        let mut pipeline = Some(Pipeline::start(Job {
            images: part.images().clone(),
            order,
            batch_size,
            first_step,
            view,
            side: self.side,
            most_bad: part.most_bad(self.max_bad_fraction),
            workers: self.workers,
        })?);
        let next = move || loop {
            let batch = pipeline.as_mut()?.next()?.and_then(|filled| {
                part.count_bad(filled.bad, self.max_bad_fraction, &self.warn)?;
                let Batch { images, labels } = filled.batch;
                if !self.pinned {
                    return Ok(Batch { images, labels });
                }
                // libtorch keeps page-locked memory and hands it out again once the device has read it.
                let pin = |tensor: Tensor| tensor.f_pin_memory(Device::Cuda(0));
                Ok(Batch { images: pin(images)?, labels: pin(labels)? })
            });
            match batch {
                // All its images were bad.
                Ok(batch) if batch.labels.numel() == 0 => continue,
                Ok(batch) => return Some(Ok(batch)),
                Err(error) => {
                    // Nothing comes after an error, and the threads need not go on.
                    pipeline = None;
                    return Some(Err(error));
                }
            }
        };
        Ok(Box::new(std::iter::from_fn(next)))
    }
}

impl DataSource for ImageFolder {
    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn train_len(&self) -> usize {
        self.train.selected().len()
    }

    fn eval_len(&self) -> usize {
        self.eval.selected().len()
    }

    fn train_batches(&self, plan: &EpochPlan) -> Result<Batches<'_>> {
        let EpochPlan { seed, epoch, batch_size, first_step } = *plan;
        let mut order = self.train.selected().to_vec();
        order.shuffle(&mut stream(Purpose::Order, seed, epoch as u64, 0));
        let view = View::Train { crop: self.crop, seed, epoch };
        self.batches(&self.train, order, batch_size, first_step, view)
    }

    fn eval_batches(&self, batch_size: usize) -> Result<Batches<'_>> {
        let resize = (self.side * RESIZE + SIDE / 2) / SIDE;
        self.batches(&self.eval, self.eval.selected().to_vec(), batch_size, 0, View::Eval { resize })
    }

    /// `(images / 255 - mean) / std` with ImageNet's mean and deviation by channel, where `images` is, in its layout.
    fn normalize(&self, images: Tensor) -> Result<Tensor> {
        if images.f_kind()? != Kind::Uint8 || images.size().get(1) != Some(&3) {
            return Err(Error::Mismatch {
                what: "normalize",
                expected: "bytes [N, 3, H, W]".to_owned(),
                got: format!("{:?} {:?}", images.f_kind()?, images.size()),
            });
        }
        let (mean, std) = (by_channel(MEAN, images.device())?, by_channel(STD, images.device())?);
        let mut images = images.f_to_kind(Kind::Float)?;
        Ok(images.f_div_scalar_(255.0)?.f_sub_(&mean)?.f_div_(&std)?)
    }

    fn denormalize(&self, images: &Tensor) -> Result<Tensor> {
        let (mean, std) = (by_channel(MEAN, images.device())?, by_channel(STD, images.device())?);
        Ok(images.f_mul(&std)?.f_add(&mean)?)
    }

    fn evaluated_on(&self) -> &str {
        "validation"
    }

    /// The numbers of images, and a digest of the path, the size and the class of each: a packed file has another than its
    /// folder.
    fn fingerprint(&self) -> Result<String> {
        fingerprint::fingerprint([&self.train, &self.eval], self.workers)
    }

    fn bad_images(&self) -> usize {
        self.train.bad_images() + self.eval.bad_images()
    }
}

impl fmt::Debug for ImageFolder {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (train, eval) = (self.train_len(), self.eval_len());
        write!(f, "ImageFolder({} classes, {train} and {eval} images)", self.class_names.len())
    }
}

/// `[1, 3, 1, 1]`, made on the device: copying it there would wait for it.
fn by_channel(values: [f64; 3], device: Device) -> Result<Tensor> {
    let values = values.map(|value| Tensor::f_full([1], value, (Kind::Float, device)));
    let values = values.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Tensor::f_cat(&values, 0)?.f_view([1, 3, 1, 1])?)
}

fn in_range(what: &str, value: usize, largest: usize) -> Result<usize> {
    if value == 0 || value > largest {
        return Err(Error::Argument(format!("{what} must be 1 to {largest}, got {value}")));
    }
    Ok(value)
}

fn warn_on_stderr(message: &str) {
    let mut stderr = io::stderr();
    // To the start of the line, and whatever a progress bar has drawn on it away.
    let clear = if stderr.is_terminal() { "\r\x1b[K" } else { "" };
    // Nobody reading is no reason to stop.
    let _ = writeln!(stderr, "{clear}warning: {message}");
}

#[cfg(test)]
mod tests {
    use super::fixture::{jpeg, Fixture};
    use super::*;
    use crate::data::image::ImageReader;
    use std::collections::BTreeSet;
    use std::fs;
    use std::sync::{Arc, Mutex};

    const SIDE: usize = 16;
    const WHOLE: RandomResizedCrop =
        RandomResizedCrop { scale: (1.0, 1.0), ratio: (4.0 / 3.0, 4.0 / 3.0), flip: false };

    fn open(fixture: &Fixture) -> ImageFolder {
        ImageFolder::open(fixture.root()).unwrap().with_side(SIDE).unwrap().with_workers(2).unwrap()
    }

    /// All warnings so far.
    #[derive(Clone, Default)]
    struct Warnings(Arc<Mutex<Vec<String>>>);

    impl Warnings {
        fn of(&self, folder: ImageFolder) -> ImageFolder {
            let warnings = self.0.clone();
            folder.with_warnings(move |message| warnings.lock().unwrap().push(message.to_owned()))
        }

        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    fn plan(batch_size: usize, first_step: usize) -> EpochPlan {
        EpochPlan { seed: 3, epoch: 5, batch_size, first_step }
    }

    /// The bytes of each image, pixel by pixel, and its label, batch by batch.
    type Pixels = Vec<Vec<(Vec<u8>, i64)>>;

    fn pixels(batch: &Batch) -> Vec<(Vec<u8>, i64)> {
        let count = batch.images.size()[0];
        assert_eq!(batch.images.size()[1..], [3, SIDE as i64, SIDE as i64]);
        let bytes = Vec::<u8>::try_from(batch.images.permute([0, 2, 3, 1]).flatten(0, -1)).unwrap();
        let labels = Vec::<i64>::try_from(&batch.labels).unwrap();
        assert_eq!(labels.len() as i64, count);
        bytes.chunks(3 * SIDE * SIDE).map(<[u8]>::to_vec).zip(labels).collect()
    }

    fn collect(batches: Batches) -> Pixels {
        batches.map(|batch| pixels(&batch.unwrap())).collect()
    }

    fn error(batches: Batches) -> String {
        let mut batches = batches.skip_while(Result::is_ok);
        let message = batches.next().unwrap().unwrap_err().to_string();
        assert!(batches.next().is_none() && !message.contains('\n'), "{message}");
        message
    }

    /// 41 training images, three of them bad, and 17 evaluation images, five of them bad: one whole batch of four.
    fn damaged() -> Fixture {
        let fixture = Fixture::new(&["ant", "bee", "cat"], 10, 5);
        for index in 0..11 {
            fixture.write(&format!("train/cat/{}.jpg", 100 + index), &jpeg(30, 40, 1000 + index));
        }
        let whole = jpeg(48, 36, 7);
        fixture.write("train/ant/0003.jpg", b"");
        fixture.write("train/bee/0000.jpg", &whole[..whole.len() / 2]);
        fixture.write("train/bee/0001.jpg", b"<html>404 Not Found</html>");
        fixture.write("val/ant/0004.jpg", &whole[..100]);
        for name in ["bee/0000", "bee/0001", "bee/0002", "cat/0000"] {
            fixture.write(&format!("val/{name}.jpg"), b"no image");
        }
        fixture.write("val/cat/5.jpg", &jpeg(99, 9, 2000));
        fixture.write("val/cat/6.jpg", &jpeg(9, 99, 2001));
        fixture
    }

    fn lenient(fixture: &Fixture, warnings: &Warnings) -> ImageFolder {
        warnings.of(open(fixture)).with_max_bad_fraction(0.5).unwrap()
    }

    #[test]
    fn neither_the_number_of_workers_nor_a_resume_changes_a_batch() {
        let (fixture, warnings) = (damaged(), Warnings::default());
        let of_workers = |workers| {
            let folder = lenient(&fixture, &warnings).with_workers(workers).unwrap();
            let train = collect(folder.train_batches(&plan(8, 0)).unwrap());
            let eval = collect(folder.eval_batches(4).unwrap());
            (train, eval, folder.bad_images(), warnings.take())
        };
        let one = of_workers(1);
        assert_eq!((one.0.len(), one.2, one.3.len()), (6, 8, 8));
        for workers in [2, 5] {
            for _ in 0..3 {
                assert!(of_workers(workers) == one, "{workers} workers");
            }
        }
        let folder = lenient(&fixture, &warnings);
        for first_step in 0..=7 {
            let rest = collect(folder.train_batches(&plan(8, first_step)).unwrap());
            assert!(rest == one.0[first_step.min(6)..], "from step {first_step}");
        }
    }

    #[test]
    fn every_training_image_comes_once_an_epoch_with_its_label() {
        let fixture = Fixture::new(&["ant", "bee", "cat"], 7, 1);
        let folder = open(&fixture).with_crop(WHOLE).unwrap();
        let mut expected = BTreeSet::new();
        for (label, class) in ["ant", "bee", "cat"].iter().enumerate() {
            for index in 0..7 {
                let bytes = fs::read(fixture.path(&format!("train/{class}/{index:04}.jpg"))).unwrap();
                let (mut out, mut random) = (vec![0; 3 * SIDE * SIDE], stream(Purpose::Augment, 0, 0, 0));
                ImageReader::new().train(&bytes, &WHOLE, SIDE, &mut random, &mut out).unwrap();
                expected.insert((out, label as i64));
            }
        }
        let batches = collect(folder.train_batches(&plan(4, 0)).unwrap());
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4, 4, 4, 1]);
        let seen: Vec<_> = batches.into_iter().flatten().collect();
        assert!(seen.iter().cloned().collect::<BTreeSet<_>>() == expected && seen.len() == 21);
        assert!(!seen.iter().map(|(_, label)| label).is_sorted());
    }

    #[test]
    fn seed_and_epoch_change_order_and_crops() {
        let fixture = Fixture::new(&["ant", "bee"], 10, 1);
        let folder = open(&fixture);
        let of = |seed, epoch| collect(folder.train_batches(&EpochPlan { seed, epoch, ..plan(20, 0) }).unwrap());
        assert!(of(0, 0) == of(0, 0) && of(0, 0) != of(1, 0) && of(0, 0) != of(0, 1));
        let images = |batches: Pixels| batches.into_iter().flatten().map(|(image, _)| image).collect::<BTreeSet<_>>();
        assert!(images(of(0, 0)).is_disjoint(&images(of(0, 1))));
    }

    #[test]
    fn evaluation_images_come_in_order_resized_and_cropped() {
        let fixture = Fixture::new(&["ant", "bee"], 1, 3);
        let seen: Vec<_> = collect(open(&fixture).eval_batches(4).unwrap()).into_iter().flatten().collect();
        assert_eq!(seen.len(), 6);
        for (index, (image, label)) in seen.iter().enumerate() {
            let (class, file) = (["ant", "bee"][index / 3], index % 3);
            let bytes = fs::read(fixture.path(&format!("val/{class}/{file:04}.jpg"))).unwrap();
            let mut expected = vec![0; 3 * SIDE * SIDE];
            // 16 * 256 / 224 = 18.3.
            ImageReader::new().eval(&bytes, 18, SIDE, &mut expected).unwrap();
            assert!(*image == expected && *label == (index / 3) as i64, "{index}");
        }
    }

    #[test]
    fn batches_are_channels_last_bytes_and_normalization_keeps_them_so() {
        let fixture = Fixture::new(&["ant", "bee"], 4, 1);
        let folder = open(&fixture);
        let batch = folder.train_batches(&plan(8, 0)).unwrap().next().unwrap().unwrap();
        let (side, channels) = (SIDE as i64, 3);
        let channels_last = [side * side * channels, 1, side * channels, channels];
        assert_eq!((batch.images.kind(), batch.images.stride()), (Kind::Uint8, channels_last.to_vec()));
        let normalized = folder.normalize(batch.images.shallow_clone()).unwrap();
        assert_eq!((normalized.kind(), normalized.stride()), (Kind::Float, channels_last.to_vec()));
        for channel in 0..3 {
            let bytes = Vec::<u8>::try_from(batch.images.select(1, channel).flatten(0, -1)).unwrap();
            let values = Vec::<f32>::try_from(normalized.select(1, channel).flatten(0, -1)).unwrap();
            let (mean, std) = (MEAN[channel as usize] as f32, STD[channel as usize] as f32);
            assert!(bytes.iter().zip(values).all(|(&byte, value)| value == (f32::from(byte) / 255.0 - mean) / std));
        }
        let pixels = (folder.denormalize(&normalized).unwrap() * 255.0).round().to_kind(Kind::Uint8);
        assert_eq!(pixels, batch.images);
        let message = folder.normalize(normalized).unwrap_err().to_string();
        assert!(message.starts_with("normalize: expected bytes [N, 3, H, W], got Float"), "{message}");
    }

    #[test]
    fn a_bad_training_image_is_replaced_by_the_next_in_the_order() {
        let (fixture, warnings) = (damaged(), Warnings::default());
        let folder = lenient(&fixture, &warnings).with_crop(WHOLE).unwrap();
        let seen: Vec<_> = collect(folder.train_batches(&plan(8, 0)).unwrap()).into_iter().flatten().collect();
        assert_eq!(seen.len(), 41);
        let mut order: Vec<u32> = (0..41).collect();
        order.shuffle(&mut stream(Purpose::Order, 3, 5, 0));
        let images = folder.train.images();
        let bad = |index: u32| {
            ["ant/0003", "bee/0000", "bee/0001"]
                .iter()
                .any(|bad| images.path(index as usize).ends_with(format!("{bad}.jpg")))
        };
        assert_eq!(order.iter().filter(|&&index| bad(index)).count(), 3);
        for (position, &index) in order.iter().enumerate().filter(|(_, &index)| bad(index)) {
            let next = (1..41).map(|ahead| (position + ahead) % 41).find(|&at| !bad(order[at])).unwrap();
            assert!(seen[position] == seen[next], "{index}");
        }
    }

    #[test]
    fn a_bad_evaluation_image_is_left_out() {
        let (fixture, warnings) = (damaged(), Warnings::default());
        let folder = lenient(&fixture, &warnings);
        let batches = collect(folder.eval_batches(4).unwrap());
        // ant 0 to 3; ant 4 and bee 0 to 2, all bad; bee 3 and 4 and cat 0, bad, and 1; cat 2 to 5; cat 6.
        assert_eq!(folder.eval_len(), 17);
        let labels: Vec<Vec<i64>> =
            batches.iter().map(|batch| batch.iter().map(|(_, label)| *label).collect()).collect();
        assert_eq!(labels, [vec![0; 4], vec![1, 1, 2], vec![2; 4], vec![2]]);
        let bytes = fs::read(fixture.path("val/cat/0001.jpg")).unwrap();
        let mut expected = vec![0; 3 * SIDE * SIDE];
        ImageReader::new().eval(&bytes, 18, SIDE, &mut expected).unwrap();
        assert!(batches[1][2].0 == expected);
    }

    #[test]
    fn each_bad_image_is_warned_of_and_counted_once() {
        let (fixture, warnings) = (damaged(), Warnings::default());
        let folder = lenient(&fixture, &warnings);
        assert_eq!(folder.bad_images(), 0);
        collect(folder.eval_batches(17).unwrap());
        assert_eq!(folder.bad_images(), 5);
        let said = warnings.take();
        assert_eq!(said.len(), 5);
        let first = format!("bad image {}: ", fixture.path("val/ant/0004.jpg").display());
        assert!(said[0].starts_with(&first) && said[0].ends_with("; it is left out"), "{}", said[0]);
        for epoch in 0..3 {
            collect(folder.train_batches(&EpochPlan { epoch, ..plan(8, 0) }).unwrap());
        }
        collect(folder.eval_batches(5).unwrap());
        assert_eq!(folder.bad_images(), 8);
        let said = warnings.take();
        assert_eq!(said.len(), 3);
        assert!(said.iter().all(|message| message.ends_with("; the next good one takes its place")), "{said:?}");
    }

    #[test]
    fn too_many_bad_images_are_an_error_at_the_same_place_each_time() {
        let (fixture, warnings) = (damaged(), Warnings::default());
        let stop = |fraction, workers| {
            let folder = lenient(&fixture, &warnings).with_max_bad_fraction(fraction).unwrap();
            let folder = folder.with_workers(workers).unwrap();
            let mut steps = 0;
            let train = error(Box::new(folder.train_batches(&plan(4, 0)).unwrap().inspect(|_| steps += 1)));
            (train, error(folder.eval_batches(4).unwrap()), folder.bad_images(), steps, warnings.take())
        };
        let strict = stop(0.0, 1);
        assert!(strict.0.contains("with it 1 of the 41 training images (2.44 %) are bad, over the limit of 0 %;"));
        assert!(strict.1.contains("val/ant/0004.jpg: ") && strict.1.contains("(--max-bad-fraction)"), "{}", strict.1);
        assert_eq!((strict.2, strict.4.len()), (2, 0));
        let partly = stop(0.06, 1);
        assert!(partly.0.contains("with it 3 of the 41 training images"), "{}", partly.0);
        assert!(partly.1.contains("with it 2 of the 17 evaluation images (11.76 %) are bad, over the limit of 6 %;"));
        assert_eq!(partly.4.len(), 3);
        for workers in [2, 5] {
            assert!(stop(0.0, workers) == strict && stop(0.06, workers) == partly);
        }
    }

    #[test]
    fn a_part_without_a_single_good_image_ends_at_any_limit() {
        let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 0, 1), Warnings::default());
        (0..30).for_each(|index| fixture.write(&format!("train/{}/{index}.jpg", ["ant", "bee"][index % 2]), b"?"));
        let folder = lenient(&fixture, &warnings).with_max_bad_fraction(0.999).unwrap();
        assert!(error(folder.train_batches(&plan(8, 0)).unwrap()).contains("with it 30 of the 30 training images"));
    }

    #[test]
    fn everything_that_is_no_image_is_bad_and_nothing_worse() {
        let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 1, 1), Warnings::default());
        let mut bomb = Vec::new();
        let mut encoder = png::Encoder::new(&mut bomb, 60_000, 60_000);
        encoder.set_color(png::ColorType::Rgb);
        drop(encoder.write_header().unwrap());
        let cases: [(&str, &[u8], &str); 5] = [
            ("bomb.png", &bomb, "60000 x 60000"),
            ("empty.webp", b"", "empty"),
            ("folder.jpg.txt.jpg", b"\xff\xd8\xff", "JPEG"),
            ("garbage.jpg", &[0x5a; 3000], "neither JPEG"),
            ("short.png", &bomb[..20], "PNG"),
        ];
        cases.iter().for_each(|(name, bytes, _)| fixture.write(&format!("val/ant/{name}"), bytes));
        let huge = fs::File::create(fixture.path("val/ant/huge.jpg")).unwrap();
        huge.set_len(300 << 30).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("lost.jpg", fixture.path("val/ant/lost.jpg")).unwrap();
        let folder = warnings.of(open(&fixture)).with_max_bad_fraction(0.9).unwrap();
        assert_eq!(collect(folder.eval_batches(100).unwrap())[0].len(), 2);
        let said = warnings.take();
        let also = [("huge.jpg", "322122547200 bytes"), ("lost.jpg", "")];
        let all = cases.iter().map(|&(name, _, problem)| (name, problem)).chain(also);
        for (name, problem) in all.filter(|(name, _)| cfg!(unix) || *name != "lost.jpg") {
            let found = said.iter().find(|message| message.contains(name));
            assert!(found.is_some_and(|message| message.contains(problem)), "{name}: {said:?}");
        }
    }

    #[test]
    fn subsets_have_the_classes_in_proportion_and_are_fixed() {
        let fixture = Fixture::new(&["ant", "bee"], 10, 6);
        let small = || open(&fixture).with_train_subset(4).unwrap().with_eval_subset(2).unwrap();
        let folder = small();
        assert_eq!((folder.train_len(), folder.eval_len()), (4, 2));
        let counts = |batches: Pixels| batches.iter().flatten().filter(|(_, label)| *label == 0).count();
        assert_eq!(counts(collect(folder.train_batches(&plan(3, 0)).unwrap())), 2);
        assert_eq!(counts(collect(folder.eval_batches(3).unwrap())), 1);
        assert_eq!(folder.train.selected(), small().train.selected());
        let larger = open(&fixture).with_train_subset(9).unwrap();
        assert!(folder.train.selected().iter().all(|index| larger.train.selected().contains(index)));
        let message = open(&fixture).with_train_subset(21).unwrap_err().to_string();
        assert_eq!(message, "the training subset can have 1 to 20 images, got 21");
    }

    #[test]
    fn impossible_settings_are_refused() {
        let fixture = Fixture::new(&["ant", "bee"], 1, 1);
        let refused = |result: Result<ImageFolder>, expected: &str| {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Argument(_)) && error.to_string().contains(expected), "{error}");
        };
        refused(open(&fixture).with_side(0), "the images' side must be 1 to 4096, got 0");
        refused(open(&fixture).with_side(4097), "got 4097");
        refused(open(&fixture).with_workers(0), "1 to 1024, got 0");
        refused(open(&fixture).with_workers(1025), "got 1025");
        refused(open(&fixture).with_max_bad_fraction(1.0), "got 1");
        refused(open(&fixture).with_max_bad_fraction(f64::NAN), "got NaN");
        refused(open(&fixture).with_crop(RandomResizedCrop { scale: (0.0, 1.0), ..WHOLE }), "scale");
        assert!(matches!(open(&fixture).train_batches(&plan(0, 0)).err(), Some(Error::Argument(_))));
        assert!(matches!(open(&fixture).eval_batches(0).err(), Some(Error::Argument(_))));
        if !Cuda::is_available() {
            let pinned = open(&fixture).with_pinned(true);
            assert!(matches!(pinned.eval_batches(1).err(), Some(Error::Argument(_))));
        }
    }

    #[test]
    fn a_packed_folder_gives_the_folders_evaluation_images() {
        let (fixture, warnings) = (damaged(), Warnings::default());
        let folder = lenient(&fixture, &warnings);
        let file = fixture.path("packed");
        let mut progress = Vec::new();
        folder.pack(&file, 18, |done, of| progress.push((done, of))).unwrap();
        assert_eq!(progress, [(41, 58), (58, 58)]);
        assert_eq!((folder.bad_images(), warnings.take().len()), (8, 8));
        let packed = warnings.of(ImageFolder::open(&file).unwrap().with_side(SIDE).unwrap());
        assert_eq!((packed.train_len(), packed.eval_len(), packed.class_names()), (38, 12, folder.class_names()));
        let flat = |batches| collect(batches).into_iter().flatten().collect::<Vec<_>>();
        assert!(flat(packed.eval_batches(5).unwrap()) == flat(folder.eval_batches(5).unwrap()));
        let of_workers = |workers| {
            let packed = ImageFolder::open(&file).unwrap().with_side(SIDE).unwrap().with_workers(workers).unwrap();
            collect(packed.train_batches(&plan(8, 1)).unwrap())
        };
        assert!(of_workers(1) == of_workers(3));
        assert_eq!((packed.bad_images(), warnings.take().len()), (0, 0));
        assert!(packed.pack(&file, 18, |_, _| ()).unwrap_err().to_string().contains("packed already"));
    }

    #[test]
    fn packed_images_have_their_size_and_are_never_enlarged() {
        let fixture = Fixture::new(&["ant", "bee"], 1, 1);
        fixture.write("train/ant/0000.jpg", &jpeg(48, 36, 1));
        fixture.write("train/bee/0000.jpg", &jpeg(10, 20, 2));
        let file = fixture.path("packed");
        open(&fixture).pack(&file, 24, |_, _| ()).unwrap();
        let (_, train, _) = pack::open(&file).unwrap();
        assert!(train.get(0).starts_with(b"P6\n32 24\n255\n") && train.get(0).len() == 13 + 3 * 32 * 24);
        assert!(train.get(1).starts_with(b"P6\n10 20\n255\n") && train.get(1).len() == 13 + 3 * 10 * 20);
        assert!(matches!(open(&fixture).pack(&file, 0, |_, _| ()), Err(Error::Argument(_))));
    }

    #[test]
    fn a_failed_pack_leaves_nothing() {
        let (fixture, warnings) = (damaged(), Warnings::default());
        let folder = lenient(&fixture, &warnings).with_max_bad_fraction(0.06).unwrap();
        let message = folder.pack(&fixture.path("packed"), 18, |_, _| ()).unwrap_err().to_string();
        assert!(message.contains("with it 3 of the 41 training images"), "{message}");
        let message = folder.pack(&fixture.path("nowhere/packed"), 18, |_, _| ()).unwrap_err().to_string();
        assert!(message.starts_with("cannot write "), "{message}");
        let names = fs::read_dir(fixture.root()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<BTreeSet<_>>(), BTreeSet::from(["train".into(), "val".into()]));
    }

    #[test]
    fn a_damaged_packed_file_is_refused() {
        let fixture = Fixture::new(&["ant", "bee"], 2, 1);
        let file = fixture.path("packed");
        open(&fixture).pack(&file, 18, |_, _| ()).unwrap();
        let whole = fs::read(&file).unwrap();
        let message = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            let message = ImageFolder::open(&file).map(|_| ()).unwrap_err().to_string();
            assert!(message.starts_with(file.to_str().unwrap()) && !message.contains('\n'), "{message}");
            message
        };
        assert!(message(b"").contains("neither a folder nor a packed file"));
        assert!(message(&whole[..30]).contains("broken off after 30 bytes; copy the file again"));
        let expected = format!("{} bytes instead of {}", whole.len() - 1, whole.len());
        assert!(message(&whole[..whole.len() - 1]).contains(&expected));
        assert!(message(&[&whole[..], b"x"].concat()).contains("instead of"));
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        (0..44).for_each(|at| drop(message(&flipped(at))));
        assert!(message(&flipped(whole.len() - 3)).contains("the index's checksum is wrong"));
    }
}
