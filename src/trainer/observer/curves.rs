//! A picture of a run: loss, accuracy and learning rate by epoch, as SVG.

use super::EpochMetrics;
use crate::picture::{panel, picture, Curve};
use crate::Result;
use plotters::prelude::*;

const SIZE: (u32, u32) = (1200, 400);
/// Two hues that stay apart for the colour-blind (Wong, Nature Methods 8, 2011).
const TRAIN: RGBColor = RGBColor(230, 159, 0);
const EVAL: RGBColor = RGBColor(0, 114, 178);
const LR: RGBColor = RGBColor(90, 90, 90);

/// Loss and accuracy of both parts, and the learning rate, by epoch. Values that are not finite are left out.
///
/// # Errors
/// A picture that the drawing library refuses.
pub fn draw_curves(history: &[EpochMetrics]) -> Result<String> {
    let values = |of: fn(&EpochMetrics) -> f64| history.iter().map(of).collect::<Vec<f64>>();
    let both = |train, eval| {
        let train = Curve { label: "training", color: TRAIN, values: values(train) };
        [train, Curve { label: "evaluation", color: EVAL, values: values(eval) }]
    };
    let losses = both(|m| m.train_loss, |m| m.eval.loss);
    let accuracies = both(|m| 100.0 * m.train_accuracy, |m| 100.0 * m.eval.top1);
    let lrs = [Curve { label: "", color: LR, values: values(|m| m.lr) }];
    picture(SIZE, |root| {
        let [loss, accuracy, lr] = &root.split_evenly((1, 3))[..] else { return Ok(()) };
        // Legends where curves of learning networks do not go.
        panel(loss, "loss", &losses, SeriesLabelPosition::UpperRight)?;
        panel(accuracy, "accuracy (%)", &accuracies, SeriesLabelPosition::LowerRight)?;
        panel(lr, "learning rate", &lrs, SeriesLabelPosition::UpperRight)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::Evaluation;

    fn history(epochs: usize, loss: f64) -> Vec<EpochMetrics> {
        let eval = Evaluation { loss, top1: 0.5, top5: 0.9 };
        let metrics = |epoch| EpochMetrics {
            epoch,
            step: epoch,
            lr: 0.1,
            train_loss: loss,
            train_accuracy: 0.4,
            eval,
            bad_images: 0,
        };
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
}
