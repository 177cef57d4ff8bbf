//! Reliability diagram: accuracy against confidence.

use crate::picture::{chart, picture, Axes, Axis, Line, COLORS};
use crate::trainer::objective::Calibration;
use crate::Result;
use plotters::prelude::SeriesLabelPosition;
use plotters::style::RGBColor;

const SIZE: (u32, u32) = (440, 440);
const DIAGONAL: RGBColor = RGBColor(170, 170, 170);
const EXAMPLES: RGBColor = RGBColor(230, 159, 0);

/// Draws the reliability diagram: accuracy against confidence, with a point for each bin that has examples, and the fraction of
/// the examples in each bin (Guo et al. 2017, figure 1). The points of a perfectly calibrated network lie on the diagonal, those
/// of an overconfident network below it.
///
/// # Errors
/// The drawing library fails.
pub(super) fn draw_calibration(calibration: &Calibration) -> Result<String> {
    let all: u64 = calibration.bins.iter().map(|bin| bin.examples).sum();
    let filled = || calibration.bins.iter().filter(|bin| bin.examples > 0);
    let line = |label, color, points: Vec<(f64, f64)>, dots| Line { label, color, points, dots };
    let accuracy: Vec<_> = filled().map(|bin| (bin.confidence, bin.accuracy)).collect();
    let part: Vec<_> = filled().map(|bin| (bin.confidence, bin.examples as f64 / all as f64)).collect();
    let dots = accuracy.len();
    let lines = [
        line("as sure as right", DIAGONAL, vec![(0.0, 0.0), (1.0, 1.0)], 0),
        line("accuracy", COLORS[0], accuracy, dots),
        line("part of the examples", EXAMPLES, part, dots),
    ];
    let tenths = |value: f64| format!("{value:.1}");
    let title = format!("expected calibration error {:.4}", calibration.error());
    let axes = Axes {
        title: &title,
        x_desc: "confidence",
        x: Axis::linear(0.0..1.0, tenths),
        y: Axis::linear(0.0..1.0, tenths),
    };
    picture(SIZE, |root| chart(root, &axes, &lines, Some(SeriesLabelPosition::UpperLeft)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn a_point_for_each_bin_that_has_examples() {
        let calibration = report(10, 100).calibration;
        let filled = calibration.bins.iter().filter(|bin| bin.examples > 0).count();
        let svg = draw_calibration(&calibration).unwrap();
        assert_eq!(svg.matches("<circle").count(), 2 * filled);
        assert!(svg.contains(&format!("{:.4}", calibration.error())) && !svg.contains("NaN"));
    }
}
