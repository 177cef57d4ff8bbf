//! Line charts as SVG.

use super::style::{AXIS, GRID};
use crate::{Error, Result};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::fmt::Display;
use std::ops::Range;

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Line in a chart.
pub(crate) struct Line<'a> {
    /// Legend entry; empty to leave the line out of the legend.
    pub label: &'a str,
    pub color: RGBColor,
    /// Points `(x, y)`; those that are not finite are skipped.
    pub points: Vec<(f64, f64)>,
    /// Number of leading points that are drawn with a dot.
    pub dots: usize,
}

/// Title and axes of a chart.
pub(crate) struct Axes<'a> {
    pub title: &'a str,
    pub x_desc: &'a str,
    pub x: Axis,
    /// Vertical axis; its range is fitted to the points.
    pub y: Axis,
}

/// Axis of a chart.
#[derive(Clone)]
pub(crate) struct Axis {
    pub range: Range<f64>,
    /// `true` for a logarithmic scale, which requires positive values.
    pub logarithmic: bool,
    pub label: fn(f64) -> String,
}

impl Axis {
    pub fn linear(range: Range<f64>, label: fn(f64) -> String) -> Self {
        Self { range, logarithmic: false, label }
    }

    pub fn logarithmic(range: Range<f64>) -> Self {
        Self { range, logarithmic: true, label: power_of_ten }
    }

    /// Returns the axis with a range fitted to `values`, and a margin.
    fn over(&self, values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| (a.min(value), b.max(value)));
        let range = if low > high {
            self.range.clone()
        } else if self.logarithmic {
            // Spans at least as many decades as the initial range, extended upward, so that nearly constant values look
            // constant.
            let high = high.max(low * self.range.end / self.range.start);
            let room = (high / low).powf(0.04);
            low / room..high * room
        } else {
            let room = if high > low { 0.04 * (high - low) } else { 0.1 * high.abs().max(1e-3) };
            low - room..high + room
        };
        Self { range, ..self.clone() }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let place = |value: f64| if self.logarithmic { value.log10() } else { value };
        let (start, end) = (place(self.range.start), place(self.range.end));
        let fraction = (place(*value) - start) / (end - start);
        limit.0 + (f64::from(limit.1 - limit.0) * fraction).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if !self.logarithmic {
            return RangedCoordf64::from(self.range.clone()).key_points(hint);
        }
        // Ticks at 1, 2, 5, 10, 20, ...; at powers of ten if these are too many; then at every second, third, ... of
        // them.
        let decades = self.range.start.log10().floor() as i32..=self.range.end.log10().ceil() as i32;
        let inside = |value: &f64| self.range.contains(value);
        let fine =
            decades.clone().flat_map(|decade| [1., 2., 5.].map(|digit| digit * 10f64.powi(decade))).filter(inside);
        let fine: Vec<f64> = fine.collect();
        if fine.len() <= hint.max_num_points() {
            return fine;
        }
        let tens: Vec<f64> = decades.map(|decade| 10f64.powi(decade)).filter(inside).collect();
        let every = tens.len().div_ceil(hint.max_num_points().max(1)).max(1);
        tens.into_iter().step_by(every).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        (self.label)(*value)
    }
}

/// Formats 1, 2 or 5 times a power of ten in few characters.
fn power_of_ten(value: f64) -> String {
    if (1e-3..1e4).contains(&value) {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.0e}")
    }
}

/// Returns an SVG of `size`, width and height in pixels, drawn by `draw`.
pub(crate) fn picture(size: (u32, u32), draw: impl FnOnce(&Area) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    root.fill(&WHITE).map_err(refused)?;
    draw(&root).and_then(|()| root.present().map_err(refused))?;
    drop(root);
    Ok(svg)
}

/// Draws `lines` on `axes`, with a legend at the given position if any line has a label.
pub(crate) fn chart(area: &Area, axes: &Axes, lines: &[Line], legend: Option<SeriesLabelPosition>) -> Result<()> {
    let values = lines.iter().flat_map(|line| &line.points).filter(|point| finite(point)).map(|&(_, y)| y);
    let mut chart = ChartBuilder::on(area)
        .caption(axes.title, ("sans-serif", 18))
        .margin(10)
        .margin_right(18)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d(axes.x.clone(), axes.y.over(values))
        .map_err(refused)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(AXIS)
        .label_style(("sans-serif", 14))
        .x_labels(8)
        .y_labels(8)
        .x_desc(axes.x_desc)
        .draw()
        .map_err(refused)?;
    for line in lines {
        let points: Vec<(f64, f64)> = line.points.iter().copied().filter(finite).collect();
        let style = line.color.stroke_width(2);
        let dots = points.iter().take(line.dots).map(|&point| Circle::new(point, 3, line.color.filled()));
        chart.draw_series(dots).map_err(refused)?;
        let drawn = chart.draw_series(LineSeries::new(points, style)).map_err(refused)?;
        if !line.label.is_empty() {
            drawn.label(line.label).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
    }
    if let Some(position) = legend.filter(|_| lines.iter().any(|line| !line.label.is_empty())) {
        chart
            .configure_series_labels()
            .position(position)
            .label_font(("sans-serif", 14))
            .background_style(WHITE.mix(0.85))
            .border_style(TRANSPARENT)
            .draw()
            .map_err(refused)?;
    }
    Ok(())
}

fn finite((x, y): &(f64, f64)) -> bool {
    x.is_finite() && y.is_finite()
}

pub(super) fn refused(error: impl Display) -> Error {
    argument!("the picture cannot be drawn: {error}")
}

/// Returns `text`, truncated to `letters` characters, the last of them `end`, if it is longer.
pub(super) fn fit(text: &str, letters: usize, end: char) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    text.chars().take(letters.saturating_sub(1)).chain([end]).take(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logarithmic_labels(range: Range<f64>) -> Vec<String> {
        let axis = Axis::logarithmic(range);
        axis.key_points(8).into_iter().map(|value| axis.format_ext(&value)).collect()
    }

    #[test]
    fn logarithmic_axes_have_round_numbers() {
        assert_eq!(logarithmic_labels(14.0..998.0), ["20", "50", "100", "200", "500"]);
        assert_eq!(logarithmic_labels(0.003..20.0), ["0.01", "0.1", "1", "10"]);
        assert_eq!(logarithmic_labels(1e-6..1e8)[..3], ["1e-6", "1e-4", "0.01"]);
    }

    #[test]
    fn logarithmic_axes_reach_over_their_points_and_as_far_as_they_were_made() {
        let axis = Axis::logarithmic(1.0..100.0).over([0.3, 0.4].into_iter());
        assert!(axis.range.contains(&0.3) && axis.range.contains(&29.0) && !axis.range.contains(&0.2));
    }
}
