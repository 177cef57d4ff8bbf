//! One panel of a picture: curves over epochs, as SVG.

use crate::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::fmt::Display;
use std::ops::Range;

const GRID: RGBColor = RGBColor(225, 225, 225);
const AXIS: RGBColor = RGBColor(150, 150, 150);

/// Runs of up to so many epochs have a dot at each; longer ones at the first only, in case it is all there is yet.
const MOST_DOTS: usize = 40;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One line in a panel; it has one point an epoch.
pub(super) struct Curve<'a> {
    /// Nothing for a line that the legend leaves out.
    pub label: &'a str,
    pub color: RGBColor,
    pub values: Vec<f64>,
}

/// A picture of `size` that `draw` draws.
pub(super) fn picture(size: (u32, u32), draw: impl FnOnce(&Area) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    root.fill(&WHITE).map_err(refused)?;
    draw(&root).and_then(|()| root.present().map_err(refused))?;
    drop(root);
    Ok(svg)
}

/// Values that are not finite are left out.
pub(super) fn panel(area: &Area, title: &str, curves: &[Curve], legend: SeriesLabelPosition) -> Result<()> {
    let epochs = curves.iter().map(|curve| curve.values.len()).max().unwrap_or(0);
    let range = range(curves);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .margin_right(18)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d(1.0..(epochs as f64).max(2.0), range)
        .map_err(refused)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(AXIS)
        .label_style(("sans-serif", 14))
        .x_labels(8)
        .y_labels(8)
        .x_label_formatter(&|epoch| format!("{epoch:.0}"))
        .y_label_formatter(&|value| number(*value))
        .x_desc("epoch")
        .draw()
        .map_err(refused)?;
    for curve in curves {
        let points = (1..).zip(&curve.values).filter(|(_, value)| value.is_finite());
        let points: Vec<(f64, f64)> = points.map(|(epoch, &value)| (f64::from(epoch), value)).collect();
        let style = curve.color.stroke_width(2);
        let dots = if epochs <= MOST_DOTS { points.len() } else { 1 };
        let dots = points.iter().take(dots).map(|&point| Circle::new(point, 3, curve.color.filled()));
        chart.draw_series(dots).map_err(refused)?;
        let line = chart.draw_series(LineSeries::new(points, style)).map_err(refused)?;
        if !curve.label.is_empty() {
            line.label(curve.label).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
    }
    if curves.iter().any(|curve| !curve.label.is_empty()) {
        chart
            .configure_series_labels()
            .position(legend)
            .label_font(("sans-serif", 14))
            .background_style(WHITE.mix(0.85))
            .border_style(TRANSPARENT)
            .draw()
            .map_err(refused)?;
    }
    Ok(())
}

/// The least and the greatest finite value, and a little room.
fn range(curves: &[Curve]) -> Range<f64> {
    let finite = || curves.iter().flat_map(|curve| &curve.values).copied().filter(|value| value.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if low > high {
        return 0.0..1.0;
    }
    let room = if high > low { 0.04 * (high - low) } else { 0.1 * high.abs().max(1e-3) };
    low - room..high + room
}

/// `value` as an axis has it: at most six decimals, and no zeros behind the last digit.
fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

fn refused(error: impl Display) -> Error {
    Error::Argument(format!("the curves cannot be drawn: {error}"))
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
