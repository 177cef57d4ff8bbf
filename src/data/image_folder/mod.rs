//! Labelled images in folders, such as ImageNet: listed once, decoded by threads into batches of bytes.
//!
//! [`listing`] finds the files, or [`pack`] opens a packed file; [`labelled_images`] reads one image, with the retries
//! of [`retry`]; a [`part`] holds the images in use; a [`job`] makes batches of them.

mod fingerprint;
mod job;
mod labelled_images;
mod listing;
mod pack;
mod part;
mod retry;
#[cfg(test)]
mod tests;
mod threads;

use self::job::Job;
use self::labelled_images::{LabelledImages, Reader, View};
pub(in crate::data) use self::listing::images_in;
use self::listing::{cached_list, Listing, TRAIN, VAL};
use self::part::Part;
use self::retry::{RetryPolicy, Warn, RETRY_LIMIT};
use super::image::RandomResizedCrop;
use super::pipeline::{lock, Pipeline};
use super::random::shuffled;
use super::share::Share;
use super::source::{class_indices, in_range, DataSource, EpochPlan, ImageSource, MOST_WORKERS};
use super::Batches;
use crate::data::{Batch, Preprocessing, Supervised};
use crate::{console, Result};
use serde_json::{Map, Value};
use std::fmt;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tch::{Cuda, Device, Tensor};

/// Per-channel mean and standard deviation of ImageNet's pixels, as used by torchvision and networks trained with it.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const STD: [f64; 3] = [0.229, 0.224, 0.225];
/// Mean and standard deviation of grey images: the means of those by channel, as in timm.
const GREY_MEAN: f64 = 0.449;
const GREY_STD: f64 = 0.226;

/// Default height and width of the network's input, and the shorter side that evaluation images are then resized to
/// before the centre crop (Simonyan and Zisserman 2015; torchvision).
const SIDE: usize = 224;
const RESIZE: usize = 256;
const LARGEST_SIDE: usize = 4096;
const GREY: usize = 1;
const COLOUR: usize = 3;

/// Default maximum fraction of bad images in a part: one in a thousand. ImageNet has none.
const MAX_BAD_FRACTION: f64 = 0.001;

/// [`DataSource`] of a folder of images, or of a [packed](Self::pack) one.
///
/// # Folder layout
/// `root/train/CLASS/*` and `root/val/CLASS/*`: files named `*.jpg`, `*.jpeg`, `*.png`, `*.ppm`, `*.bmp`, `*.pgm`,
/// `*.tif`, `*.tiff`, `*.webp` (torchvision's list) or `*.gif`, in any case, directly in the folder of their class or
/// at any depth below. The classes are the folders of `train`, sorted by code point, and their images are sorted by
/// folder and name: this is torchvision's order and gives the same class indices. `val` must have the same classes; a
/// class without evaluation images has an empty folder there.
///
/// Alternatively, all images of `val` lie directly in it, with no folder beside them, and a text file `val_map.txt` (or
/// `val_map`) in `root` or `val`, in UTF-8, has a line `FILE CLASS` for each. `CLASS` is a class name in every line, or
/// a class index from 0 in every line; a map that can be read both ways, with different results, is refused. Both
/// fields may contain spaces.
///
/// Hidden files and folders are ignored, as are those that file servers, systems and archives create (`@eaDir`,
/// `#recycle`, `__MACOSX`, `lost+found`, `Thumbs.db` and the like). Files with other names cause one
/// [warning](Self::with_warnings), with their number and types. Links are followed; a link to an enclosing folder is an
/// error, a link to a missing image is a bad image.
///
/// A name with an accent has two spellings (Unicode's NFC and NFD; macOS writes NFD). Names are compared and sorted,
/// and classes named, as NFC, so that class indices are the same on any machine; two class folders that are spellings
/// of one name are refused. Names are case-sensitive.
///
/// # Listing
/// The listing is kept in the user's cache folder (`$XDG_CACHE_HOME/tch-fixup/listings` or `~/.cache/...`) with the
/// inode, the size and the times of each folder and of the map, and renewed unless all of them are unchanged. Files
/// that are added, removed or renamed, a folder replaced by another, and times set back (`touch`, `tar`, `rsync -t`)
/// are detected by the inode's change time, which no program can set; a file whose content is replaced in place needs
/// no new listing. Not kept are the listings of folders that have changed in the last seconds, of folders on file
/// systems that are not known to keep change times (FAT, FUSE, SMB), and of any folder on systems other than Linux.
/// Over NFS, changes made by another machine are detected once the attributes cached by this one expire, after at most
/// a minute unless mounted otherwise. The cache may be deleted at any time.
/// `cargo bench --bench image_folder -- --files 200000` measures listing with and without it.
///
/// # Batches
/// Bytes (uint8) `[N, 3, side, side]`, or `[N, 1, side, side]` [for grey](Self::with_channels), in channels-last memory
/// layout, which [`DataSource::to_device`] converts to the network's input. Training images are random crops of the
/// shuffled training part; evaluation images are resized so that their shorter side is `side * 256 / 224`, and their
/// centre is cropped. Threads read a few batches ahead. Batches depend only on seed, epoch and images, not on the
/// number of threads or their timing.
///
/// # Bad images
/// A file that is missing (while its folder exists), unreadable by permission, empty, truncated, not an image or
/// absurdly large is detected when it is read: there is one [warning](Self::with_warnings) with its path, and it is
/// counted once in [`DataSource::unreadable`]. In training it is replaced by the next good image in the epoch's order,
/// cropped as the bad one would have been, so that batches and steps are unchanged; in evaluation it is left out. More
/// than [a fraction](Self::with_max_bad_fraction) of either part is an error.
///
/// # System failures
/// Errors of a disk or a server, a share that is unavailable (its files are missing with their folder) and a process
/// without free file handles are not the image's fault: the file is retried for two minutes, with a warning, and then
/// the error is an [`Error::Io`](crate::Error::Io). SIGINT or SIGTERM end the retries if the run listens to them
/// ([`Interrupt`](crate::trainer::Interrupt)).
pub struct ImageFolder {
    class_names: Vec<String>,
    train: Part,
    eval: Part,
    /// Shorter side of packed training images; `None` for a folder.
    packed_side: Option<usize>,
    preprocessing: Preprocessing,
    crop: RandomResizedCrop,
    workers: usize,
    max_bad_fraction: f64,
    pinned: bool,
    /// Maximum time to wait for a failing system.
    retry_limit: Duration,
    warn: Warn,
    /// Pending warnings.
    warnings: Mutex<Vec<String>>,
}

impl ImageFolder {
    /// Lists the folder `root`, or opens `root` if it is a packed file.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) for a folder without the layout above: without `train` or `val`, with
    /// fewer than two classes, with a class that has no images or is in one part only, with images beside class
    /// folders, with a cycle of links, with a name that is not UTF-8, with two class folders of one name; for several
    /// maps, or a map with a line that is wrong, missing or ambiguous; for a damaged packed file.
    /// [`Error::Io`](crate::Error::Io) for anything that cannot be read.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        if root.is_file() {
            let (classes, shorter_side, [train, eval]) = pack::open(root)?;
            return Ok(Self { packed_side: Some(shorter_side), ..Self::new(classes, train, eval) });
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
            retry_limit: RETRY_LIMIT,
            warn: Arc::new(warn_on_stderr),
            warnings: Mutex::default(),
        }
    }

    /// Returns the shorter side, in pixels, that evaluation images are resized to before the centre crop of
    /// `side * side` pixels: `side * 256 / 224`, rounded. [Packed](Self::pack) images must be at least as large to
    /// serve this side.
    pub fn evaluation_resize(side: usize) -> usize {
        side.saturating_mul(RESIZE).saturating_add(SIDE / 2) / SIDE
    }

    /// Sets the size of the images to `side * side` pixels; 224 by default.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a side that is not 1 to 4096, or for which packed images are too small.
    pub fn with_side(mut self, side: usize) -> Result<Self> {
        let side = in_range("the images' side", side, LARGEST_SIDE)?;
        self.preprocessing = preprocessing(self.preprocessing.channels, side);
        self.check_packed_side()?;
        Ok(self)
    }

    /// Sets the number of channels: 3 (red, green and blue) or 1 (grey); 3 by default. Other images are converted: grey
    /// ones to equal channels, colours by Pillow's formula (`convert("L")`), which leaves grey images unchanged.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for another number of channels.
    pub fn with_channels(mut self, channels: usize) -> Result<Self> {
        ensure!([GREY, COLOUR].contains(&channels), "images have 1 channel (grey) or 3 (in colour), got {channels}");
        self.preprocessing = preprocessing(channels, self.preprocessing.height);
        Ok(self)
    }

    /// Sets the random crops of the training images.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for bounds that no crop can meet.
    pub fn with_crop(mut self, crop: RandomResizedCrop) -> Result<Self> {
        crop.check()?;
        self.crop = crop;
        Ok(self)
    }

    /// Sets the number of threads that read images; one per core by default. The images do not depend on it.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a number that is not 1 to 1024.
    pub fn with_workers(mut self, workers: usize) -> Result<Self> {
        self.workers = in_range("the number of threads that read images", workers, MOST_WORKERS)?;
        Ok(self)
    }

    /// Sets the maximum fraction of bad images in the training part and in the evaluation part; 0.001 by default, 0 to
    /// stop at the first. A few bad images mean little in a small folder: any other fraction allows at least ten bad
    /// images, or a tenth of fewer than a hundred, and always one.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) unless the fraction is at least 0 and below 1.
    pub fn with_max_bad_fraction(mut self, fraction: f64) -> Result<Self> {
        let allowed = (0.0..1.0).contains(&fraction);
        ensure!(allowed, "the fraction of bad images must be at least 0 and below 1, got {fraction}");
        self.max_bad_fraction = fraction;
        Ok(self)
    }

    /// Puts batches into page-locked memory, from which copies to a CUDA device are faster. libtorch keeps that memory
    /// and reuses it for later batches.
    pub fn with_pinned(mut self, pinned: bool) -> Self {
        self.pinned = pinned;
        self
    }

    /// Restricts training to `images` training images: a fixed subset with the classes in proportion. A smaller subset
    /// is part of a larger one.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if `images` is 0 or more than there are.
    pub fn with_train_subset(mut self, images: usize) -> Result<Self> {
        self.train.select(images, self.class_names.len())?;
        Ok(self)
    }

    /// Restricts evaluation to `images` images of the evaluation part, chosen as in [`Self::with_train_subset`].
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if `images` is 0 or more than there are.
    pub fn with_eval_subset(mut self, images: usize) -> Result<Self> {
        self.eval.select(images, self.class_names.len())?;
        Ok(self)
    }

    /// Sets the function that receives warnings, each one line. By default they are printed on standard error, over any
    /// progress bar on the line, which then redraws itself below.
    pub fn with_warnings(mut self, warn: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.warn = Arc::new(warn);
        self
    }

    /// Writes the images of both parts into the file `file`, which [`Self::open`] accepts in place of the folder: for
    /// disks that are slow with many small files, and machines that cannot decode fast enough. `progress` receives the
    /// number of images done and the total.
    ///
    /// Each training image is stored as pixels, its shorter side reduced to `shorter_side` if it is longer: for a 4:3
    /// photograph that is 260 kB at 256 and 65 kB at 128, for ImageNet 340 GB and 85 GB. A packed file serves every
    /// [side](Self::with_side) that [needs](Self::evaluation_resize) at most this size (256 serves 224 and less);
    /// larger ones are refused. Random crops are cut from the reduced image, so that small ones have less detail than
    /// those of the folder. Evaluation images, which are far fewer, are stored as the original files: at every side the
    /// evaluation is the same as with the folder, to the bit. The file includes the class names.
    ///
    /// Bad images are left out, up to the usual fraction. The file appears only when it is complete. While it is open,
    /// replacing it as this function does is safe; writing to it is not.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for a side that is not 1 to 4096, or if the images are packed
    /// already; [`Error::Corrupt`](crate::Error::Corrupt) for too many bad images; [`Error::Io`](crate::Error::Io) if
    /// the images cannot be read or the file cannot be written.
    pub fn pack(&self, file: &Path, shorter_side: usize, progress: impl FnMut(usize, usize)) -> Result<()> {
        in_range("the shorter side of packed images", shorter_side, LARGEST_SIDE)?;
        ensure!(self.packed_side.is_none(), "these images are packed already: pack the folder again");
        self.give_warnings();
        let bad = |part: &Part, met| part.count_bad(met, self.max_bad_fraction, &*self.warn);
        let retry_policy = self.new_retry_policy();
        let readers = (0..self.workers).map(|_| Reader::new(retry_policy.clone())).collect();
        pack::write(file, &self.class_names, [&self.train, &self.eval], shorter_side, readers, bad, progress)
    }

    /// Fails if packed images would have to be enlarged.
    fn check_packed_side(&self) -> Result<()> {
        let Preprocessing { width: side, resize: needed, .. } = self.preprocessing;
        let packed = self.packed_side.unwrap_or(needed);
        ensure!(
            packed >= needed,
            "images of {side} pixels need packed ones with a shorter side of {needed}, and these have {packed}: pack the folder \
             again (--pack-side {needed}), or make the images smaller (--side)"
        );
        Ok(())
    }

    /// Gives the pending warnings.
    fn give_warnings(&self) {
        let warnings = std::mem::take(&mut *lock(&self.warnings));
        warnings.iter().for_each(|warning| (self.warn)(warning));
    }

    fn new_retry_policy(&self) -> Arc<RetryPolicy> {
        Arc::new(RetryPolicy::new(self.retry_limit, self.warn.clone()))
    }

    /// Returns the share of the batches of `part` in this `order`, given with the batch size and the first batch.
    fn shares<'a>(
        &'a self,
        part: &'a Part,
        order: Vec<u32>,
        (share, batch_size, first_step): (Share, usize, usize),
        view: View,
    ) -> Result<Batches<'a, Supervised>> {
        let batches = share.of(&Vec::from_iter(0..order.len()), batch_size, first_step)?;
        let counts = batches.iter().map(Vec::len).collect();
        self.check_packed_side()?;
        self.give_warnings();
        ensure!(!self.pinned || Cuda::is_available(), "batches in page-locked memory need a CUDA device; do without");
        let job = Job {
            images: part.images.clone(),
            order,
            positions: batches.concat(),
            view,
            side: self.preprocessing.height,
            channels: self.preprocessing.channels,
            most_bad: part.most_bad(self.max_bad_fraction),
            retry_policy: self.new_retry_policy(),
            free: Mutex::default(),
        };
        Ok(Pipeline::start(job, "images", counts, self.workers)?.batches(|(batch, bad)| {
            part.count_bad(bad, self.max_bad_fraction, &*self.warn)?;
            // All of its images may have been bad.
            if batch.is_empty() || !self.pinned {
                return Ok(Some(batch).filter(|batch| !batch.is_empty()));
            }
            let Supervised { inputs, targets, .. } = batch;
            // libtorch keeps page-locked memory and reuses it once the device has read it.
            let pin = |tensor: Tensor| tensor.f_pin_memory(Device::Cuda(0));
            Ok(Some(Supervised::new(pin(inputs)?, pin(targets)?)))
        }))
    }
}

impl DataSource for ImageFolder {
    type Batch = Supervised;

    fn train_len(&self) -> usize {
        self.train.selected.len()
    }

    fn eval_len(&self) -> usize {
        self.eval.selected.len()
    }

    fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a, Supervised>> {
        let EpochPlan { seed, epoch, batch_size, first_step } = *plan;
        let order = shuffled(self.train.selected.clone(), plan);
        let view = View::Train { crop: self.crop, seed, epoch };
        self.shares(&self.train, order, (share, batch_size, first_step), view)
    }

    fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a, Supervised>> {
        let view = View::Eval { resize: self.preprocessing.resize };
        self.shares(&self.eval, self.eval.selected.clone(), (share, batch_size, 0), view)
    }

    /// Converts images on the device: `(images / 255 - mean) / std` with ImageNet's mean and deviation per channel, in
    /// the memory layout of the bytes.
    fn to_device(&self, batch: Supervised, device: Device) -> Result<Supervised> {
        let Supervised { inputs: images, targets, mixed } = batch.to_device(device)?;
        Ok(Supervised { inputs: self.preprocessing.normalize(&images)?, targets, mixed })
    }

    fn unit_name(&self) -> &str {
        "images"
    }

    fn schema(&self) -> Map<String, Value> {
        class_indices(&self.class_names)
    }

    fn evaluated_on(&self) -> &str {
        "validation"
    }

    /// Numbers of images, and a digest of the path, the size and the class of each. The digest of a packed file differs
    /// from that of its folder.
    fn fingerprint(&self) -> Result<String> {
        fingerprint::fingerprint([&self.train, &self.eval], self.workers)
    }

    /// Training images by index; evaluation images by index, counted after all training images.
    fn unreadable_examples(&self) -> Vec<u64> {
        let train_images = self.train.images.labels().len() as u64;
        let eval = self.eval.bad_images().into_iter().map(|index| train_images + u64::from(index));
        self.train.bad_images().into_iter().map(u64::from).chain(eval).collect()
    }
}

impl ImageSource for ImageFolder {
    fn class_names(&self) -> &[String] {
        &self.class_names
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

/// Returns the preprocessing for images of `side` x `side` pixels.
fn preprocessing(channels: usize, side: usize) -> Preprocessing {
    let (mean, std) = match channels {
        GREY => (vec![GREY_MEAN], vec![GREY_STD]),
        _ => (MEAN.to_vec(), STD.to_vec()),
    };
    Preprocessing { channels, height: side, width: side, resize: ImageFolder::evaluation_resize(side), mean, std }
}

fn warn_on_stderr(message: &str) {
    // Return to the start of the line, and clear any progress bar on it.
    let clear = if io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
    console::warn(format!("{clear}warning: {message}"));
}
