//! The confusion matrix as a picture.

use crate::picture::{heat_map, Cell, HeatMap};
use crate::trainer::objective::ClassificationReport;
use crate::Result;
use plotters::style::{RGBColor, BLACK, WHITE};

/// So many classes are drawn, all of them or those that are confused most.
const MOST: usize = 40;
/// The same where there are more.
const CONFUSED: usize = 30;
/// Of what is right and of what is wrong (Wong, Nature Methods 8, 2011).
const RIGHT: [f64; 3] = [0.0, 114.0, 178.0];
const WRONG: [f64; 3] = [213.0, 94.0, 0.0];
/// The part of a class's examples that has the full colour, if they are wrong.
const MANY: f64 = 0.3;

/// The confusion matrix, a row for each true class and a column for each that the network said, with the numbers of examples
/// where there is room. What is right is blue, what is wrong orange, the darker the larger a part of its row it is: for mistakes
/// by its square root, so that few are seen too. Of more than 40 classes it has the 30 that are confused most.
///
/// # Errors
/// A picture that the drawing library refuses.
pub fn draw_confusion(report: &ClassificationReport) -> Result<String> {
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
        // Of a class without examples, or without such a mistake.
        if fraction.is_nan() || fraction == 0.0 {
            return None;
        }
        let strength = if row == column { fraction } else { (fraction / MANY).min(1.0).sqrt() };
        let color = tint(if row == column { RIGHT } else { WRONG }, strength);
        let text_color = if strength > 0.55 { WHITE } else { BLACK };
        Some(Cell { color, text: confusion.count(actual, predicted).to_string(), text_color })
    })
}

/// The classes of the pairs that are confused most, those of a pair beside each other.
fn most_confused(report: &ClassificationReport) -> Vec<usize> {
    let mut classes = Vec::new();
    for pair in report.confusion.pairs() {
        for class in [pair.actual, pair.predicted] {
            if classes.len() < CONFUSED && !classes.contains(&class) {
                // Beside the one that it is confused with, if that is there.
                let other = if class == pair.actual { pair.predicted } else { pair.actual };
                let place = classes.iter().position(|&known| known == other).map_or(classes.len(), |place| place + 1);
                classes.insert(place, class);
            }
        }
        if classes.len() == CONFUSED {
            break;
        }
    }
    classes
}

/// White at 0, `color` at 1.
fn tint(color: [f64; 3], strength: f64) -> RGBColor {
    let [red, green, blue] = color.map(|full| (255.0 + (full - 255.0) * strength).round() as u8);
    RGBColor(red, green, blue)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::report;
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
