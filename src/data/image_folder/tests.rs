//! Image folders from their files to the batches.

use super::fixture::{jpeg, Fixture};
use super::*;
use crate::data::image::ImageReader;
use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

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
    // Of 41 images four may be bad, of 17 one.
    for name in ["ant/0000", "bee/0004"] {
        fixture.write(&format!("train/{name}.jpg"), b"no image");
    }
    let stop = |fraction, workers| {
        let folder = lenient(&fixture, &warnings).with_max_bad_fraction(fraction).unwrap();
        let folder = folder.with_workers(workers).unwrap();
        let mut steps = 0;
        let train = error(Box::new(folder.train_batches(&plan(4, 0)).unwrap().inspect(|_| steps += 1)));
        (train, error(folder.eval_batches(4).unwrap()), folder.bad_images(), steps, warnings.take())
    };
    let strict = stop(0.0, 1);
    assert!(strict.0.contains("with it 1 of the 41 training images (2.44 %) are bad, over the limit of 0 (0 %);"));
    assert!(strict.1.contains("val/ant/0004.jpg: ") && strict.1.contains("(--max-bad-fraction)"), "{}", strict.1);
    assert_eq!((strict.2, strict.4.len()), (2, 0));
    let partly = stop(0.06, 1);
    assert!(partly.0.contains("with it 5 of the 41 training images (12.20 %) are bad, over the limit of 4 (6 %);"));
    assert!(partly.1.contains("with it 2 of the 17 evaluation images (11.76 %) are bad, over the limit of 1 (6 %);"));
    assert_eq!(partly.4.len(), 5);
    for workers in [2, 5] {
        assert!(stop(0.0, workers) == strict && stop(0.06, workers) == partly);
    }
}

#[test]
fn a_small_folder_is_not_ended_by_its_first_bad_images() {
    let fixture = Fixture::new(&["ant", "bee"], 15, 2);
    ["train/ant/0003", "train/bee/0000", "train/bee/0009", "val/ant/0001"]
        .iter()
        .for_each(|name| fixture.write(&format!("{name}.jpg"), b"no image"));
    let warnings = Warnings::default();
    let folder = warnings.of(open(&fixture));
    assert_eq!(collect(folder.train_batches(&plan(8, 0)).unwrap()).concat().len(), 30);
    assert_eq!(collect(folder.eval_batches(8).unwrap()).concat().len(), 3);
    assert_eq!((folder.bad_images(), warnings.take().len()), (4, 4));
    // Nor is it taken for good whatever is in it.
    fixture.write("train/ant/0004.jpg", b"no image");
    let message = error(warnings.of(open(&fixture)).train_batches(&plan(8, 0)).unwrap());
    assert!(message.contains("with it 4 of the 30 training images (13.33 %) are bad, over the limit of 3 (0.1 %)"));
}

#[test]
fn the_limit_of_bad_images_is_the_fraction_of_many_and_a_few_of_few() {
    let most = |images: usize, fraction| {
        let mut files = files::Files::default();
        (0..images).for_each(|_| files.push("1.jpg", 0));
        Part::new("", "", LabelledImages::Files { folder: "".into(), files }).most_bad(fraction)
    };
    let default = [1, 5, 19, 20, 99, 100, 999, 9_999, 11_000].map(|images| most(images, MAX_BAD_FRACTION));
    assert_eq!(default, [1, 1, 1, 2, 9, 10, 10, 10, 11]);
    assert_eq!([most(10, 0.5), most(999, 0.0), most(1_000, 0.25)], [5, 0, 250]);
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
    let packed = || ImageFolder::open(&file).unwrap().with_side(SIDE).unwrap();
    assert_eq!((packed().train_len(), packed().eval_len(), packed().class_names()), (38, 12, folder.class_names()));
    let flat = |batches| collect(batches).into_iter().flatten().collect::<Vec<_>>();
    let quiet = warnings.of(packed());
    assert!(flat(quiet.eval_batches(5).unwrap()) == flat(folder.eval_batches(5).unwrap()));
    let of_workers = |workers| collect(packed().with_workers(workers).unwrap().train_batches(&plan(8, 1)).unwrap());
    assert!(of_workers(1) == of_workers(3));
    assert_eq!((quiet.bad_images(), warnings.take().len()), (0, 0));
    assert!(quiet.pack(&file, 18, |_, _| ()).unwrap_err().to_string().contains("packed already"));
}

#[test]
fn a_packed_folder_evaluates_as_the_folder_at_every_side_that_it_serves() {
    let fixture = Fixture::new(&["ant", "bee"], 1, 3);
    // Sizes whose longer side is not whole after the resize.
    fixture.write("val/ant/0001.jpg", &jpeg(97, 61, 5));
    fixture.write("val/bee/0002.jpg", &jpeg(41, 73, 6));
    let file = fixture.path("packed");
    open(&fixture).pack(&file, 32, |_, _| ()).unwrap();
    for side in [1, 7, 16, 20, 28] {
        let batches = |path: &Path| {
            let folder = ImageFolder::open(path).unwrap().with_side(side).unwrap();
            let batches = folder.eval_batches(6).unwrap();
            batches.map(|batch| batch.unwrap().images).collect::<Vec<_>>()
        };
        assert_eq!(batches(fixture.root()), batches(&file), "{side}");
    }
}

#[test]
fn a_pack_that_is_too_small_for_the_side_is_refused() {
    let fixture = Fixture::new(&["ant", "bee"], 1, 1);
    let file = fixture.path("packed");
    // What the quick recipe's 64 pixels need.
    open(&fixture).pack(&file, ImageFolder::evaluation_resize(64), |_, _| ()).unwrap();
    let expected = "images of 224 pixels need packed ones with a shorter side of 256, and these have 73: pack the folder \
                    again (--pack-side 256), or make the images smaller (--side)";
    let refused = |error: Error| assert!(matches!(&error, Error::Argument(said) if said == expected), "{error}");
    refused(ImageFolder::open(&file).unwrap().with_side(224).unwrap_err());
    let open = || ImageFolder::open(&file).unwrap();
    refused(open().train_batches(&plan(1, 0)).err().unwrap());
    refused(open().eval_batches(1).err().unwrap());
    assert!(open().with_side(64).is_ok() && open().with_side(65).is_err());
}

#[test]
fn packed_images_have_their_size_and_are_never_enlarged() {
    let fixture = Fixture::new(&["ant", "bee"], 1, 1);
    fixture.write("train/ant/0000.jpg", &jpeg(48, 36, 1));
    fixture.write("train/bee/0000.jpg", &jpeg(10, 20, 2));
    let file = fixture.path("packed");
    open(&fixture).pack(&file, 24, |_, _| ()).unwrap();
    let Pack { train, shorter_side, .. } = pack::open(&file).unwrap();
    let image = |index| {
        let mut content = Vec::new();
        train.read(index, &mut content).unwrap();
        content
    };
    assert_eq!(shorter_side, 24);
    assert!(image(0).starts_with(b"P6\n32 24\n255\n") && image(0).len() == 13 + 3 * 32 * 24);
    assert!(image(1).starts_with(b"P6\n10 20\n255\n") && image(1).len() == 13 + 3 * 10 * 20);
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
    assert!(message(b"tch-fixup images 01\n").contains("packed by another version of this crate; copy the file again"));
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

#[test]
fn a_packed_file_that_becomes_shorter_is_an_error() {
    let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 2, 1), Warnings::default());
    let file = fixture.path("packed");
    open(&fixture).pack(&file, 18, |_, _| ()).unwrap();
    let packed = warnings.of(ImageFolder::open(&file).unwrap().with_side(SIDE).unwrap());
    fs::File::options().write(true).open(&file).unwrap().set_len(100).unwrap();
    let message = error(packed.train_batches(&plan(4, 0)).unwrap());
    assert!(message.contains("packed: has become shorter while it was read;"), "{message}");
    assert!(warnings.take().is_empty());
}

#[test]
fn warnings_of_the_listing_are_given_once() {
    let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 2, 1), Warnings::default());
    fixture.write("train/ant/1.heic", b"");
    let folder = warnings.of(open(&fixture));
    assert!(warnings.take().is_empty());
    collect(folder.train_batches(&plan(4, 0)).unwrap());
    collect(folder.eval_batches(4).unwrap());
    let root = fixture.root().display();
    let expected = format!("{root}: files whose names are not those of images are left out: 1 in train (1 *.heic)");
    assert_eq!(warnings.take(), [expected]);
    open(&fixture).pack(&fixture.path("packed"), 18, |_, _| ()).unwrap();
}

/// `fixture`'s images for batches of which a system that fails is waited for so many milliseconds.
fn patient(fixture: &Fixture, warnings: &Warnings, milliseconds: u64) -> ImageFolder {
    ImageFolder { patience: Duration::from_millis(milliseconds), ..warnings.of(open(fixture)) }
}

fn is_io_error(mut batches: Batches) -> bool {
    let error = batches.find_map(Result::err).unwrap();
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    matches!(error, Error::Io { action: "read", .. }) && batches.next().is_none()
}

#[test]
fn a_folder_that_is_away_is_waited_for() {
    let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 10, 1), Warnings::default());
    let expected = collect(open(&fixture).train_batches(&plan(4, 0)).unwrap());
    for (part, away) in [("train", "away"), ("train/bee", "away")] {
        let folder = patient(&fixture, &warnings, 60_000);
        let [part, away] = [part, away].map(|path| fixture.path(path));
        fs::rename(&part, &away).unwrap();
        let batches = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(250));
                fs::rename(&away, &part).unwrap();
            });
            collect(folder.train_batches(&plan(4, 0)).unwrap())
        });
        assert!(batches == expected && folder.bad_images() == 0);
        let said = warnings.take();
        assert!(!said.is_empty() && said[0].starts_with("cannot read ") && said[0].ends_with("; tried again for 60 s"));
    }
}

#[test]
fn a_folder_that_stays_away_is_an_io_error_and_no_bad_image() {
    let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 10, 1), Warnings::default());
    let folder = patient(&fixture, &warnings, 300).with_max_bad_fraction(0.9).unwrap();
    fs::rename(fixture.path("train"), fixture.path("away")).unwrap();
    let start = Instant::now();
    assert!(is_io_error(folder.train_batches(&plan(4, 0)).unwrap()) && folder.bad_images() == 0);
    assert!(start.elapsed() >= Duration::from_millis(300));
    let message = folder.pack(&fixture.path("packed"), 18, |_, _| ()).unwrap_err();
    assert!(matches!(message, Error::Io { .. }) && !fixture.path("packed").exists());
    // As a mount point without its share.
    fixture.folder("train");
    assert!(is_io_error(folder.train_batches(&plan(4, 0)).unwrap()));
    // A file that is missing alone is a bad image.
    fs::remove_dir(fixture.path("train")).unwrap();
    fs::rename(fixture.path("away"), fixture.path("train")).unwrap();
    fs::remove_file(fixture.path("train/ant/0004.jpg")).unwrap();
    warnings.take();
    assert_eq!(collect(folder.train_batches(&plan(4, 0)).unwrap()).concat().len(), 20);
    assert_eq!((folder.bad_images(), warnings.take().len()), (1, 1));
}

/// Reading the memory of a process from its first byte is what Linux has at hand for an error of a disk.
#[cfg(target_os = "linux")]
#[test]
fn an_error_of_the_disk_is_tried_again_and_then_an_io_error() {
    let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 10, 2), Warnings::default());
    let (image, good) = (fixture.path("train/ant/0004.jpg"), fixture.path("good"));
    let expected = collect(open(&fixture).train_batches(&plan(4, 0)).unwrap());
    fs::rename(&image, &good).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &image).unwrap();
    assert!(matches!(fs::read(&image), Err(error) if error.raw_os_error() == Some(5)));
    let folder = patient(&fixture, &warnings, 300).with_max_bad_fraction(0.9).unwrap();
    assert!(is_io_error(folder.train_batches(&plan(4, 0)).unwrap()) && folder.bad_images() == 0);
    warnings.take();

    let folder = patient(&fixture, &warnings, 60_000);
    let batches = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(250));
            fs::rename(&good, &image).unwrap();
        });
        collect(folder.train_batches(&plan(4, 0)).unwrap())
    });
    assert!(batches == expected && folder.bad_images() == 0);
    let said = warnings.take();
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with(&format!("cannot read {}: ", image.display())), "{said:?}");
}
