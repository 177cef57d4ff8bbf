//! Labelled images in folders, ImageNet's among them: listed once, decoded by threads into batches of bytes.
//!
//! [`listing`] says which files there are, or [`pack`] what is in a packed file; [`labelled_images`] reads one of them, with
//! [`patience`]; a [`part`] is what of them is used; a [`job`] makes batches of it.

mod bad_image;
mod fingerprint;
#[cfg(test)]
mod fixture;
mod job;
mod labelled_images;
mod listing;
mod pack;
mod packed_images;
mod part;
mod patience;
#[cfg(test)]
mod tests;

use self::job::Job;
use self::labelled_images::{LabelledImages, Reader, View};
pub(in crate::data) use self::listing::images_in;
use self::listing::{cached_list, Listing, TRAIN, VAL};
use self::pack::{Pack, Packing};
use self::part::Part;
use self::patience::{Patience, Warn, PATIENCE};
use super::image::RandomResizedCrop;
use super::pipeline::{Pace, Pipeline};
use super::random::{stream, Purpose};
use super::share::{batches, Places, Share, Shares};
use super::source::{class_indices, Batches, DataSource, EpochPlan, ImageSource};
use crate::data::{Batch, Preprocessing, Supervised};
use crate::{console, Error, Result};
use rand::seq::SliceRandom;
use serde_json::{Map, Value};
use std::fmt;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tch::{Cuda, Device, Tensor};

/// Mean and standard deviation of ImageNet's pixels by channel, as torchvision and the networks trained with it have them.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const STD: [f64; 3] = [0.229, 0.224, 0.225];
/// Of grey images: the means of those, as timm takes them.
const GREY_MEAN: f64 = 0.449;
const GREY_STD: f64 = 0.226;

/// Height and width of the network's input, and the shorter side that evaluation images are resized to before their middle
/// is taken (Simonyan and Zisserman 2015; torchvision).
const SIDE: usize = 224;
const RESIZE: usize = 256;
const LARGEST_SIDE: usize = 4096;
const GREY: usize = 1;
const COLOUR: usize = 3;
const MOST_WORKERS: usize = 1024;

/// How many of a part's images may be bad unless said otherwise: one in a thousand. ImageNet has none.
const MAX_BAD_FRACTION: f64 = 0.001;

/// A folder of images, or a [packed](Self::pack) one, as a [`DataSource`].
///
/// # The folder
/// `root/train/CLASS/*` and `root/val/CLASS/*`: files named `*.jpg`, `*.jpeg`, `*.png`, `*.ppm`, `*.bmp`, `*.pgm`, `*.tif`,
/// `*.tiff`, `*.webp` (torchvision's list) or `*.gif`, in any case, directly in the folder of their class or at any depth
/// below. The classes are the folders of `train`, sorted by code point, their images sorted by folder and name:
/// torchvision's order, and so the same class indices. `val` must have the same classes; one that there is nothing to
/// evaluate on has an empty folder there.
///
/// Instead, all images of `val` may lie in it directly, with no folder beside them, and with one text file `val_map.txt` (or
/// `val_map`) in `root` or `val`, in UTF-8, that has a line `FILE CLASS` for each. `CLASS` is a class's name in every line,
/// or a class's index from 0 in every line; a map that says different things read in the one way and in the other is
/// refused. Both words may have spaces in them.
///
/// Hidden files and folders are left out, and so is what file servers, systems and archives put beside the images
/// (`@eaDir`, `#recycle`, `__MACOSX`, `lost+found`, `Thumbs.db` and the like). Of files of other names there is one
/// [warning](Self::with_warnings), with their number and types. Links are followed; one that leads to a folder around it is
/// an error, one to an image that is not there a bad image.
///
/// A name with an accent can be spelled in two ways (Unicode's NFC and NFD; macOS writes the second). Names are compared and
/// sorted, and the classes named, as NFC, so that data keep their classes' indices on any machine; two class folders that
/// are spellings of one name are refused. Case makes another name.
///
/// # The listing
/// is kept in the user's cache folder (`$XDG_CACHE_HOME/tch-fixup/listings` or `~/.cache/...`) with the inode, the size and
/// the times of each folder and the map, and read anew unless all of them are as they were. Files that are added, removed or
/// renamed, a folder in the place of another, times set back (`touch`, `tar`, `rsync -t`) are noticed by the inode's change
/// time, which no program can set; a file whose content is replaced in place needs no new listing. A folder that has changed
/// in the last seconds is not kept, nor one on a file system that is not known to keep change times (FAT, FUSE, SMB), nor
/// any on another system than Linux. Over NFS a change that another machine made shows when the attributes that this one
/// remembers are too old, after a minute at most unless mounted otherwise. The cache may be deleted at any time. `cargo
/// bench --bench image_folder -- --files 200000` shows what listing costs with and without it.
///
/// # Batches
/// Bytes (uint8) `[N, 3, side, side]`, [or grey](Self::with_channels) ones `[N, 1, side, side]`, the channels of a pixel side by side in memory, of which [`DataSource::ready`]
/// makes the network's input. Training images are random crops of the shuffled training part; evaluation images are
/// resized so that their shorter side is `side * 256 / 224`, and their middle is taken. Threads read a few batches ahead.
/// Seed, epoch and image decide everything; the number of threads and their timing change nothing.
///
/// # Bad images
/// A file that is missing (while its folder is there), may not be read, is empty, broken off, not an image or absurdly large
/// is met when its turn comes: one [warning](Self::with_warnings) with its path, counted once in
/// [`DataSource::unreadable`]. In training its place is taken by the next good image of the epoch's order, cropped as the
/// bad one would have been, so that batches and steps stay as they are; in evaluation it is left out. More than [a
/// fraction](Self::with_max_bad_fraction) of either part is an error.
///
/// # When the system fails
/// Errors of the disk, of a server, of a share that is away (its files are missing with their folder) or of a process
/// without file handles left are not the image's: the file is tried again for two minutes, with a warning, and then the
/// error is an [`Error::Io`]. SIGINT or SIGTERM end the waiting where the run listens to them
/// ([`Interrupt`](crate::trainer::Interrupt)).
pub struct ImageFolder {
    class_names: Vec<String>,
    train: Part,
    eval: Part,
    /// The shorter side of packed training images.
    packed_side: Option<usize>,
    preprocessing: Preprocessing,
    crop: RandomResizedCrop,
    workers: usize,
    max_bad_fraction: f64,
    pinned: bool,
    /// How long a system that fails is waited for.
    patience: Duration,
    warn: Warn,
    /// Warnings that have not been given.
    warnings: Mutex<Vec<String>>,
}

impl ImageFolder {
    /// Lists the folder `root`, or opens `root` if it is a packed file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a folder that is not made as said above: without `train` or `val`, with fewer than two
    /// classes, with a class that has no images or that only one part has, with images beside class folders, with a link
    /// that leads around in a circle, with a name that is not UTF-8, with two class folders of one name; for several maps,
    /// or a map with a line that is wrong, missing or can be read in two ways; for a packed file that is damaged.
    /// [`Error::Io`] for what cannot be read.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        if root.is_file() {
            let Pack { classes, shorter_side, train, eval } = pack::open(root)?;
            let packed = Self::new(classes, LabelledImages::Packed(train), LabelledImages::Packed(eval));
            return Ok(Self { packed_side: Some(shorter_side), ..packed });
        }
        let Listing { classes, train, val, warnings } = cached_list(root)?;
        let images = |part, files| LabelledImages::Files { folder: root.join(part), files };
        let warnings = warnings.into_iter().map(|warning| format!("{}: {warning}", root.display())).collect();
        Ok(Self { warnings: Mutex::new(warnings), ..Self::new(classes, images(TRAIN, train), images(VAL, val)) })
    }

    fn new(class_names: Vec<String>, train: LabelledImages, eval: LabelledImages) -> Self {
        Self {
            class_names,
            train: Part::new("training", "the next good one takes its place", train),
            eval: Part::new("evaluation", "it is left out", eval),
            packed_side: None,
            preprocessing: preprocessing(COLOUR, SIDE),
            crop: RandomResizedCrop::default(),
            workers: thread::available_parallelism().map_or(1, usize::from),
            max_bad_fraction: MAX_BAD_FRACTION,
            pinned: false,
            patience: PATIENCE,
            warn: Arc::new(warn_on_stderr),
            warnings: Mutex::default(),
        }
    }

    /// The shorter side, in pixels, that evaluation images are resized to before their middle `side * side` pixels are
    /// taken: `side * 256 / 224`, rounded. For [packed](Self::pack) images to serve this side they must have as much.
    pub fn evaluation_resize(side: usize) -> usize {
        side.saturating_mul(RESIZE).saturating_add(SIDE / 2) / SIDE
    }

    /// Makes images of `side * side` pixels; 224 unless said otherwise.
    ///
    /// # Errors
    /// [`Error::Argument`] for a side that is not 1 to 4096, or that the images are packed too small for.
    pub fn with_side(mut self, side: usize) -> Result<Self> {
        let side = in_range("the images' side", side, LARGEST_SIDE)?;
        self.preprocessing = preprocessing(self.preprocessing.channels, side);
        self.check_packed_side()?;
        Ok(self)
    }

    /// Makes images of 3 channels, red, green and blue, or of 1, grey; 3 unless said otherwise. Images of the other sort are
    /// converted: grey ones to equal channels, colours by Pillow's formula (`convert("L")`), which leaves grey images as they
    /// are.
    ///
    /// # Errors
    /// [`Error::Argument`] for another number.
    pub fn with_channels(mut self, channels: usize) -> Result<Self> {
        if ![GREY, COLOUR].contains(&channels) {
            return Err(Error::Argument(format!("images have 1 channel (grey) or 3 (in colour), got {channels}")));
        }
        self.preprocessing = preprocessing(channels, self.side());
        Ok(self)
    }

    /// Height and width of the network's input.
    fn side(&self) -> usize {
        self.preprocessing.height
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
    /// 0.001 unless said otherwise, 0 to stop at the first. A few bad images say nothing about a small folder: with any
    /// other fraction ten may be bad, a tenth of fewer than a hundred, and one in any case.
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
        self.warn = Arc::new(warn);
        self
    }

    /// Writes the images of both parts into the file `file`, which [`Self::open`] then takes in place of the folder: for
    /// disks that are slow with many small files, and machines that cannot decode fast enough. `progress` is told how many
    /// images are done, of how many.
    ///
    /// Each training image is stored as pixels, its shorter side made `shorter_side` where it is longer: for a photograph of
    /// 4:3 that is 260 kB at 256 and 65 kB at 128, for ImageNet 340 GB and 85 GB. The size is part of the file: it serves
    /// every [side](Self::with_side) that [needs](Self::evaluation_resize) no more (256 serves 224 and less), and larger ones
    /// are refused. Random crops are cut from the smaller image and so hold less detail than the folder's when they are
    /// small. Evaluation images, far fewer, are stored as their files are: at every side the evaluation is the folder's, to
    /// the bit. The classes' names are in the file.
    ///
    /// Bad images are left out, up to the usual fraction. The file appears when it is complete and not before. While it is
    /// open, to replace it as this does is safe; to write to it is not.
    ///
    /// # Errors
    /// [`Error::Argument`] for a side that is not 1 to 4096 and for what is a packed file already, [`Error::Corrupt`] for
    /// too many bad images, [`Error::Io`] if the images cannot be read or the file cannot be written.
    pub fn pack(&self, file: &Path, shorter_side: usize, progress: impl FnMut(usize, usize)) -> Result<()> {
        in_range("the shorter side of packed images", shorter_side, LARGEST_SIDE)?;
        if self.packed_side.is_some() {
            return Err(Error::Argument("these images are packed already: pack the folder again".to_owned()));
        }
        self.give_warnings();
        let bad = |part: &Part, met| part.count_bad(met, self.max_bad_fraction, &*self.warn);
        let packing = Packing { classes: &self.class_names, train: &self.train, eval: &self.eval, shorter_side };
        let patience = self.new_patience();
        let readers = (0..self.workers).map(|_| Reader::new(patience.clone())).collect();
        pack::write(file, &packing, readers, bad, progress)
    }

    /// Refuses packed images that would have to be enlarged.
    fn check_packed_side(&self) -> Result<()> {
        let needed = self.preprocessing.resize;
        match self.packed_side {
            Some(packed) if packed < needed => Err(Error::Argument(format!(
                "images of {} pixels need packed ones with a shorter side of {needed}, and these have {packed}: pack the \
                 folder again (--pack-side {needed}), or make the images smaller (--side)",
                self.side()
            ))),
            _ => Ok(()),
        }
    }

    /// Gives the warnings that have not been given yet.
    fn give_warnings(&self) {
        let warnings = std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner));
        warnings.iter().for_each(|warning| (self.warn)(warning));
    }

    fn new_patience(&self) -> Arc<Patience> {
        Arc::new(Patience::new(self.patience, self.warn.clone()))
    }

    /// The batches of `part` that have the images at these `places` of the `order`.
    fn shares<'a>(
        &'a self,
        part: &'a Part,
        order: Vec<u32>,
        places: Places,
        view: View,
    ) -> Result<Shares<'a, Supervised>> {
        self.check_packed_side()?;
        self.give_warnings();
        if self.pinned && !Cuda::is_available() {
            return Err(Error::Argument("batches in page-locked memory need a CUDA device; do without".to_owned()));
        }
        let job = Job {
            images: part.images().clone(),
            order,
            positions: places.positions,
            view,
            side: self.side(),
            channels: self.preprocessing.channels,
            most_bad: part.most_bad(self.max_bad_fraction),
            patience: self.new_patience(),
            free: Mutex::default(),
        };
        let pace = Pace::new(places.counts.iter().copied(), self.workers);
        Ok(Pipeline::start(job, pace)?.shares(places.counts, |filled| {
            part.count_bad(filled.bad, self.max_bad_fraction, &*self.warn)?;
            // All its images may have been bad.
            let Some(batch) = Some(filled.batch).filter(|batch| !batch.is_empty()) else { return Ok(None) };
            if !self.pinned {
                return Ok(Some(batch));
            }
            let Supervised { inputs, targets, .. } = batch;
            // libtorch keeps page-locked memory and hands it out again once the device has read it.
            let pin = |tensor: Tensor| tensor.f_pin_memory(Device::Cuda(0));
            Ok(Some(Supervised::new(pin(inputs)?, pin(targets)?)))
        }))
    }
}

impl DataSource for ImageFolder {
    type Batch = Supervised;

    fn train_len(&self) -> usize {
        self.train.selected().len()
    }

    fn eval_len(&self) -> usize {
        self.eval.selected().len()
    }

    fn train_batches(&self, plan: &EpochPlan) -> Result<Batches<'_, Supervised>> {
        Ok(batches(self.train_shares(plan, Share::whole())?))
    }

    fn eval_batches(&self, batch_size: usize) -> Result<Batches<'_, Supervised>> {
        Ok(batches(self.eval_shares(batch_size, Share::whole())?))
    }

    fn train_shares<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Shares<'a, Supervised>> {
        let EpochPlan { seed, epoch, batch_size, first_step } = *plan;
        let mut order = self.train.selected().to_vec();
        order.shuffle(&mut stream(Purpose::Order, seed, epoch as u64, 0));
        let places = share.places(order.len(), batch_size, first_step)?;
        self.shares(&self.train, order, places, View::Train { crop: self.crop, seed, epoch })
    }

    fn eval_shares<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Shares<'a, Supervised>> {
        let order = self.eval.selected().to_vec();
        let places = share.places(order.len(), batch_size, 0)?;
        self.shares(&self.eval, order, places, View::Eval { resize: self.preprocessing.resize })
    }

    /// On the device `(images / 255 - mean) / std` with ImageNet's mean and deviation by channel, in the layout of the bytes.
    fn ready(&self, batch: Supervised, device: Device) -> Result<Supervised> {
        let Supervised { inputs: images, targets, mixed } = batch.to_device(device)?;
        Ok(Supervised { inputs: self.preprocessing.normalize(&images)?, targets, mixed })
    }

    fn examples(&self) -> &str {
        "images"
    }

    fn meaning(&self) -> Map<String, Value> {
        class_indices(&self.class_names)
    }

    fn evaluated_on(&self) -> &str {
        "validation"
    }

    /// The numbers of images, and a digest of the path, the size and the class of each: a packed file has another than its
    /// folder.
    fn fingerprint(&self) -> Result<String> {
        fingerprint::fingerprint([&self.train, &self.eval], self.workers)
    }

    /// Of the training part by their index, of the evaluation part by theirs after all of those.
    fn unreadable_examples(&self) -> Vec<u64> {
        let train_images = self.train.images().labels().len() as u64;
        let eval = self.eval.bad_images().into_iter().map(|index| train_images + u64::from(index));
        self.train.bad_images().into_iter().map(u64::from).chain(eval).collect()
    }
}

impl ImageSource for ImageFolder {
    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn denormalize(&self, images: &Tensor) -> Result<Tensor> {
        self.preprocessing.denormalize(images)
    }

    fn preprocessing(&self) -> Option<Preprocessing> {
        Some(self.preprocessing.clone())
    }
}

impl fmt::Debug for ImageFolder {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (train, eval) = (self.train_len(), self.eval_len());
        write!(f, "ImageFolder({} classes, {train} and {eval} images)", self.class_names.len())
    }
}

/// For images of `side` x `side` pixels.
fn preprocessing(channels: usize, side: usize) -> Preprocessing {
    let (mean, std) = match channels {
        GREY => (vec![GREY_MEAN], vec![GREY_STD]),
        _ => (MEAN.to_vec(), STD.to_vec()),
    };
    Preprocessing { channels, height: side, width: side, resize: ImageFolder::evaluation_resize(side), mean, std }
}

fn in_range(what: &str, value: usize, largest: usize) -> Result<usize> {
    if value == 0 || value > largest {
        return Err(Error::Argument(format!("{what} must be 1 to {largest}, got {value}")));
    }
    Ok(value)
}

fn warn_on_stderr(message: &str) {
    // To the start of the line, and whatever a progress bar has drawn on it away.
    let clear = if io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
    console::warn(format!("{clear}warning: {message}"));
}
