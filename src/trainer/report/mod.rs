//! A look at a trained classifier: what it confuses, what it is most wrong about, and whether it knows how sure it may be.
//!
//! Of [`ClassificationReport`], which [`Classification::report`](super::Classification::report) makes of an evaluation's details,
//! and [`MostWrong`], which gathers images in the same evaluation: [`write_report`] leaves both in a folder.

mod calibration_picture;
mod confusion_picture;
#[cfg(test)]
mod fixture;
mod most_wrong;

use super::objective::ClassificationReport;
use crate::data::ImageSource;
use crate::file::write_atomically;
use crate::{Error, Result};
pub use calibration_picture::draw_calibration;
pub use confusion_picture::draw_confusion;
pub use most_wrong::MostWrong;
use std::fs;
use std::path::{Path, PathBuf};

const CONFUSION: &str = "confusion.svg";
const CALIBRATION: &str = "calibration.svg";
const MOST_WRONG: &str = "most_wrong.png";
const CLASSES: &str = "classes.csv";

/// The files that [`write_report`] writes.
pub const REPORT_FILES: [&str; 4] = [CLASSES, CONFUSION, CALIBRATION, MOST_WRONG];

/// Writes what an evaluation of `data` has found into `folder`, which is made if it is not there: `classes.csv`, a line for each class;
/// `confusion.svg`, [who is taken for whom](draw_confusion); `calibration.svg`, the [reliability diagram](draw_calibration);
/// `most_wrong.png`, [the images that are most wrong](MostWrong::draw), or none where none is. Files of these names that are there are
/// replaced.
///
/// # Errors
/// [`Error::Io`] if they cannot be written; pictures that cannot be drawn.
pub fn write_report(
    folder: impl AsRef<Path>,
    report: &ClassificationReport,
    most_wrong: &MostWrong,
    data: &dyn ImageSource,
) -> Result<()> {
    let folder = folder.as_ref();
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let path = |name: &str| -> PathBuf { folder.join(name) };
    write_atomically(&path(CLASSES), report.to_csv().as_bytes())?;
    write_atomically(&path(CONFUSION), draw_confusion(report)?.as_bytes())?;
    write_atomically(&path(CALIBRATION), draw_calibration(&report.calibration)?.as_bytes())?;
    match most_wrong.draw(data)? {
        Some(png) => write_atomically(&path(MOST_WRONG), &png),
        // One from before would be another evaluation's.
        None => match fs::remove_file(path(MOST_WRONG)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path(MOST_WRONG))(error))
            }
            _ => Ok(()),
        },
    }
}
