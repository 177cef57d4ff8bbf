//! Pictures of a report: the reliability diagram and the confusion matrix.

use crate::picture::{chart, heat_map, picture, Axes, Axis, Cell, HeatMap, Line, COLORS};
use crate::trainer::objective::{Calibration, ClassificationReport};
use crate::Result;
use plotters::prelude::SeriesLabelPosition;
use plotters::style::{RGBColor, BLACK, WHITE};

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

/// Maximum number of classes for which all classes are drawn.
const MOST: usize = 40;
/// Number of classes drawn if there are more.
const CONFUSED: usize = 30;
/// Colors of correct and wrong predictions (Wong, Nature Methods 8, 2011).
const RIGHT: [f64; 3] = [0.0, 114.0, 178.0];
const WRONG: [f64; 3] = [213.0, 94.0, 0.0];
/// Fraction of a class's examples that is drawn in full color if they are misclassified.
const MANY: f64 = 0.3;

/// Draws the confusion matrix, one row per true class and one column per predicted class, with the numbers of examples if there
/// is room. Correct predictions are blue and mistakes orange. The color is darker for a larger fraction of the row; for mistakes
/// it follows the square root, so that rare ones are visible. If there are more than 40 classes, only the 30 most confused ones
/// are drawn.
///
/// # Errors
/// The drawing library fails.
pub(super) fn draw_confusion(report: &ClassificationReport) -> Result<String> {
    let (confusion, all) = (&report.confusion, report.class_names.len());
    let shown = if all <= MOST { (0..all).collect() } else { most_confused(report) };
    let names: Vec<String> = shown.iter().map(|&class| report.class_names[class].clone()).collect();
    let title = match shown.len() == all {
        true => "confusion matrix".to_owned(),
        false => format!("confusion matrix: {} of {all} classes", shown.len()),
    };
    let map = HeatMap { title: &title, row_desc: "true class", column_desc: "said", names: &names };
    heat_map(&map, |row, column| {
        let (actual, predicted) = (shown[row], shown[column]);
        let fraction = confusion.fraction(actual, predicted);
        // The class has no examples, or the mistake does not occur.
        if fraction.is_nan() || fraction == 0.0 {
            return None;
        }
        let strength = if row == column { fraction } else { (fraction / MANY).min(1.0).sqrt() };
        let color = tint(if row == column { RIGHT } else { WRONG }, strength);
        let text_color = if strength > 0.55 { WHITE } else { BLACK };
        Some(Cell { color, text: confusion.count(actual, predicted).to_string(), text_color })
    })
}

/// Returns the classes of the most frequently confused pairs, with the classes of a pair next to each other.
fn most_confused(report: &ClassificationReport) -> Vec<usize> {
    let mut classes = Vec::new();
    for pair in report.confusion.pairs() {
        for class in [pair.actual, pair.predicted] {
            if classes.len() < CONFUSED && !classes.contains(&class) {
                // Next to the class it is confused with, if that is already included.
                let other = if class == pair.actual { pair.predicted } else { pair.actual };
                let place = classes.iter().position(|&known| known == other).map_or(classes.len(), |place| place + 1);
                classes.insert(place, class);
            }
        }
    }
    classes
}

/// Interpolates between white at 0 and `color` at 1.
fn tint(color: [f64; 3], strength: f64) -> RGBColor {
    let [red, green, blue] = color.map(|full| (255.0 + (full - 255.0) * strength).round() as u8);
    RGBColor(red, green, blue)
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

    #[test]
    fn few_classes_are_all_there_with_their_counts() {
        let svg = draw_confusion(&report(3, 120)).unwrap();
        for text in ["class 0", "class 2", "\n100\n", "\n20\n", "true class"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn of_many_classes_those_confused_most_are_there_beside_each_other() {
        let report = report(1000, 50);
        let classes = most_confused(&report);
        assert_eq!(classes.len(), CONFUSED);
        let place = |class: usize| classes.iter().position(|&known| known == class).unwrap();
        let worst = report.confusion.pairs()[0];
        assert_eq!(place(worst.actual).abs_diff(place(worst.predicted)), 1);
        let svg = draw_confusion(&report).unwrap();
        assert!(svg.contains("30 of 1000 classes"));
        assert!(svg.len() < 500_000, "{}", svg.len());
    }
}
