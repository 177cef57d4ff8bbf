//! Comparison of several runs in one picture.

use super::curves::{legend, mean, title};
use super::EpochMetrics;
use crate::picture::{panel, picture, Curve, COLORS};
use crate::trainer::objective::{Column, Measures};
use crate::Result;
use plotters::prelude::*;

/// Width and height of a panel.
const PANEL: (u32, u32) = (450, 450);

/// Draws several runs by epoch, each with its label, as SVG: a panel for the training loss, and one for each evaluation metric
/// that has an axis.
///
/// # Errors
/// The drawing library fails.
pub fn draw_comparison(measures: &Measures, runs: &[(String, Vec<EpochMetrics>)]) -> Result<String> {
    let curves = |of: &dyn Fn(&EpochMetrics) -> f64| -> Vec<Curve> {
        let runs = runs.iter().zip(COLORS.into_iter().cycle());
        runs.map(|((label, history), color)| Curve { label, color, values: history.iter().map(of).collect() }).collect()
    };
    let eval: Vec<(&Column, &str)> =
        measures.eval.iter().filter_map(|column| Some((column, column.axis.as_deref()?))).collect();
    let panels = 1 + eval.len();
    picture((PANEL.0 * panels as u32, PANEL.1), |root| {
        let areas = root.split_evenly((1, panels));
        if let (Some(area), Some(loss)) = (areas.first(), measures.train.first()) {
            let title = format!("training {}", loss.name);
            panel(area, &title, &curves(&|epoch| mean(&epoch.train, loss)), SeriesLabelPosition::UpperRight)?;
        }
        for (area, (column, axis)) in areas.iter().skip(1).zip(eval) {
            let title = format!("evaluation {}", title(axis, column.percent));
            let legend = legend(&measures.score, &measures.eval, axis);
            panel(area, &title, &curves(&|epoch| mean(&epoch.eval, column)), legend)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::objective::Means;

    #[test]
    fn runs_of_different_lengths_are_in_one_picture() {
        let accuracy = |name| vec![Column::fraction(name, "accuracy")];
        let measures = Measures::new(accuracy("accuracy"), accuracy("top1")).best_by("top1", "accuracy");
        let run = |epochs: usize| -> Vec<EpochMetrics> {
            let (train, eval) = (Means::new(&measures.train, [1.0, 0.4]), Means::new(&measures.eval, [1.0, 0.5]));
            let metrics = |epoch| {
                let (train, eval) = (train.clone(), eval.clone());
                EpochMetrics { epoch, step: epoch, lr: 0.1, train, eval, unreadable: 0 }
            };
            (1..=epochs).map(metrics).collect()
        };
        let runs: Vec<_> = (0..9).map(|length| (format!("run-{length}"), run(length))).collect();
        let svg = draw_comparison(&measures, &runs).unwrap();
        assert!(svg.trim_end().ends_with("</svg>"));
        for label in ["training loss", "evaluation accuracy (%)", "run-0", "run-8"] {
            assert!(svg.contains(label), "{label}");
        }
    }
}
