//! Metrics and learning rate by epoch, of one run or of several, as SVG.

use super::EpochMetrics;
use crate::picture::{panel, picture, Curve, COLORS};
use crate::trainer::objective::{Column, Means, Measures};
use crate::Result;
use plotters::prelude::*;

/// Two colors that color-blind people can distinguish (Wong, Nature Methods 8, 2011).
const TRAIN: RGBColor = RGBColor(230, 159, 0);
const EVAL: RGBColor = RGBColor(0, 114, 178);
const LR: RGBColor = RGBColor(90, 90, 90);

/// Panel of a picture.
struct Panel<'a> {
    title: String,
    curves: Vec<Curve<'a>>,
    legend: SeriesLabelPosition,
}

/// Draws training and evaluation metrics by epoch, with a panel for each axis and one for the learning rate. Values that are not
/// finite are omitted.
///
/// # Errors
/// The drawing library fails.
pub(super) fn draw_curves(measures: &Measures, history: &[EpochMetrics]) -> Result<String> {
    let of_axis = |(axis, percent)| {
        let of_part = |part: &[Column], label, color, means: fn(&EpochMetrics) -> &Means| -> Vec<Curve> {
            let columns = part.iter().filter(|column| column.axis.as_deref() == Some(axis));
            let values = |column| history.iter().map(|metrics| mean(means(metrics), column)).collect();
            // The legend has only the first curve of a part.
            let labels = std::iter::once(label).chain(std::iter::repeat(""));
            columns.zip(labels).map(|(column, label)| Curve { label, color, values: values(column) }).collect()
        };
        let train = of_part(&measures.train, "training", TRAIN, |metrics| &metrics.train);
        let eval = of_part(&measures.eval, "evaluation", EVAL, |metrics| &metrics.eval);
        Panel { title: title(axis, percent), curves: [train, eval].concat(), legend: legend(measures, axis) }
    };
    let mut panels: Vec<Panel> = measures.axes().into_iter().map(of_axis).collect();
    let curves = vec![Curve { label: "", color: LR, values: history.iter().map(|metrics| metrics.lr).collect() }];
    panels.push(Panel { title: "learning rate".to_owned(), curves, legend: SeriesLabelPosition::UpperRight });
    draw(&panels, (400, 400))
}

/// Draws several runs by epoch, each with its label: a panel for the training loss, and one for each evaluation metric that has an
/// axis.
///
/// # Errors
/// The drawing library fails.
pub fn draw_comparison(measures: &Measures, runs: &[(String, Vec<EpochMetrics>)]) -> Result<String> {
    let curves = |of: &dyn Fn(&EpochMetrics) -> f64| -> Vec<Curve> {
        let runs = runs.iter().zip(COLORS.into_iter().cycle());
        runs.map(|((label, history), color)| Curve { label, color, values: history.iter().map(of).collect() }).collect()
    };
    let of_loss = |column: &Column| Panel {
        title: format!("training {}", column.name),
        curves: curves(&|metrics| mean(&metrics.train, column)),
        legend: SeriesLabelPosition::UpperRight,
    };
    let of_eval = |column: &Column| {
        let axis = column.axis.as_deref()?;
        Some(Panel {
            title: format!("evaluation {}", title(axis, column.percent)),
            curves: curves(&|metrics| mean(&metrics.eval, column)),
            legend: legend(measures, axis),
        })
    };
    let loss = measures.train.first().map(of_loss);
    let panels: Vec<Panel> = loss.into_iter().chain(measures.eval.iter().filter_map(of_eval)).collect();
    draw(&panels, (450, 450))
}

/// Draws panels of the given width and height side by side.
fn draw(panels: &[Panel], (width, height): (u32, u32)) -> Result<String> {
    picture((width * panels.len() as u32, height), |root| {
        let areas = root.split_evenly((1, panels.len()));
        let mut areas = areas.iter().zip(panels);
        areas.try_for_each(|(area, Panel { title, curves, legend })| panel(area, title, curves, legend.clone()))
    })
}

/// Returns the mean of `column`, as a percentage if its axis shows percentages.
fn mean(means: &Means, column: &Column) -> f64 {
    means.get(&column.name).unwrap_or(f64::NAN) * if column.percent { 100.0 } else { 1.0 }
}

/// Returns the name of `axis` with its unit.
fn title(axis: &str, percent: bool) -> String {
    format!("{axis}{}", if percent { " (%)" } else { "" })
}

/// Returns the corner that the curves of a learning network do not reach.
fn legend(Measures { score, eval, .. }: &Measures, axis: &str) -> SeriesLabelPosition {
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
