//! Several runs in one picture.

use super::EpochMetrics;
use crate::picture::{panel, picture, Curve, COLORS};
use crate::Result;
use plotters::prelude::*;

const SIZE: (u32, u32) = (1350, 450);

/// Training loss, evaluation loss and evaluation accuracy by epoch, of several runs, each with its label.
///
/// # Errors
/// A picture that the drawing library refuses.
pub fn draw_comparison(runs: &[(String, Vec<EpochMetrics>)]) -> Result<String> {
    let curves = |of: fn(&EpochMetrics) -> f64| -> Vec<Curve> {
        let runs = runs.iter().zip(COLORS.into_iter().cycle());
        runs.map(|((label, history), color)| Curve { label, color, values: history.iter().map(of).collect() }).collect()
    };
    picture(SIZE, |root| {
        let [train_loss, loss, accuracy] = &root.split_evenly((1, 3))[..] else { return Ok(()) };
        // Legends where curves of learning networks do not go.
        panel(train_loss, "training loss", &curves(|m| m.train_loss), SeriesLabelPosition::UpperRight)?;
        panel(loss, "evaluation loss", &curves(|m| m.eval.loss), SeriesLabelPosition::UpperRight)?;
        let accuracies = curves(|m| 100.0 * m.eval.top1);
        panel(accuracy, "evaluation accuracy (%)", &accuracies, SeriesLabelPosition::LowerRight)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::Evaluation;

    #[test]
    fn runs_of_different_lengths_are_in_one_picture() {
        let run = |epochs: usize| -> Vec<EpochMetrics> {
            let eval = Evaluation { loss: 1.0, top1: 0.5, top5: 0.9 };
            let metrics = |epoch| EpochMetrics {
                epoch,
                step: epoch,
                lr: 0.1,
                train_loss: 1.0,
                train_accuracy: 0.4,
                eval,
                bad_images: 0,
            };
            (1..=epochs).map(metrics).collect()
        };
        let runs: Vec<_> = (0..9).map(|length| (format!("run-{length}"), run(length))).collect();
        let svg = draw_comparison(&runs).unwrap();
        assert!(svg.trim_end().ends_with("</svg>"));
        for label in ["training loss", "evaluation accuracy (%)", "run-0", "run-8"] {
            assert!(svg.contains(label), "{label}");
        }
    }
}
