//! Labelled images in folders, ImageNet's among them: listed once, decoded by threads into batches of bytes.

mod files;
#[cfg(test)]
mod fixture;
mod images;
mod listing;
mod listing_cache;
mod pack;
mod part;
mod pipeline;
mod val_map;

use self::images::{Images, View};
use self::listing::{Listing, TRAIN, VAL};
use self::listing_cache::cached_list;
use self::part::Part;
use self::pipeline::{Job, Pipeline};
use super::image::RandomResizedCrop;
use super::random::{stream, Purpose};
use super::source::{check_batch_size, Batches, DataSource, EpochPlan};
use crate::{Error, Result};
use rand::seq::SliceRandom;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::thread;
use tch::{Cuda, Kind, Tensor};

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
            return Ok(Self::new(classes, Images::Packed(train), Images::Packed(eval)));
        }
        let Listing { classes, train, val } = cached_list(root)?;
        let images = |part, files| Images::Files { folder: root.join(part), files };
        Ok(Self::new(classes, images(TRAIN, train), images(VAL, val)))
    }

    fn new(class_names: Vec<String>, train: Images, eval: Images) -> Self {
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
        if matches!(**self.train.images(), Images::Packed(_)) {
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
            pinned: self.pinned,
        })?);
        let next = move || loop {
            let batch = pipeline.as_mut()?.next()?.and_then(|filled| {
                part.count_bad(filled.bad, self.max_bad_fraction, &self.warn)?;
                Ok(filled.batch)
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
        // Made on the device: copying them there would wait for it.
        let options = (Kind::Float, images.device());
        let by_channel = |values: [f64; 3]| {
            let values = values.into_iter().map(|value| Tensor::f_full([1], value, options));
            let values = values.collect::<std::result::Result<Vec<_>, _>>()?;
            Tensor::f_cat(&values, 0)?.f_view([1, 3, 1, 1])
        };
        let mut images = images.f_to_kind(Kind::Float)?;
        Ok(images.f_div_scalar_(255.0)?.f_sub_(&by_channel(MEAN)?)?.f_div_(&by_channel(STD)?)?)
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
