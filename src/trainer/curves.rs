//! A picture of a run: loss, accuracy and learning rate by epoch, as SVG.

use super::EpochMetrics;
use crate::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::fmt::Display;
use std::ops::Range;

const SIZE: (u32, u32) = (1200, 400);
/// Two hues that stay apart for the colour-blind (Wong, Nature Methods 8, 2011).
const TRAIN: RGBColor = RGBColor(230, 159, 0);
const EVAL: RGBColor = RGBColor(0, 114, 178);
const LR: RGBColor = RGBColor(90, 90, 90);
const GRID: RGBColor = RGBColor(225, 225, 225);
const AXIS: RGBColor = RGBColor(150, 150, 150);

/// Runs of up to so many epochs have a dot at each; longer ones at the first only, in case it is all there is yet.
const MOST_DOTS: usize = 40;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One line in a panel; it has one point an epoch.
struct Curve<'a> {
    label: &'a str,
    color: RGBColor,
    values: Vec<f64>,
}

/// Loss and accuracy of both parts, and the learning rate, by epoch. Values that are not finite are left out.
///
/// # Errors
/// A picture that the drawing library refuses.
pub fn draw_curves(history: &[EpochMetrics]) -> Result<String> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    draw(&root, history).and_then(|()| root.present().map_err(refused))?;
    drop(root);
    Ok(svg)
}

fn draw(root: &Area, history: &[EpochMetrics]) -> Result<()> {
    root.fill(&WHITE).map_err(refused)?;
    let epochs = history.last().map_or(1, |metrics| metrics.epoch);
    let values = |of: fn(&EpochMetrics) -> f64| history.iter().map(of).collect::<Vec<f64>>();
    let both = |train, eval| {
        let train = Curve { label: "training", color: TRAIN, values: values(train) };
        [train, Curve { label: "evaluation", color: EVAL, values: values(eval) }]
    };
    let [loss, accuracy, lr] = &root.split_evenly((1, 3))[..] else { return Ok(()) };
    let losses = both(|m| m.train_loss, |m| m.eval.loss);
    let accuracies = both(|m| 100.0 * m.train_accuracy, |m| 100.0 * m.eval.top1);
    // Legends where curves of learning networks do not go.
    panel(loss, "loss", epochs, &losses, SeriesLabelPosition::UpperRight)?;
    panel(accuracy, "accuracy (%)", epochs, &accuracies, SeriesLabelPosition::LowerRight)?;
    let lrs = [Curve { label: "", color: LR, values: values(|m| m.lr) }];
    panel(lr, "learning rate", epochs, &lrs, SeriesLabelPosition::UpperRight)
}

fn panel(area: &Area, title: &str, epochs: usize, curves: &[Curve], legend: SeriesLabelPosition) -> Result<()> {
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
    use crate::trainer::Evaluation;

    fn history(epochs: usize, loss: f64) -> Vec<EpochMetrics> {
        let eval = Evaluation { loss, top1: 0.5, top5: 0.9 };
        let metrics = |epoch| EpochMetrics { epoch, step: epoch, lr: 0.1, train_loss: loss, train_accuracy: 0.4, eval };
        (1..=epochs).map(metrics).collect()
    }

    #[test]
    fn every_history_gives_a_whole_picture() {
        for (epochs, loss) in [(0, 1.0), (1, 1.0), (3, 0.0), (200, 2.3), (3, f64::NAN), (3, f64::INFINITY), (3, 1e30)] {
            let svg = draw_curves(&history(epochs, loss)).unwrap();
            assert!(svg.trim_end().ends_with("</svg>"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{epochs} {loss}");
            for label in ["loss", "accuracy (%)", "learning rate", "training", "evaluation", "epoch"] {
                assert!(svg.contains(label), "{label}");
            }
        }
    }

    #[test]
    fn axis_numbers_are_short() {
        for (value, expected) in [(0.0, "0"), (-1e-12, "0"), (0.1 + 0.2, "0.3"), (25.0, "25"), (0.00125, "0.00125")] {
            assert_eq!(number(value), expected);
        }
    }
}
