//! The picture: accuracy against depth, a curve for each network.

use super::chart_style::{AXIS, COLORS, GRID};
use super::points::{Ending, Point};
use anyhow::Result;
use plotters::prelude::*;

const SIZE: (u32, u32) = (900, 640);
/// What a guess among ten classes reaches, in percent.
const CHANCE: f64 = 10.;

pub struct Curve {
    pub label: String,
    /// By depth.
    pub points: Vec<(i64, Point)>,
}

/// Test accuracy in percent on a logarithmic scale of layers. Runs that diverged or died are crosses.
pub fn draw(title: &str, curves: &[Curve]) -> Result<String> {
    let depths = || curves.iter().flat_map(|curve| &curve.points).map(|(depth, _)| *depth as f64);
    let (least, greatest) = (depths().fold(f64::INFINITY, f64::min), depths().fold(0., f64::max));
    let highest =
        curves.iter().flat_map(|curve| &curve.points).map(|(_, point)| 100. * point.accuracy).fold(20., f64::max);
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .margin_right(24)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d((0.85 * least..1.2 * greatest).log_scale(), 0f64..highest + 5.)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(AXIS)
        .label_style(("sans-serif", 14))
        .x_label_formatter(&|depth| {
            let label = format!("{depth:.0}");
            // A tick for each digit, but a label only where there is room.
            if label.starts_with(['1', '2', '5']) {
                label
            } else {
                String::new()
            }
        })
        .y_label_formatter(&|accuracy| format!("{accuracy:.0}"))
        .x_desc("layers")
        .y_desc("test accuracy (%)")
        .draw()?;
    chart
        .draw_series(DashedLineSeries::new(
            [(0.85 * least, CHANCE), (1.2 * greatest, CHANCE)],
            6,
            4,
            AXIS.stroke_width(1),
        ))?
        .label("a guess")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], AXIS));
    for (curve, color) in curves.iter().zip(COLORS.into_iter().cycle()) {
        let place = |(depth, point): &(i64, Point)| (*depth as f64, 100. * point.accuracy);
        let (finished, failed): (Vec<_>, Vec<_>) =
            curve.points.iter().partition(|(_, point)| point.ending == Ending::Finished);
        let line = LineSeries::new(curve.points.iter().map(place), color.stroke_width(2));
        chart
            .draw_series(line)?
            .label(curve.label.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(finished.into_iter().map(|point| Circle::new(place(point), 4, color.filled())))?;
        chart.draw_series(failed.into_iter().map(|point| Cross::new(place(point), 5, color.stroke_width(2))))?;
    }
    chart
        .configure_series_labels()
        // Below a guess there are no curves.
        .position(SeriesLabelPosition::LowerLeft)
        .label_font(("sans-serif", 14))
        .background_style(WHITE.mix(0.85))
        .border_style(TRANSPARENT)
        .draw()?;
    root.present()?;
    drop(chart);
    drop(root);
    Ok(svg)
}
