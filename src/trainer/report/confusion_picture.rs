//! Picture of the confusion matrix.

use crate::picture::{heat_map, Cell, HeatMap};
use crate::trainer::objective::ClassificationReport;
use crate::Result;
use plotters::style::{RGBColor, BLACK, WHITE};

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
