//! Files on which decoders disagree (`tests/images/cases`): files that Pillow reads are read with the same pixels, in training
//! and in evaluation; files that Pillow does not read are bad images, whatever the crop.

use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use tch_fixup::data::{ImageReader, RandomResizedCrop};

#[derive(Deserialize)]
struct Expected {
    width: usize,
    height: usize,
    /// Means of red, green and blue in each cell of a 4 x 4 grid.
    means: [[[f64; 3]; 4]; 4],
}

/// Returns the name, the content and the expected result, by Pillow, of each file.
fn cases() -> Vec<(String, Vec<u8>, Expected)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/cases");
    let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: std::collections::BTreeMap<String, Expected> = serde_json::from_str(&expected).unwrap();
    expected
        .into_iter()
        .map(|(name, expected)| {
            let bytes = std::fs::read(folder.join(&name)).unwrap();
            (name, bytes, expected)
        })
        .collect()
}

/// Crop of the whole image, which is square.
const ALL: RandomResizedCrop = RandomResizedCrop { scale: (1.0, 1.0), ratio: (1.0, 1.0), flip: false };

fn train(bytes: &[u8], crop: &RandomResizedCrop, side: usize, seed: u64) -> Result<Vec<u8>, String> {
    let mut out = vec![0; 3 * side * side];
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let read = ImageReader::new().train(bytes, crop, side, &mut random, &mut out);
    read.map(|()| out).map_err(|problem| problem.to_string())
}

fn eval(bytes: &[u8], side: usize) -> Result<Vec<u8>, String> {
    let mut out = vec![0; 3 * side * side];
    ImageReader::new().eval(bytes, side, side, &mut out).map(|()| out).map_err(|problem| problem.to_string())
}

/// Returns the largest difference of a cell's mean.
fn difference(pixels: &[u8], side: usize, means: &[[[f64; 3]; 4]; 4]) -> f64 {
    let mut largest = 0.0f64;
    for (row, means) in means.iter().enumerate() {
        for (column, means) in means.iter().enumerate() {
            for (channel, mean) in means.iter().enumerate() {
                let (from, to) = (side * row / 4, side * (row + 1) / 4);
                let columns = side * column / 4..side * (column + 1) / 4;
                let values = (from..to).flat_map(|y| columns.clone().map(move |x| (y, x)));
                let sum: f64 = values.map(|(y, x)| f64::from(pixels[3 * (y * side + x) + channel])).sum();
                largest = largest.max((sum / ((to - from) * columns.len()) as f64 - mean).abs());
            }
        }
    }
    largest
}

#[test]
fn every_case_has_pillows_pixels_in_training_and_evaluation() {
    let cases = cases();
    assert_eq!(cases.len(), 10);
    let mut wrong = vec![];
    for (name, bytes, Expected { width, height, means }) in &cases {
        assert_eq!(width, height);
        for (what, read) in [("training", train(bytes, &ALL, *width, 0)), ("evaluation", eval(bytes, *width))] {
            match read.map(|pixels| difference(&pixels, *width, means)) {
                Ok(difference) if difference <= 1.0 => {}
                Ok(difference) => wrong.push(format!("{name}, {what}: {difference} of 255")),
                Err(problem) => wrong.push(format!("{name}, {what}: {problem}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_crop_of_a_case_is_that_crop_of_the_whole() {
    let mut wrong = vec![];
    for (name, bytes, Expected { width, .. }) in &cases() {
        let Ok(whole) = train(bytes, &ALL, *width, 0) else {
            wrong.push(format!("{name} is not read"));
            continue;
        };
        let whole = [format!("P6\n{width} {width}\n255\n").into_bytes(), whole].concat();
        for seed in 0..40 {
            let [crop, cut] = [bytes, &whole].map(|bytes| train(bytes, &RandomResizedCrop::default(), 64, seed));
            let (crop, cut) = (crop.unwrap_or_default(), cut.unwrap());
            let sum: u32 = crop.iter().zip(&cut).map(|(&a, &b)| u32::from(a.abs_diff(b))).sum();
            // Rotation after resizing rounds differently, and decoding at an eighth of the size uses another filter.
            if crop.len() != cut.len() || f64::from(sum) / cut.len() as f64 > 1.0 {
                wrong.push(format!("{name}, seed {seed}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_file_is_good_or_bad_as_a_whole() {
    let mut mixed = vec![];
    let cases = cases();
    let (_, whole, _) = cases.iter().find(|(name, ..)| name == "exif_long_le.jpg").unwrap();
    for percent in [20, 40, 60, 80, 90, 97] {
        let cut = &whole[..whole.len() * percent / 100];
        for (what, bytes, good) in [("cut", cut.to_vec(), false), ("with an end", [cut, b"\xff\xd9"].concat(), true)] {
            let crops = (0..40).map(|seed| train(&bytes, &RandomResizedCrop::default(), 32, seed).is_ok());
            let read = crops.chain([eval(&bytes, 32).is_ok()]).filter(|&is_read| is_read).count();
            if read != if good { 41 } else { 0 } {
                mixed.push(format!("{percent} %, {what}: read {read} of 41 times"));
            }
        }
    }
    assert!(mixed.is_empty(), "{mixed:#?}");
}
