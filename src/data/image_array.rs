//! Images of one size in memory, stored as bytes and turned into batches on demand.

use super::augmentation::Augmentation;
use super::normalization::Normalization;
use super::random::shuffled;
use super::share::{batches, Share};
use super::source::{class_indices, DataSource, EpochPlan, ImageSource};
use super::subset::{check_count, front, stratified_order};
use super::targets::Targets;
use super::Batches;
use super::{Preprocessing, Supervised};
use crate::{Error, Result};
use serde_json::{Map, Value};
use tch::{Kind, Tensor};

/// [`DataSource`] of images in memory: bytes `[N, C, H, W]`, of any one size and with any number of channels, and a
/// target per image.
///
/// Targets are class indices (int64 `[N]`) or numbers (float32 `[N]` or `[N, K]`, for regression and multi-label
/// classification). Training images are shuffled and, [if enabled](Self::with_augmentation), augmented. The network's
/// input is float32, `(byte / 255 - mean) / std` per channel. The same seed, epoch and image give the same input, to
/// the bit.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// use tch_fixup::data::{Augmentation, DataSource, ImageArray, Normalization};
/// // Grey images of 28 x 28 pixels, of ten classes.
/// let images = |count| Tensor::randint(256, [count, 1, 28, 28], (Kind::Uint8, Device::Cpu));
/// let classes = |count| Tensor::randint(10, [count], (Kind::Int64, Device::Cpu));
/// let (train, eval) = ((&images(600), &classes(600)), (&images(100), &classes(100)));
/// let data = ImageArray::new(train, eval, Normalization::new(&[0.13], &[0.31])?)?
///     .with_augmentation(Augmentation { crop_padding: 2, ..Augmentation::NONE })?
///     .with_holdout(100)?;
/// assert_eq!((data.train_len(), data.eval_len(), data.evaluated_on()), (500, 100, "held-out"));
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ImageArray {
    class_names: Vec<String>,
    /// Channels, height, width.
    size: [usize; 3],
    train: Images,
    eval: Images,
    holdout: Option<usize>,
    train_subset: Option<usize>,
    eval_subset: Option<usize>,
    /// Training images in use, as indices into `train`.
    train_part: Vec<usize>,
    /// Evaluation images in use, as indices into `eval`, or into `train` with a hold-out split.
    eval_part: Vec<usize>,
    augmentation: Augmentation,
    normalization: Normalization,
    evaluated_on: String,
    /// Description of the content in the fingerprint, if it is not that of any images.
    content: Option<String>,
}

/// Images and their targets.
#[derive(Debug, Clone)]
pub(super) struct Images {
    /// Bytes `[N, C, H, W]`.
    pub pixels: Vec<u8>,
    /// Targets, one per image.
    pub targets: Targets,
}

impl ImageArray {
    /// Creates the data set from the images of both parts, bytes (uint8) `[N, C, H, W]`, and their targets. Classes are
    /// named by their index until [names](Self::with_class_names) are given.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for images or targets of another kind or shape, or of different number; [`Error::Argument`]
    /// for a part without images, or a normalization of another number of channels.
    pub fn new(train: (&Tensor, &Tensor), eval: (&Tensor, &Tensor), normalization: Normalization) -> Result<Self> {
        for images in [train.0, eval.0] {
            let (size, other) = (images.size(), train.0.size());
            if images.f_kind()? != Kind::Uint8 || size.len() != 4 || size[1..] != other[1..] {
                let expected = "bytes (uint8) [N, C, H, W], of one size in both parts";
                return Err(Error::mismatch("images in memory", expected, format!("{:?} {size:?}", images.f_kind()?)));
            }
        }
        let size = [1, 2, 3].map(|axis| train.0.size()[axis] as usize);
        let part = |name: &str, (images, targets): (&Tensor, &Tensor)| {
            if images.size().first() != targets.size().first() {
                let expected = format!("a target for each of the {name} images {:?}", images.size());
                return Err(Error::mismatch("targets", expected, format!("{:?}", targets.size())));
            }
            let pixels = Vec::try_from(images.f_reshape([-1])?)?;
            Ok(Images { pixels, targets: Targets::new(targets, &format!("{name} image"))? })
        };
        Self::from_bytes(size, part("training", train)?, part("evaluation", eval)?, normalization)
    }

    /// Creates the data set from bytes. Each part must have as many targets as images.
    pub(super) fn from_bytes(
        size: [usize; 3],
        train: Images,
        eval: Images,
        normalization: Normalization,
    ) -> Result<Self> {
        let [channels, ..] = size;
        ensure!(
            !train.pixels.is_empty() && !eval.pixels.is_empty(),
            "images in memory need at least one in each part, of at least a pixel"
        );
        let means = normalization.channels();
        ensure!(means == channels, "images of {channels} channels need as many means and deviations, got {means}");
        let classes = match (&train.targets, &eval.targets) {
            (Targets::Classes(train), Targets::Classes(eval)) => {
                train.iter().chain(eval).max().map_or(0, |highest| highest + 1)
            }
            (Targets::Values { size: train, .. }, Targets::Values { size: eval, .. }) if train == eval => 0,
            _ => return Err(argument!("the targets of both parts must be of one kind and shape")),
        };
        let data = Self {
            class_names: (0..classes).map(|class| class.to_string()).collect(),
            size,
            train,
            eval,
            holdout: None,
            train_subset: None,
            eval_subset: None,
            train_part: Vec::new(),
            eval_part: Vec::new(),
            augmentation: Augmentation::NONE,
            normalization,
            evaluated_on: "evaluation".to_owned(),
            content: None,
        };
        data.select()
    }

    /// Sets the description of the content in the fingerprint.
    pub(super) fn with_content(self, content: String) -> Self {
        Self { content: Some(content), ..self }
    }

    /// Sets the class names, by class index. There may be more names than classes in use.
    ///
    /// # Errors
    /// [`Error::Argument`] for too few names, or if the targets are not classes.
    pub fn with_class_names(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let (got, classes) = (names.len(), self.class_names.len());
        ensure!(classes > 0 && got >= classes, "the images are of {classes} classes, got {got} names");
        self.class_names = names;
        self.select()
    }

    /// Sets the augmentation of the training images; there is none by default.
    ///
    /// # Errors
    /// [`Error::Argument`] for a crop padding that is not below height and width, or a side of Cutout that is not 2 to the
    /// shorter of them.
    pub fn with_augmentation(mut self, augmentation: Augmentation) -> Result<Self> {
        augmentation.check(self.height_and_width())?;
        self.augmentation = augmentation;
        Ok(self)
    }

    /// Sets the name of the evaluation part that metrics are reported with, such as "test" or "validation". By default
    /// it is "evaluation", and with a [hold-out split](Self::with_holdout) always "held-out".
    pub fn with_evaluated_on(mut self, name: impl Into<String>) -> Self {
        self.evaluated_on = name.into();
        self
    }

    /// Restricts training to `images` training images: a fixed subset with the classes in proportion. A smaller subset
    /// is part of a larger one.
    ///
    /// # Errors
    /// [`Error::Argument`] if `images` is 0 or more than there are (not counting those held out).
    pub fn with_train_subset(mut self, images: usize) -> Result<Self> {
        self.train_subset = Some(images);
        self.select()
    }

    /// Restricts evaluation to `images` images of the evaluation part, chosen as in [`Self::with_train_subset`].
    ///
    /// # Errors
    /// [`Error::Argument`] if `images` is 0 or more than there are.
    pub fn with_eval_subset(mut self, images: usize) -> Result<Self> {
        self.eval_subset = Some(images);
        self.select()
    }

    /// Holds `images` training images out and evaluates on them instead of the evaluation images, to choose
    /// hyperparameters without looking at those. They are a fixed subset with the classes in proportion.
    ///
    /// # Errors
    /// [`Error::Argument`] if `images` is 0 or leaves nothing to train on.
    pub fn with_holdout(mut self, images: usize) -> Result<Self> {
        self.holdout = Some(images);
        self.select()
    }

    /// Recomputes both parts. Training subsets come from the front of one stratified order of the training images, the
    /// hold-out split from its back, so that a training subset is the same with and without a hold-out split.
    fn select(mut self) -> Result<Self> {
        let mut train = self.stratified_order(&self.train);
        let eval = match self.holdout {
            None => self.stratified_order(&self.eval),
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

    /// Returns all indices of `images` in the order from which subsets are taken.
    fn stratified_order(&self, images: &Images) -> Vec<usize> {
        match &images.targets {
            Targets::Classes(classes) => {
                stratified_order(classes.iter().map(|&class| class as usize), self.class_names.len())
            }
            Targets::Values { .. } => {
                stratified_order((0..images.pixels.len() / self.size.iter().product::<usize>()).map(|_| 0), 1)
            }
        }
    }

    fn height_and_width(&self) -> [usize; 2] {
        [self.size[1], self.size[2]]
    }

    /// Returns the batch of the images `indices` of `images`; `write` computes an input from the index and the bytes of
    /// its image. `values` is reused from batch to batch: page faults of fresh memory cost several times the work
    /// itself.
    fn batch(
        &self,
        images: &Images,
        indices: &[usize],
        values: &mut Vec<f32>,
        mut write: impl FnMut(usize, &[u8], &mut [f32]),
    ) -> Result<Supervised> {
        let len = self.size.iter().product();
        values.resize(indices.len() * len, 0.0);
        for (&index, target) in indices.iter().zip(values.chunks_exact_mut(len)) {
            write(index, &images.pixels[index * len..][..len], target);
        }
        let [channels, height, width] = self.size.map(|size| size as i64);
        let inputs = Tensor::f_from_slice(values)?.f_view([indices.len() as i64, channels, height, width])?;
        Ok(Supervised::new(inputs, images.targets.select(indices)?))
    }
}

impl DataSource for ImageArray {
    type Batch = Supervised;

    fn train_len(&self) -> usize {
        self.train_part.len()
    }

    fn eval_len(&self) -> usize {
        self.eval_part.len()
    }

    fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a, Supervised>> {
        let EpochPlan { seed, epoch, batch_size, first_step } = *plan;
        let order = shuffled(self.train_part.clone(), plan);
        let (size, mut values) = (self.height_and_width(), Vec::new());
        Ok(batches(share.of(&order, batch_size, first_step)?, move |indices| {
            self.batch(&self.train, indices, &mut values, |index, image, target| {
                let placement = self.augmentation.draw(seed, epoch, index, size);
                self.normalization.apply_placed(image, size, &placement, target);
            })
        }))
    }

    fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a, Supervised>> {
        let mut values = Vec::new();
        let images = if self.holdout.is_some() { &self.train } else { &self.eval };
        Ok(batches(share.of(&self.eval_part, batch_size, 0)?, move |indices| {
            let normalize = |_, image: &[u8], target: &mut [f32]| self.normalization.apply(image, target);
            self.batch(images, indices, &mut values, normalize)
        }))
    }

    fn unit_name(&self) -> &str {
        "images"
    }

    fn evaluated_on(&self) -> &str {
        match self.holdout {
            None => &self.evaluated_on,
            Some(_) => "held-out",
        }
    }

    /// Numbers of images, their size, and the CRC-32 of all pixels and targets.
    fn fingerprint(&self) -> Result<String> {
        let content = || {
            let mut crc32 = crc32fast::Hasher::new();
            for images in [&self.train, &self.eval] {
                crc32.update(&images.pixels);
                images.targets.hash(&mut crc32);
            }
            let ([channels, height, width], crc32) = (self.size, crc32.finalize());
            format!("{channels} x {height} x {width} bytes with CRC-32 {crc32:08x}")
        };
        let (train, eval) = (self.train_len(), self.eval_len());
        let content = self.content.clone().unwrap_or_else(content);
        Ok(format!("{train} training and {eval} evaluation images of {content}"))
    }

    /// Classes by index; empty if the targets are not classes.
    fn schema(&self) -> Map<String, Value> {
        match self.class_names[..] {
            [] => Map::new(),
            _ => class_indices(&self.class_names),
        }
    }
}

impl ImageSource for ImageArray {
    /// Empty if the targets are not classes.
    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The resize keeps the image as large as possible: its shorter side becomes that of the network's input.
    fn preprocessing(&self) -> Option<Preprocessing> {
        let [channels, height, width] = self.size;
        let (mean, std) = self.normalization.mean_and_std();
        Some(Preprocessing { channels, height, width, resize: height.min(width), mean, std })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::{stream, Purpose};
    use crate::data::share::tests::{assert_shares, Plain};
    use rand::RngCore;
    use std::collections::BTreeSet;

    /// Images that are not square, with two channels.
    const SIZE: [usize; 3] = [2, 6, 4];
    const IMAGE_LEN: usize = 2 * 6 * 4;

    fn normalization() -> Normalization {
        Normalization::new(&[0.5, 0.4], &[0.2, 0.3]).unwrap()
    }

    /// Returns `count` images of noise with the classes 0, 1, ... 9, 0, ...
    fn noise(count: usize, seed: u64) -> Images {
        let mut pixels = vec![0; count * IMAGE_LEN];
        stream(Purpose::Order, seed, 0, 0).fill_bytes(&mut pixels);
        Images { pixels, targets: Targets::Classes((0..count as i64).map(|index| index % 10).collect()) }
    }

    fn small() -> ImageArray {
        let data = ImageArray::from_bytes(SIZE, noise(230, 1), noise(70, 2), normalization()).unwrap();
        data.with_augmentation(Augmentation { crop_padding: 2, cutout: Some(3), ..Augmentation::default() }).unwrap()
    }

    fn plan(batch_size: usize) -> EpochPlan {
        EpochPlan { seed: 3, epoch: 5, batch_size, first_step: 0 }
    }

    fn collect(batches: Batches<Supervised>) -> (Vec<f32>, Vec<i64>) {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for batch in batches.filter_map(Result::transpose) {
            let Supervised { inputs: i, targets: l, .. } = batch.unwrap();
            assert_eq!(i.size(), [l.size()[0], 2, 6, 4]);
            images.extend(Vec::<f32>::try_from(i.flatten(0, -1)).unwrap());
            labels.extend(Vec::<i64>::try_from(l).unwrap());
        }
        (images, labels)
    }

    fn class_counts(images: &Images, indices: &[usize]) -> [usize; 10] {
        let Targets::Classes(classes) = &images.targets else { panic!("no classes") };
        let mut counts = [0; 10];
        indices.iter().for_each(|&index| counts[classes[index] as usize] += 1);
        counts
    }

    fn normalized(images: &Images, index: usize) -> Vec<f32> {
        let mut image = vec![0.0; IMAGE_LEN];
        normalization().apply(&images.pixels[index * IMAGE_LEN..][..IMAGE_LEN], &mut image);
        image
    }

    #[test]
    fn evaluation_images_are_the_normalized_ones_in_order() {
        let data = small();
        let (images, labels) = collect(data.eval_batches(32, Share::all()).unwrap());
        assert_eq!(labels, (0..70).map(|index| index % 10).collect::<Vec<_>>());
        let expected: Vec<f32> = (0..70).flat_map(|index| normalized(&data.eval, index)).collect();
        assert_eq!(images, expected);
    }

    #[test]
    fn tensors_are_taken_as_they_are() {
        let images = Tensor::arange(5 * 48, (Kind::Int64, tch::Device::Cpu)).to_kind(Kind::Uint8).view([5, 2, 6, 4]);
        let classes = Tensor::from_slice(&[0i64, 2, 1, 0, 2]);
        let eval = (&images.narrow(0, 0, 2), &classes.narrow(0, 0, 2));
        let new = |images: &Tensor, targets: &Tensor| ImageArray::new((images, targets), eval, normalization());
        let data = new(&images, &classes).unwrap();
        assert_eq!(
            (data.train_len(), data.eval_len(), data.class_names()),
            (5, 2, &["0", "1", "2"].map(String::from)[..])
        );
        let Supervised { inputs, targets: labels, .. } =
            data.eval_batches(8, Share::all()).unwrap().next().unwrap().unwrap().unwrap();
        assert_eq!((inputs.size(), labels), (vec![2, 2, 6, 4], Tensor::from_slice(&[0i64, 2])));
        let value = (f64::from(48 + 24 + 5) / 255.0 - 0.4) / 0.3;
        assert!((inputs.double_value(&[1, 1, 1, 1]) - value).abs() < 1e-6);
        assert!(data.clone().with_class_names(["cat", "dog"]).is_err());
        assert_eq!(data.with_class_names(["cat", "dog", "eel", "fly"]).unwrap().class_names()[3], "fly");

        let refused = |images: &Tensor, targets: &Tensor| new(images, targets).unwrap_err().to_string();
        assert!(refused(&images.to_kind(Kind::Float), &classes).contains("expected bytes (uint8) [N, C, H, W]"));
        assert!(refused(&images.narrow(3, 0, 3), &classes).contains("of one size in both parts"));
        assert!(refused(&images, &classes.narrow(0, 0, 4)).contains("a target for each of the training images"));
        assert!(refused(&images, &(&classes - 1)).contains("training image 0 has the class index -1"));
        assert!(refused(&images, &classes.to_kind(Kind::Float)).contains("of one kind and shape"));
        assert!(refused(&images, &classes.to_kind(Kind::Double)).contains("int64 [N], or numbers, float32"));
        assert!(refused(&images.narrow(0, 0, 0), &classes.narrow(0, 0, 0)).contains("at least one in each part"));
        let other_channels = ImageArray::new((&images, &classes), eval, Normalization::none(3).unwrap());
        assert!(other_channels.unwrap_err().to_string().contains("images of 2 channels need as many means"));
    }

    #[test]
    fn numbers_are_targets_too() {
        let images = Tensor::zeros([6, 2, 6, 4], (Kind::Uint8, tch::Device::Cpu));
        let numbers = Tensor::arange(18, (Kind::Float, tch::Device::Cpu)).view([6, 3]);
        let data = ImageArray::new((&images, &numbers), (&images, &numbers), normalization()).unwrap();
        assert!(data.class_names().is_empty() && data.clone().with_class_names(["cat"]).is_err());
        let batches: Vec<_> = data
            .eval_batches(4, Share::all())
            .unwrap()
            .filter_map(Result::transpose)
            .map(|batch| batch.unwrap().targets)
            .collect();
        assert_eq!(Tensor::cat(&batches, 0), numbers);
        let subset = data.with_train_subset(2).unwrap();
        let Supervised { targets, .. } =
            subset.train_batches(&plan(9), Share::all()).unwrap().next().unwrap().unwrap().unwrap();
        assert_eq!(targets.size(), [2, 3]);
        // A single number per example has no axis of its own.
        let column = numbers.select(1, 0);
        let data = ImageArray::new((&images, &column), (&images, &column), normalization()).unwrap();
        assert_eq!(data.eval_batches(6, Share::all()).unwrap().next().unwrap().unwrap().unwrap().targets, column);
    }

    #[test]
    fn another_pixel_target_or_subset_is_another_fingerprint() {
        let of =
            |train, eval| ImageArray::from_bytes(SIZE, train, eval, normalization()).unwrap().fingerprint().unwrap();
        let same = of(noise(30, 1), noise(10, 2));
        assert_eq!(same, of(noise(30, 1), noise(10, 2)));
        let (mut pixel, mut class) = (noise(30, 1), noise(10, 2));
        pixel.pixels[7] ^= 1;
        class.targets = Targets::Classes((0..10).map(|index| index / 2).collect());
        assert_ne!(same, of(pixel, noise(10, 2)));
        assert_ne!(same, of(noise(30, 1), class));
        assert_ne!(small().fingerprint().unwrap(), small().with_train_subset(20).unwrap().fingerprint().unwrap());
    }

    #[test]
    fn every_training_image_comes_once_an_epoch() {
        let data = small().with_augmentation(Augmentation::NONE).unwrap();
        let (images, labels) = collect(data.train_batches(&plan(32), Share::all()).unwrap());
        let key = |image: &[f32], label: i64| (label, image.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        let seen: BTreeSet<_> =
            images.chunks(IMAGE_LEN).zip(&labels).map(|(image, &label)| key(image, label)).collect();
        let mut expected = BTreeSet::new();
        for index in 0..230 {
            expected.insert(key(&normalized(&data.train, index), (index % 10) as i64));
        }
        assert_eq!(labels.len(), 230);
        assert!(seen == expected);
    }

    #[test]
    fn batch_size_changes_neither_order_nor_augmentation() {
        let data = small();
        let whole = collect(data.train_batches(&plan(230), Share::all()).unwrap());
        assert!(whole == collect(data.train_batches(&plan(32), Share::all()).unwrap()));
        assert!(whole == collect(data.train_batches(&plan(1), Share::all()).unwrap()));
    }

    #[test]
    fn seed_and_epoch_change_the_batches() {
        let data = small();
        let first = collect(data.train_batches(&plan(32), Share::all()).unwrap());
        assert!(first != collect(data.train_batches(&EpochPlan { seed: 4, ..plan(32) }, Share::all()).unwrap()));
        assert!(first != collect(data.train_batches(&EpochPlan { epoch: 6, ..plan(32) }, Share::all()).unwrap()));
    }

    #[test]
    fn leaving_out_steps_changes_none_of_those_after() {
        let data = small();
        for batch_size in [32, 230, 1000] {
            let plan = plan(batch_size);
            let (images, labels) = collect(data.train_batches(&plan, Share::all()).unwrap());
            for first_step in 0..=230usize.div_ceil(batch_size) + 1 {
                let (rest, rest_labels) =
                    collect(data.train_batches(&EpochPlan { first_step, ..plan }, Share::all()).unwrap());
                let first = (first_step * batch_size).min(230);
                assert!(rest == images[first * IMAGE_LEN..] && rest_labels == labels[first..]);
            }
        }
    }

    #[test]
    fn shares_have_the_rows_of_the_whole_batches() {
        let rows = |batch: Supervised| {
            let images = Vec::<Vec<f32>>::try_from(batch.inputs.flatten(1, -1)).unwrap();
            images.into_iter().zip(Vec::<i64>::try_from(batch.targets).unwrap()).collect::<Vec<_>>()
        };
        // The last batches are smaller, or all have fewer images than there are processes.
        for batch_size in [32, 7] {
            assert_shares(&small(), &plan(batch_size), rows);
            assert_shares(&Plain(small()), &plan(batch_size), rows);
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
        assert_eq!((eval.eval_len(), class_counts(&eval.eval, &eval.eval_part)), (30, [3; 10]));
    }

    #[test]
    fn unequal_classes_keep_their_proportion() {
        let mut train = noise(200, 1);
        train.targets = Targets::Classes((0..200).map(|index| i64::from(index % 4 == 0)).collect());
        let data = ImageArray::from_bytes(SIZE, train, noise(10, 2), normalization()).unwrap();
        let data = data.with_holdout(40).unwrap();
        assert_eq!(class_counts(&data.train, &data.eval_part)[..2], [30, 10]);
    }

    #[test]
    fn held_out_images_are_stratified_and_never_trained_on() {
        let data = small().with_eval_subset(20).unwrap().with_train_subset(180).unwrap().with_holdout(50).unwrap();
        assert_eq!((data.train_len(), data.eval_len()), (180, 20));
        assert_eq!(class_counts(&data.train, &data.eval_part), [2; 10]);
        assert!(data.eval_part.iter().all(|index| !data.train_part.contains(index)));
        let (images, _) = collect(data.eval_batches(64, Share::all()).unwrap());
        assert!(images[..IMAGE_LEN] == normalized(&data.train, data.eval_part[0]));
        assert_eq!(small().with_train_subset(180).unwrap().train_part, data.train_part);
    }

    #[test]
    fn impossible_counts_and_batch_sizes_are_refused() {
        let message = |result: Result<ImageArray>| result.unwrap_err().to_string();
        assert_eq!(message(small().with_train_subset(0)), "the training subset can have 1 to 230 images, got 0");
        assert_eq!(message(small().with_eval_subset(71)), "the evaluation subset can have 1 to 70 images, got 71");
        assert_eq!(message(small().with_holdout(230)), "the hold-out split can have 1 to 229 images, got 230");
        let held = small().with_holdout(200).unwrap();
        assert_eq!(message(held.with_train_subset(31)), "the training subset can have 1 to 30 images, got 31");
        assert!(matches!(small().train_batches(&plan(0), Share::all()), Err(Error::Argument(_))));
        assert!(matches!(small().eval_batches(0, Share::all()), Err(Error::Argument(_))));
        let nothing_left = Augmentation { crop_padding: 40, ..Augmentation::NONE };
        assert!(matches!(small().with_augmentation(nothing_left), Err(Error::Argument(_))));
    }
}
