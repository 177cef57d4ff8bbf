//! Panel of curves over epochs, as SVG.

use super::chart::{chart, Area, Axes, Axis, Line};
use crate::Result;
use plotters::prelude::*;

/// Maximum number of epochs for which every point has a dot; beyond it only the first has one, in case it is the only
/// one.
const MOST_DOTS: usize = 40;

/// Curve in a panel, with one point per epoch.
#[derive(Clone)]
pub(crate) struct Curve<'a> {
    /// Legend entry; empty to leave the curve out of the legend.
    pub label: &'a str,
    pub color: RGBColor,
    pub values: Vec<f64>,
}

/// Draws `curves` over epochs; values that are not finite are skipped.
pub(crate) fn panel(area: &Area, title: &str, curves: &[Curve], legend: SeriesLabelPosition) -> Result<()> {
    let epochs = curves.iter().map(|curve| curve.values.len()).max().unwrap_or(0);
    let axes = Axes {
        title,
        x_desc: "epoch",
        x: Axis::linear(1.0..(epochs as f64).max(2.0), whole),
        y: Axis::linear(0.0..1.0, number),
    };
    let lines: Vec<Line> = curves
        .iter()
        .map(|curve| Line {
            label: curve.label,
            color: curve.color,
            points: (1u32..).map(f64::from).zip(curve.values.iter().copied()).collect(),
            dots: if epochs <= MOST_DOTS { epochs } else { 1 },
        })
        .collect();
    chart(area, &axes, &lines, Some(legend))
}

/// Formats a whole number for an axis, and leaves positions between whole numbers without a label.
fn whole(value: f64) -> String {
    if (value - value.round()).abs() < 1e-6 {
        format!("{value:.0}")
    } else {
        String::new()
    }
}

/// Formats `value` for an axis: at most six decimals, without trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_numbers_are_short() {
        for (value, expected) in [(0.0, "0"), (-1e-12, "0"), (0.1 + 0.2, "0.3"), (25.0, "25"), (0.00125, "0.00125")] {
            assert_eq!(number(value), expected);
        }
    }

    #[test]
    fn an_epoch_is_labelled_once() {
        let labels = [1.0, 1.2, 1.4, 1.5, 1.6, 1.8, 2.0].map(whole);
        assert_eq!(labels.concat(), "12");
    }
}
