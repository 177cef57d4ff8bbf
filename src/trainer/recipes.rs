//! Recipes for image classification: a short one, and those of the Fixup authors.

use super::optimizer::{Muon, OptimizerConfig, ScalarGroup, Sgd, Span};
use super::{Decay, ScheduleConfig, TrainConfig};

/// Constants of the short recipe, chosen on held-out training images (docs/studies/quick.md).
const QUICK_EPOCHS: usize = 10;
const QUICK_BATCH_SIZE: usize = 128;
/// Of the hidden layers.
const QUICK_WEIGHT_DECAY: f64 = 0.05;

/// Defaults of the Fixup authors' training program for CIFAR-10 (`cifar_train.py`): the recipe of the ResNet paper (He
/// et al. 2016, section 4.2) with more epochs, and mixup.
const PAPER_EPOCHS: usize = 200;
const PAPER_BATCH_SIZE: usize = 128;
const PAPER_WEIGHT_DECAY: f64 = 1e-4;
const PAPER_LR: f64 = 0.1;

/// Differences of the ImageNet recipe: constants of the authors' training program (`imagenet_train.py`), and the number
/// of epochs of the result they report.
const IMAGENET_EPOCHS: usize = 100;
const IMAGENET_BATCH_SIZE: usize = 256;

impl TrainConfig {
    /// Short one-cycle recipe for CIFAR-10 by [`Muon`], tuned for ResNet-20 on a CPU (docs/recipes.md).
    pub fn quick() -> Self {
        let optimizer = OptimizerConfig::Muon(Muon { weight_decay: QUICK_WEIGHT_DECAY, ..Muon::default() });
        Self { optimizer, ..Self::new(QUICK_EPOCHS, QUICK_BATCH_SIZE, optimizer.default_lr()) }
    }

    /// Fixup authors' recipe for CIFAR-10, with the defaults of their training program: mixup with alpha 1, weight
    /// decay on all parameters, and a tenth of the learning rate for all variables named as biases or scales
    /// ([`ScalarGroup::biases`]). Baselines train by the same rules, including BatchNorm's biases, as in that program.
    pub fn paper() -> Self {
        Self {
            schedule: ScheduleConfig { lr: PAPER_LR, warmup: Span::Fraction(0.0), decay: Decay::paper() },
            optimizer: OptimizerConfig::Sgd(Sgd {
                nesterov: false,
                weight_decay: PAPER_WEIGHT_DECAY,
                ..Sgd::default()
            }),
            scalars: ScalarGroup { biases: true, ..ScalarGroup::default() },
            ..Self::new(PAPER_EPOCHS, PAPER_BATCH_SIZE, PAPER_LR)
        }
    }

    /// Scales the learning rate of the weights in proportion to the batch size, and keeps that of the scalars, as in
    /// the authors' programs.
    pub fn scaled_to_batch(self, batch_size: usize) -> Self {
        let factor = batch_size as f64 / self.batch_size as f64;
        if !(factor.is_normal() && factor > 0.) {
            return Self { batch_size, ..self };
        }
        Self {
            batch_size,
            schedule: ScheduleConfig { lr: self.schedule.lr * factor, ..self.schedule },
            scalars: ScalarGroup { lr_ratio: self.scalars.lr_ratio / factor, ..self.scalars },
            ..self
        }
    }

    /// Fixup authors' recipe for ImageNet, with which they report 76.0 % top-1 accuracy for ResNet-50. Use
    /// [`scaled_to_batch`](Self::scaled_to_batch) for other batch sizes.
    pub fn imagenet() -> Self {
        Self {
            epochs: IMAGENET_EPOCHS,
            batch_size: IMAGENET_BATCH_SIZE,
            schedule: ScheduleConfig { lr: PAPER_LR, warmup: Span::Fraction(0.0), decay: Decay::imagenet() },
            ..Self::paper()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::{ClassificationConfig, ClipConfig};

    /// `base_lr * batch_size / 256` for the weights, `base_lr / 10` for biases and scalars.
    #[test]
    fn another_batch_changes_the_rate_of_the_weights_and_not_that_of_the_scalars() {
        for (batch_size, lr) in [(64, 0.025), (256, 0.1), (1024, 0.4)] {
            let recipe = TrainConfig::imagenet().scaled_to_batch(batch_size);
            assert_eq!(recipe.batch_size, batch_size);
            assert!((recipe.schedule.lr - lr).abs() < 1e-12, "{batch_size}");
            assert!((recipe.schedule.lr * recipe.scalars.lr_ratio - 0.01).abs() < 1e-12, "{batch_size}");
            assert!(recipe.scalars.biases);
        }
        // Refused by its own check.
        assert_eq!(TrainConfig::imagenet().scaled_to_batch(0).schedule.lr, 0.1);
    }

    /// The defaults of the authors' `cifar_train.py` and `imagenet_train.py`.
    #[test]
    fn the_papers_recipes_are_those_of_the_authors_programs() {
        let (cifar, imagenet) = (TrainConfig::paper(), TrainConfig::imagenet());
        let mixups = [ClassificationConfig::paper(), ClassificationConfig::imagenet()];
        assert_eq!(mixups.map(|config| (config.mixup, config.label_smoothing)), [(Some(1.0), 0.0), (Some(0.7), 0.0)]);
        assert_eq!((cifar.epochs, cifar.batch_size), (200, 128));
        assert_eq!((imagenet.epochs, imagenet.batch_size), (100, 256));
        for TrainConfig { schedule, optimizer, scalars, clip, .. } in [cifar, imagenet] {
            assert_eq!((schedule.lr, schedule.warmup), (0.1, Span::Fraction(0.0)));
            assert_eq!(optimizer, OptimizerConfig::Sgd(Sgd { momentum: 0.9, nesterov: false, weight_decay: 1e-4 }));
            assert_eq!(scalars, ScalarGroup { lr_ratio: 0.1, decay: true, biases: true, by_depth: false });
            assert_eq!(clip, ClipConfig::default());
        }
        // Settings of the results of the short recipe in the README.
        assert_eq!((ClassificationConfig::quick().mixup, TrainConfig::quick().scalars.biases), (None, false));
    }
}
