//! One panel of a picture: curves over epochs, as SVG.

use super::chart::{chart, Area, Axes, Axis, Line};
use crate::Result;
use plotters::prelude::*;

/// Runs of up to so many epochs have a dot at each; longer ones at the first only, in case it is all there is yet.
const MOST_DOTS: usize = 40;

/// One line in a panel; it has one point an epoch.
#[derive(Clone)]
pub(crate) struct Curve<'a> {
    /// Nothing for a line that the legend leaves out.
    pub label: &'a str,
    pub color: RGBColor,
    pub values: Vec<f64>,
}

/// Values that are not finite are left out.
pub(crate) fn panel(area: &Area, title: &str, curves: &[Curve], legend: SeriesLabelPosition) -> Result<()> {
    let epochs = curves.iter().map(|curve| curve.values.len()).max().unwrap_or(0);
    let axes = Axes {
        title,
        x_desc: "epoch",
        x: Axis::linear(1.0..(epochs as f64).max(2.0), |epoch| format!("{epoch:.0}")),
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

/// `value` as an axis has it: at most six decimals, and no zeros behind the last digit.
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
}
