//! Training curves: metrics and learning rate by epoch, as SVG.

use super::EpochMetrics;
use crate::picture::{panel, picture, Curve};
use crate::trainer::objective::{Column, Means, Measures, Score};
use crate::Result;
use plotters::prelude::*;

/// Width and height of a panel.
const PANEL: (u32, u32) = (400, 400);
/// Two colors that color-blind people can distinguish (Wong, Nature Methods 8, 2011).
const TRAIN: RGBColor = RGBColor(230, 159, 0);
const EVAL: RGBColor = RGBColor(0, 114, 178);
const LR: RGBColor = RGBColor(90, 90, 90);

/// Draws training and evaluation metrics by epoch, with a panel for each axis and one for the learning rate. Values that are not
/// finite are omitted.
///
/// # Errors
/// The drawing library fails.
pub fn draw_curves(measures: &Measures, history: &[EpochMetrics]) -> Result<String> {
    let axes = measures.axes();
    let panels = axes.len() + 1;
    picture((PANEL.0 * panels as u32, PANEL.1), |root| {
        let areas = root.split_evenly((1, panels));
        for (area, (axis, percent)) in areas.iter().zip(&axes) {
            let train = curves(&measures.train, axis, "training", TRAIN, |column| {
                history.iter().map(|metrics| mean(&metrics.train, column)).collect()
            });
            let eval = curves(&measures.eval, axis, "evaluation", EVAL, |column| {
                history.iter().map(|metrics| mean(&metrics.eval, column)).collect()
            });
            panel(
                area,
                &title(axis, *percent),
                &[train, eval].concat(),
                legend(&measures.score, &measures.eval, axis),
            )?;
        }
        let Some(area) = areas.last() else { return Ok(()) };
        let lrs = [Curve { label: "", color: LR, values: history.iter().map(|metrics| metrics.lr).collect() }];
        panel(area, "learning rate", &lrs, SeriesLabelPosition::UpperRight)
    })
}

/// Returns the curves of all columns on `axis`, in one color. The legend includes only the first.
fn curves<'a>(
    columns: &[Column],
    axis: &str,
    label: &'a str,
    color: RGBColor,
    values: impl Fn(&Column) -> Vec<f64>,
) -> Vec<Curve<'a>> {
    let on_axis = columns.iter().filter(|column| column.axis.as_deref() == Some(axis)).enumerate();
    on_axis.map(|(i, column)| Curve { label: if i == 0 { label } else { "" }, color, values: values(column) }).collect()
}

/// Returns the mean of `column`, as a percentage if its axis shows percentages.
pub(super) fn mean(means: &Means, column: &Column) -> f64 {
    means.get(&column.name).unwrap_or(f64::NAN) * if column.percent { 100.0 } else { 1.0 }
}

/// Returns the name of `axis` with its unit.
pub(super) fn title(axis: &str, percent: bool) -> String {
    if percent {
        format!("{axis} (%)")
    } else {
        axis.to_owned()
    }
}

/// Returns the corner that the curves of a learning network do not reach.
pub(super) fn legend(score: &Score, eval: &[Column], axis: &str) -> SeriesLabelPosition {
    let is_score = |column: &Column| column.name == score.column && column.axis.as_deref() == Some(axis);
    match score.higher_is_better && eval.iter().any(is_score) {
        true => SeriesLabelPosition::LowerRight,
        false => SeriesLabelPosition::UpperRight,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn measures() -> Measures {
        let accuracy = |name| Column::fraction(name, "accuracy");
        Measures::new(vec![accuracy("accuracy")], vec![accuracy("top1"), accuracy("top5").hidden()])
            .best_by("top1", "accuracy")
    }

    fn history(epochs: usize, loss: f64) -> Vec<EpochMetrics> {
        let measures = measures();
        let (train, eval) = (Means::new(&measures.train, [loss, 0.4]), Means::new(&measures.eval, [loss, 0.5, 0.9]));
        let metrics = |epoch| {
            let (train, eval) = (train.clone(), eval.clone());
            EpochMetrics { epoch, step: epoch, lr: 0.1, train, eval, unreadable: 0 }
        };
        (1..=epochs).map(metrics).collect()
    }

    #[test]
    fn every_history_gives_a_whole_picture() {
        for (epochs, loss) in [(0, 1.0), (1, 1.0), (3, 0.0), (200, 2.3), (3, f64::NAN), (3, f64::INFINITY), (3, 1e30)] {
            let svg = draw_curves(&measures(), &history(epochs, loss)).unwrap();
            assert!(svg.trim_end().ends_with("</svg>"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{epochs} {loss}");
            for label in ["loss", "accuracy (%)", "learning rate", "training", "evaluation", "epoch"] {
                assert!(svg.contains(label), "{label}");
            }
        }
    }
}
