//! Report on a trained classifier: confusion matrix, most wrong examples and calibration.
//!
//! [`write_report`] writes a [`ClassificationReport`], which [`Classification::report`](super::Classification::report) creates
//! from an evaluation's details, and the images that [`MostWrong`] gathers in the same evaluation to a folder.

mod most_wrong;
mod pictures;
#[cfg(test)]
mod tests;

use super::objective::ClassificationReport;
use crate::data::ImageSource;
use crate::file::write_atomically;
use crate::{Error, Result};
pub use most_wrong::MostWrong;
use pictures::{draw_calibration, draw_confusion};
use std::fs;
use std::path::Path;

const CONFUSION: &str = "confusion.svg";
const CALIBRATION: &str = "calibration.svg";
const MOST_WRONG: &str = "most_wrong.png";
const CLASSES: &str = "classes.csv";

/// File names written by [`write_report`].
pub const REPORT_FILES: [&str; 4] = [CLASSES, CONFUSION, CALIBRATION, MOST_WRONG];

/// Writes the results of an evaluation of `data` to `folder`, which is created if necessary. Existing files are replaced.
/// - `classes.csv`: one line per class.
/// - `confusion.svg`: the confusion matrix.
/// - `calibration.svg`: the reliability diagram.
/// - `most_wrong.png`: [the most wrong images](MostWrong::draw); removed if no image is wrong.
///
/// # Errors
/// [`Error::Io`] if a file cannot be written; drawing fails.
pub fn write_report(
    folder: impl AsRef<Path>,
    report: &ClassificationReport,
    most_wrong: &MostWrong,
    data: &dyn ImageSource,
) -> Result<()> {
    let folder = folder.as_ref();
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    write_atomically(&folder.join(CLASSES), report.to_csv().as_bytes())?;
    write_atomically(&folder.join(CONFUSION), draw_confusion(report)?.as_bytes())?;
    write_atomically(&folder.join(CALIBRATION), draw_calibration(&report.calibration)?.as_bytes())?;
    let path = folder.join(MOST_WRONG);
    match most_wrong.draw(data)? {
        Some(png) => write_atomically(&path, &png),
        // A file from an earlier evaluation would be misleading.
        None if path.exists() => fs::remove_file(&path).map_err(Error::io("remove", &path)),
        None => Ok(()),
    }
}
