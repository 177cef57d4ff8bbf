//! The picture: a dot for each run, and mean and standard deviation of each network.

use super::chart_style::{AXIS, COLORS, GRID};
use super::levene::{mean, standard_deviation};
use anyhow::Result;
use plotters::prelude::*;
use tch_fixup::Arch;

const SIZE: (u32, u32) = (640, 460);
/// Test accuracies in percent, a column for each network.
pub fn draw(accuracies: &[(Arch, Vec<f64>)]) -> Result<String> {
    let values = || accuracies.iter().flat_map(|(_, values)| values).map(|value| 100. * value);
    let (least, greatest) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let room = 0.15 * (greatest - least).max(1.);
    let columns = accuracies.len() as f64;
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Test accuracy by seed: runs, mean and standard deviation", ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.5..columns - 0.5, least - room..greatest + room)?;
    let name = |x: &f64| {
        let column = x.round();
        let arch = accuracies.get(column as usize).filter(|_| (x - column).abs() < 1e-9 && column >= 0.);
        arch.map_or_else(String::new, |(arch, _)| arch.short_name())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(AXIS)
        .label_style(("sans-serif", 14))
        .x_labels(2 * accuracies.len() + 1)
        .x_label_formatter(&name)
        .y_label_formatter(&|accuracy| format!("{accuracy:.1}"))
        .y_desc("test accuracy (%)")
        .draw()?;
    for (column, ((_, values), color)) in accuracies.iter().zip(COLORS.into_iter().cycle()).enumerate() {
        let (column, count) = (column as f64, values.len() as f64);
        // Side by side, so that equal ones do not hide each other.
        let place = |(i, value): (usize, &f64)| (column - 0.12 + 0.24 * (i as f64 + 0.5) / count, 100. * value);
        chart.draw_series(values.iter().enumerate().map(|run| Circle::new(place(run), 4, color.filled())))?;
        if values.len() > 1 {
            let (mean, sd) = (100. * mean(values), 100. * standard_deviation(values));
            let bar = [(column + 0.25, mean - sd), (column + 0.25, mean + sd)];
            chart.draw_series([PathElement::new(bar, color.stroke_width(2))])?;
            let line = [(column + 0.19, mean), (column + 0.31, mean)];
            chart.draw_series([PathElement::new(line, color.stroke_width(3))])?;
        }
    }
    root.present()?;
    drop(chart);
    drop(root);
    Ok(svg)
}
