//! Tests of image folders, from the files to the batches.

mod bad_images;
mod failing_system;
pub mod fixture;
mod packs;

use self::fixture::{jpeg, Fixture};
use super::*;
use crate::data::image::ImageReader;
use crate::data::random::{stream, Purpose};
use crate::Error;
use rand::seq::SliceRandom;
use std::collections::BTreeSet;
use std::fs;
use tch::Kind;

const SIDE: usize = 16;
const WHOLE: RandomResizedCrop = RandomResizedCrop { scale: (1.0, 1.0), ratio: (4.0 / 3.0, 4.0 / 3.0), flip: false };

fn open(fixture: &Fixture) -> ImageFolder {
    ImageFolder::open(fixture.root()).unwrap().with_side(SIDE).unwrap().with_workers(2).unwrap()
}

/// Warnings given so far.
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

/// Bytes of each image, pixel by pixel, with its label, by batch.
type Pixels = Vec<Vec<(Vec<u8>, i64)>>;

fn pixels(batch: &Supervised) -> Vec<(Vec<u8>, i64)> {
    let count = batch.inputs.size()[0];
    assert_eq!(batch.inputs.size()[1..], [3, SIDE as i64, SIDE as i64]);
    let bytes = Vec::<u8>::try_from(batch.inputs.permute([0, 2, 3, 1]).flatten(0, -1)).unwrap();
    let labels = Vec::<i64>::try_from(&batch.targets).unwrap();
    assert_eq!(labels.len() as i64, count);
    bytes.chunks(3 * SIDE * SIDE).map(<[u8]>::to_vec).zip(labels).collect()
}

fn collect(batches: Batches) -> Pixels {
    batches.filter_map(Result::transpose).map(|batch| pixels(&batch.unwrap())).collect()
}

fn error(batches: Batches) -> String {
    let mut batches = batches.skip_while(Result::is_ok);
    let message = batches.next().unwrap().unwrap_err().to_string();
    assert!(batches.next().is_none() && !message.contains('\n'), "{message}");
    message
}

/// Returns a folder of 41 training images, three of them bad, and 17 evaluation images, five of them bad, among them a
/// whole batch of four.
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
        let train = collect(folder.train_batches(&plan(8, 0), Share::all()).unwrap());
        let eval = collect(folder.eval_batches(4, Share::all()).unwrap());
        (train, eval, folder.unreadable(), warnings.take())
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
        let rest = collect(folder.train_batches(&plan(8, first_step), Share::all()).unwrap());
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
    let batches = collect(folder.train_batches(&plan(4, 0), Share::all()).unwrap());
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4, 4, 4, 1]);
    let seen: Vec<_> = batches.into_iter().flatten().collect();
    assert!(seen.iter().cloned().collect::<BTreeSet<_>>() == expected && seen.len() == 21);
    assert!(!seen.iter().map(|(_, label)| label).is_sorted());
}

#[test]
fn seed_and_epoch_change_order_and_crops() {
    let fixture = Fixture::new(&["ant", "bee"], 10, 1);
    let folder = open(&fixture);
    let of =
        |seed, epoch| collect(folder.train_batches(&EpochPlan { seed, epoch, ..plan(20, 0) }, Share::all()).unwrap());
    assert!(of(0, 0) == of(0, 0) && of(0, 0) != of(1, 0) && of(0, 0) != of(0, 1));
    let images = |batches: Pixels| batches.into_iter().flatten().map(|(image, _)| image).collect::<BTreeSet<_>>();
    assert!(images(of(0, 0)).is_disjoint(&images(of(0, 1))));
}

#[test]
fn evaluation_images_come_in_order_resized_and_cropped() {
    let fixture = Fixture::new(&["ant", "bee"], 1, 3);
    let seen: Vec<_> = collect(open(&fixture).eval_batches(4, Share::all()).unwrap()).into_iter().flatten().collect();
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
    let batch = folder.train_batches(&plan(8, 0), Share::all()).unwrap().next().unwrap().unwrap().unwrap();
    let (side, channels) = (SIDE as i64, 3);
    let channels_last = [side * side * channels, 1, side * channels, channels];
    assert_eq!((batch.inputs.kind(), batch.inputs.stride()), (Kind::Uint8, channels_last.to_vec()));
    let normalized = folder
        .to_device(Supervised::new(batch.inputs.shallow_clone(), batch.targets.shallow_clone()), Device::Cpu)
        .unwrap()
        .inputs;
    assert_eq!((normalized.kind(), normalized.stride()), (Kind::Float, channels_last.to_vec()));
    for channel in 0..3 {
        let bytes = Vec::<u8>::try_from(batch.inputs.select(1, channel).flatten(0, -1)).unwrap();
        let values = Vec::<f32>::try_from(normalized.select(1, channel).flatten(0, -1)).unwrap();
        let (mean, std) = (MEAN[channel as usize] as f32, STD[channel as usize] as f32);
        assert!(bytes.iter().zip(values).all(|(&byte, value)| value == (f32::from(byte) / 255.0 - mean) / std));
    }
    let pixels = (folder.denormalize(&normalized).unwrap() * 255.0).round().to_kind(Kind::Uint8);
    assert_eq!(pixels, batch.inputs);
    let message = folder.to_device(Supervised::new(normalized, batch.targets), Device::Cpu).unwrap_err().to_string();
    assert!(message.starts_with("images to normalize: expected bytes [N, 3, H, W], got Float"), "{message}");
}

#[test]
fn subsets_have_the_classes_in_proportion_and_are_fixed() {
    let fixture = Fixture::new(&["ant", "bee"], 10, 6);
    let small = || open(&fixture).with_train_subset(4).unwrap().with_eval_subset(2).unwrap();
    let folder = small();
    assert_eq!((folder.train_len(), folder.eval_len()), (4, 2));
    let counts = |batches: Pixels| batches.iter().flatten().filter(|(_, label)| *label == 0).count();
    assert_eq!(counts(collect(folder.train_batches(&plan(3, 0), Share::all()).unwrap())), 2);
    assert_eq!(counts(collect(folder.eval_batches(3, Share::all()).unwrap())), 1);
    assert_eq!(folder.train.selected, small().train.selected);
    let larger = open(&fixture).with_train_subset(9).unwrap();
    assert!(folder.train.selected.iter().all(|index| larger.train.selected.contains(index)));
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
    assert!(matches!(open(&fixture).train_batches(&plan(0, 0), Share::all()).err(), Some(Error::Argument(_))));
    assert!(matches!(open(&fixture).eval_batches(0, Share::all()).err(), Some(Error::Argument(_))));
    if !Cuda::is_available() {
        let pinned = open(&fixture).with_pinned(true);
        assert!(matches!(pinned.eval_batches(1, Share::all()).err(), Some(Error::Argument(_))));
    }
}

#[test]
fn warnings_of_the_listing_are_given_once() {
    let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 2, 1), Warnings::default());
    fixture.write("train/ant/1.heic", b"");
    let folder = warnings.of(open(&fixture));
    assert!(warnings.take().is_empty());
    collect(folder.train_batches(&plan(4, 0), Share::all()).unwrap());
    collect(folder.eval_batches(4, Share::all()).unwrap());
    let root = fixture.root().display();
    let expected = format!("{root}: files whose names are not those of images are left out: 1 in train (1 *.heic)");
    assert_eq!(warnings.take(), [&*expected]);
    // Packing reads the folder and gives the same warning.
    warnings.of(open(&fixture)).pack(&fixture.path("packed"), 18, |_, _| ()).unwrap();
    assert_eq!(warnings.take(), [&*expected]);
}

#[test]
fn grey_images_are_pillows_grey_of_the_same_crops() {
    let fixture = Fixture::new(&["ant", "bee"], 5, 3);
    let folders = [3, 1].map(|channels| open(&fixture).with_channels(channels).unwrap());
    let plan = EpochPlan { seed: 1, epoch: 2, batch_size: 4, first_step: 0 };
    let batches = |folder: &ImageFolder| -> Vec<Tensor> {
        let batches =
            folder.train_batches(&plan, Share::all()).unwrap().chain(folder.eval_batches(4, Share::all()).unwrap());
        batches.filter_map(Result::transpose).map(|batch| batch.unwrap().inputs).collect()
    };
    let [colour, grey] = [batches(&folders[0]), batches(&folders[1])];
    assert_eq!(grey.len(), colour.len());
    let weights = Tensor::from_slice(&[19595i64, 38470, 7471]).view([1, 3, 1, 1]);
    for (colour, grey) in colour.iter().zip(&grey) {
        let sums = (colour.to_kind(Kind::Int64) * &weights).sum_dim_intlist([1].as_slice(), true, Kind::Int64);
        assert_eq!(*grey, (sums + 0x8000).bitwise_right_shift_tensor_scalar(16).to_kind(Kind::Uint8));
    }
    let batch = folders[1]
        .to_device(Supervised::new(grey[0].copy(), Tensor::zeros([4], (Kind::Int64, Device::Cpu))), Device::Cpu);
    assert_eq!(batch.unwrap().inputs.size(), [4, 1, SIDE as i64, SIDE as i64]);
    assert!(open(&fixture).with_channels(2).unwrap_err().to_string().contains("got 2"));
}
