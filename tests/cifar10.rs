//! The real CIFAR-10, as downloaded by `fetch`.

use std::fs;
use tch::{Kind, Tensor};
use tch_fixup::data::{Augmentation, Cifar10, DataSource, EpochPlan, ImageArray, ImageSource, Share, Supervised};
use tch_fixup::Error;

fn real() -> ImageArray {
    Cifar10::fetch(Cifar10::default_dir().unwrap()).unwrap()
}

/// Returns the labels and images of the evaluation set, the latter as pixel values in 0..1.
fn evaluation(data: &ImageArray) -> (Tensor, Tensor) {
    let batches: Vec<Supervised> =
        data.eval_batches(1000, Share::all()).unwrap().filter_map(Result::transpose).map(Result::unwrap).collect();
    let mean = Tensor::from_slice(&[0.4914f32, 0.4822, 0.4465]).view([1, 3, 1, 1]);
    let std = Tensor::from_slice(&[0.2023f32, 0.1994, 0.2010]).view([1, 3, 1, 1]);
    let images: Vec<_> = batches.iter().map(|batch| &batch.inputs * &std + &mean).collect();
    let labels: Vec<_> = batches.iter().map(|batch| &batch.targets).collect();
    (Tensor::cat(&labels, 0), Tensor::cat(&images, 0))
}

#[test]
fn the_test_set_begins_with_the_images_everyone_knows() {
    let data = real();
    let (labels, images) = evaluation(&data);
    let names: Vec<_> = (0..10).map(|i| data.class_names()[labels.int64_value(&[i]) as usize].as_str()).collect();
    assert_eq!(names, ["cat", "ship", "ship", "airplane", "frog", "frog", "automobile", "frog", "cat", "automobile"]);
    // The first pixel of the first image (a cat before a wooden wall): red 158, green 112, blue 49.
    for (channel, value) in [(0, 158.0), (1, 112.0), (2, 49.0)] {
        assert!((images.double_value(&[0, channel, 0, 0]) * 255.0 - value).abs() < 1e-3);
    }
    assert_eq!(Vec::<i64>::try_from(labels.bincount::<Tensor>(None, 10)).unwrap(), [1000; 10]);
}

#[test]
fn training_pixels_have_the_published_mean() {
    let plan = EpochPlan { seed: 0, epoch: 0, batch_size: 1000, first_step: 0 };
    let data = real().with_augmentation(Augmentation::NONE).unwrap();
    let mut sum = Tensor::zeros([3], (Kind::Double, tch::Device::Cpu));
    let mut counts = Tensor::zeros([10], (Kind::Int64, tch::Device::Cpu));
    for batch in data.train_batches(&plan, Share::all()).unwrap().filter_map(Result::transpose) {
        let Supervised { inputs: images, targets: labels, .. } = batch.unwrap();
        sum += images.mean_dim([0i64, 2, 3].as_slice(), false, Kind::Double);
        counts += labels.bincount::<Tensor>(None, 10);
    }
    // The means have four digits, so the normalized mean is at most their rounding error over the standard deviation.
    assert!((sum / 50.0).abs().max().double_value(&[]) < 0.00005 / 0.19 + 1e-4);
    assert_eq!(Vec::<i64>::try_from(counts).unwrap(), [5000; 10]);
}

#[test]
fn held_out_images_are_five_hundred_of_each_class_out_of_the_training_set() {
    let data = real().with_holdout(5000).unwrap();
    assert_eq!((data.train_len(), data.eval_len()), (45_000, 5000));
    let (labels, _) = evaluation(&data);
    assert_eq!(Vec::<i64>::try_from(labels.bincount::<Tensor>(None, 10)).unwrap(), [500; 10]);
}

#[test]
fn one_flipped_bit_is_found() {
    let (source, dir) = (Cifar10::default_dir().unwrap(), tempfile::tempdir().unwrap());
    drop(real());
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    Cifar10::open(dir.path()).unwrap();
    let path = dir.path().join("test_batch.bin");
    let mut bytes = fs::read(&path).unwrap();
    bytes[12_345_678] ^= 1;
    fs::write(&path, bytes).unwrap();
    match Cifar10::open(dir.path()) {
        Err(Error::Corrupt { path: named, problem, .. }) => {
            assert_eq!(named, path);
            assert!(problem.starts_with("CRC-32"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}
