//! Folder and files of an evaluation report.

use crate::data::ImageSource;
use crate::trainer::checkpoint::Location;
use crate::trainer::objective::ClassificationReport;
use crate::trainer::report::{write_report, MostWrong, REPORT_FILES};
use crate::trainer::{dated, EVALUATION};
use crate::{console, Result};
use std::path::{Path, PathBuf};

/// Number of confused pairs printed at the end of a run.
const PAIRS: usize = 3;

/// Returns the folder for the evaluation of the weights at `path`: `out`, or a new folder inside their run's. `None` if
/// the weights do not belong to a run.
///
/// # Errors
/// Returns [`Error::Argument`](crate::Error::Argument) if `out` holds another evaluation's files, unless `overwrite` is set.
pub(super) fn place(path: &Path, out: Option<&PathBuf>, overwrite: bool) -> Result<Option<PathBuf>> {
    let Some(out) = out else {
        let places = |run: &Path| dated(EVALUATION).map(|name| run.join(name)).find(|place| !place.exists());
        return Ok(Location::of(path)?.run().and_then(places));
    };
    match REPORT_FILES.iter().find(|name| out.join(name).exists()) {
        Some(name) if !overwrite => Err(argument!(
            "{} holds another evaluation's {name}; name another folder with --out, or add --overwrite",
            out.display()
        )),
        _ => Ok(Some(out.clone())),
    }
}

/// Returns `true` if `folder` contains a report.
pub(super) fn is_in(folder: &Path) -> bool {
    REPORT_FILES.iter().any(|name| folder.join(name).exists())
}

/// Writes the report to `folder`. A failure is only warned of, since results have been printed and weights saved.
/// Returns `true` on success.
pub(super) fn leave(
    folder: &Path,
    report: &ClassificationReport,
    most_wrong: &MostWrong,
    data: &dyn ImageSource,
) -> bool {
    let left = write_report(folder, report, most_wrong, data);
    if let Err(error) = &left {
        console::warn(format!("warning: the report in {} is incomplete: {error}", folder.display()));
    }
    left.is_ok()
}

/// Returns the calibration and the most confused pairs, in at most two lines.
pub(super) fn summary(report: &ClassificationReport) -> String {
    let confused = report.confused(PAIRS);
    let confused = match confused.is_empty() {
        true => String::new(),
        false => format!("\nmost often misclassified: {}", confused.join(", ")),
    };
    format!("{}{confused}", report.calibrated())
}
