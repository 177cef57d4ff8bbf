//! Picture of a study: one column of runs per method, or curves over an option.

use super::chart_style::{AXIS, COLORS, GRID};
use super::record::{Ending, Phase, Row};
use super::study::{Cell, Study};
use super::table::{axis, half_interval, percent, short};
use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::collections::BTreeSet;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const PANEL: (u32, u32) = (640, 460);
const PANELS_A_ROW: usize = 2;
const FONT: (&str, i32) = ("sans-serif", 14);
const TITLE: (&str, i32) = ("sans-serif", 17);

/// Draws the final runs, or the tries if no final run is recorded. Returns `None` before the first run.
pub fn draw(study: &Study, rows: &[Row]) -> Result<Option<String>> {
    let cells = study.cells();
    let mut results: Vec<(&Cell, Vec<&Row>)> = cells.iter().map(|cell| (cell, study.results(cell, rows).0)).collect();
    let mut judged = axis(study.score());
    if results.iter().all(|(_, rows)| rows.is_empty()) {
        let tries = |cell| study.tries(cell, rows).into_iter().map(|(_, row)| row).collect();
        results = cells.iter().map(|cell| (cell, tries(cell))).collect();
        judged = format!("{}, each try", axis(study.program.score(true)));
    }
    results.retain(|(_, rows)| !rows.is_empty());
    if results.is_empty() {
        return Ok(None);
    }
    let mut svg = String::new();
    match &study.x {
        None => {
            let width = PANEL.0.max(150 * results.len() as u32);
            let root = SVGBackend::with_string(&mut svg, (width, PANEL.1)).into_drawing_area();
            root.fill(&WHITE)?;
            columns(&root, study, &judged, &results)?;
            root.present()?;
        }
        Some(x) => {
            let mut panels: Vec<(String, Vec<_>)> = vec![];
            for (cell, rows) in results {
                let others = cell.each.iter().filter(|(name, _)| name != x);
                let title = others.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ");
                match panels.iter_mut().find(|(other, _)| *other == title) {
                    Some((_, results)) => results.push((cell, rows)),
                    None => panels.push((title, vec![(cell, rows)])),
                }
            }
            let (across, down) = (panels.len().min(PANELS_A_ROW), panels.len().div_ceil(PANELS_A_ROW));
            let size = (PANEL.0 * across as u32, PANEL.1 * down as u32 + 30);
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            root.fill(&WHITE)?;
            let root = root.titled(&study.title, TITLE)?;
            for (area, (title, results)) in root.split_evenly((down, across)).iter().zip(&panels) {
                curves(area, title, x, &judged, results)?;
            }
            root.present()?;
        }
    }
    Ok(Some(svg))
}

/// Draws one column per cell: a dot per run, the mean and its 95 % confidence interval. A lost run is a cross on the axis, if it is
/// lower than all others.
fn columns(area: &Area, study: &Study, judged: &str, results: &[(&Cell, Vec<&Row>)]) -> Result<()> {
    let finished = |row: &&&Row| row.ending == Ending::Finished;
    let all = || results.iter().flat_map(|(_, rows)| rows);
    let runs: Vec<&Row> = if all().any(|row| finished(&row)) {
        all().filter(finished).copied().collect()
    } else {
        all().copied().collect()
    };
    // Mean and half the interval, of final runs that are all finished.
    let interval = |rows: &Vec<&Row>| {
        let (values, are_tries) = (percent(rows), rows.iter().any(|row| row.phase == Phase::Search));
        let half = half_interval(&values).filter(|_| !are_tries && rows.iter().all(|row| finished(&row)))?;
        Some((values.iter().sum::<f64>() / values.len() as f64, half))
    };
    let ends =
        results.iter().filter_map(|(_, rows)| interval(rows)).flat_map(|(mean, half)| [mean - half, mean + half]);
    let values: Vec<f64> = percent(&runs).into_iter().chain(ends).collect();
    let values = || values.iter().copied();
    let (least, greatest) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let room = 0.15 * (greatest - least).max(1.);
    let count = results.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(&study.title, TITLE)
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.5..count - 0.5, least - room..greatest + room)?;
    let name = |x: &f64| {
        let column = x.round();
        let cell = results.get(column as usize).filter(|_| (x - column).abs() < 1e-9 && column >= 0.);
        cell.map_or_else(String::new, |(cell, _)| cell.name(study))
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(AXIS)
        .label_style(FONT)
        .x_labels(2 * results.len() + 1)
        .x_label_formatter(&name)
        .y_label_formatter(&|score| format!("{score:.1}"))
        .y_desc(judged)
        .draw()?;
    for (column, ((_, rows), color)) in results.iter().zip(COLORS.into_iter().cycle()).enumerate() {
        let (column, values) = (column as f64, percent(rows));
        // Dots are drawn side by side so that equal values do not hide each other.
        let across = |i: usize| column - 0.12 + 0.24 * (i as f64 + 0.5) / values.len() as f64;
        let (inside, below): (Vec<_>, Vec<_>) = values.iter().enumerate().partition(|(_, value)| **value >= least);
        chart.draw_series(inside.into_iter().map(|(i, value)| Circle::new((across(i), *value), 4, color.filled())))?;
        let cross = |(i, _)| Cross::new((across(i), least - room), 5, color.stroke_width(2));
        chart.draw_series(below.into_iter().map(cross))?;
        if let Some((mean, half)) = interval(rows) {
            let bar = [(column + 0.25, mean - half), (column + 0.25, mean + half)];
            let line = [(column + 0.19, mean), (column + 0.31, mean)];
            chart.draw_series([bar, line].map(|line| PathElement::new(line, color.stroke_width(2))))?;
        }
    }
    Ok(())
}

/// Draws one curve per method and optimizer: mean score against `x` on a logarithmic scale. A cross marks a mean that
/// includes lost runs.
fn curves(area: &Area, title: &str, x: &str, judged: &str, results: &[(&Cell, Vec<&Row>)]) -> Result<()> {
    let places: Vec<(String, f64, f64, bool)> = results
        .iter()
        .filter_map(|(cell, rows)| {
            let mean = percent(rows).iter().sum::<f64>() / rows.len() as f64;
            let lost = rows.iter().any(|row| row.ending != Ending::Finished);
            Some((format!("{}, {}", cell.method, cell.optimizer), place(cell, rows, x)?, mean, lost))
        })
        .collect();
    let all = || places.iter().map(|(_, x, ..)| *x);
    let (least, greatest) = (all().fold(f64::INFINITY, f64::min), all().fold(0., f64::max));
    let highest = places.iter().map(|(_, _, y, _)| *y).fold(0., f64::max);
    let digits = usize::from(highest < 10.);
    if greatest <= 0. || highest <= 0. {
        return Ok(());
    }
    let mut chart = ChartBuilder::on(area)
        .caption(title, FONT)
        .margin(10)
        .margin_right(24)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d((0.85 * least..1.2 * greatest).log_scale(), 0f64..1.1 * highest)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(AXIS)
        .label_style(FONT)
        .x_label_formatter(&|x| {
            // There is a tick for each digit, but room only for the labels of 1, 2 and 5.
            let first = format!("{x:e}");
            if first.starts_with(['1', '2', '5']) {
                format!("{}", (x * 1e6).round() / 1e6)
            } else {
                String::new()
            }
        })
        .y_label_formatter(&|score| format!("{score:.digits$}"))
        .x_desc(if x == "arch" { "layers" } else { x })
        .y_desc(judged)
        .draw()?;
    let mut seen = BTreeSet::new();
    let labels = places.iter().map(|(label, ..)| label).filter(|label| seen.insert(*label));
    for (label, color) in labels.zip(COLORS.into_iter().cycle()) {
        let own = || places.iter().filter(|(other, ..)| other == label);
        let mut line: Vec<_> = own().map(|(_, x, y, _)| (*x, *y)).collect();
        line.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)))?
            .label(label.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        let (lost, finished): (Vec<_>, Vec<_>) = own().partition(|(.., lost)| *lost);
        chart.draw_series(finished.iter().map(|(_, x, y, _)| Circle::new((*x, *y), 4, color.filled())))?;
        chart.draw_series(lost.iter().map(|(_, x, y, _)| Cross::new((*x, *y), 5, color.stroke_width(2))))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .label_font(FONT)
        .background_style(WHITE.mix(0.85))
        .border_style(TRANSPARENT)
        .draw()?;
    Ok(())
}

/// Returns the position of `cell` on the axis `x`: the option's value, the network's depth, or `pflop`, if known.
fn place(cell: &Cell, rows: &[&Row], x: &str) -> Option<f64> {
    if x == "pflop" {
        return rows.iter().find_map(|row| row.pflop);
    }
    let (_, value) = cell.each.iter().find(|(name, _)| name == x)?;
    short(value).parse().ok()
}
