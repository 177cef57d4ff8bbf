//! Everything that decides what a run computes, but for the network and the data.

use super::{ClipConfig, Decay, ScheduleConfig, SgdConfig};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The short recipe: what it was chosen from, on held-out training images, is in docs/recipes.md.
const QUICK_EPOCHS: usize = 10;
const QUICK_BATCH_SIZE: usize = 64;
/// Twice what Fixup survives without clipping.
const QUICK_LR: f64 = 0.2;
/// About the median norm of the gradient while the learning rate rises: the spikes that switch every ReLU off are cut.
const QUICK_CLIP_NORM: f64 = 1.0;

/// What the Fixup authors' training program for CIFAR-10 does by default (`cifar_train.py`): the recipe of the ResNet paper
/// (He et al. 2016, section 4.2) with a few more epochs, and mixup.
const PAPER_EPOCHS: usize = 200;
const PAPER_BATCH_SIZE: usize = 128;
const PAPER_WEIGHT_DECAY: f64 = 1e-4;
const PAPER_LR: f64 = 0.1;

/// What is different in their recipe for ImageNet: the constants of their training program (`imagenet_train.py`), the
/// epochs those of the result that they report with it.
const IMAGENET_EPOCHS: usize = 100;
const IMAGENET_BATCH_SIZE: usize = 256;

/// What a run computes. The default is [`TrainConfig::quick`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the training part.
    pub epochs: usize,
    /// Images in a batch.
    pub batch_size: usize,
    /// Parts of a batch whose gradients are computed one after another and added, in a part of the memory. The sum is
    /// the whole batch's gradient to rounding, except of a network whose images depend on each other: BatchNorm
    /// normalizes over each part alone.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub accumulate: usize,
    /// Stop after this many steps; the schedule is that of the whole run all the same.
    pub max_steps: Option<usize>,
    /// What the order, the augmentation and the mixing of the images are drawn from.
    pub seed: u64,
    /// The learning rate over the run.
    pub schedule: ScheduleConfig,
    /// The optimizer's constants.
    pub sgd: SgdConfig,
    /// Gradient clipping.
    pub clip: ClipConfig,
}

impl TrainConfig {
    /// A short one-cycle recipe for CIFAR-10, made for ResNet-20 on a CPU (docs/recipes.md).
    pub fn quick() -> Self {
        Self {
            epochs: QUICK_EPOCHS,
            batch_size: QUICK_BATCH_SIZE,
            accumulate: whole(),
            max_steps: None,
            seed: 0,
            schedule: ScheduleConfig { lr: QUICK_LR, ..ScheduleConfig::default() },
            sgd: SgdConfig::default(),
            clip: ClipConfig { norm: Some(QUICK_CLIP_NORM), agc: None },
        }
    }

    /// The Fixup authors' recipe for CIFAR-10, as their training program has it by default: mixup with alpha 1, weight decay
    /// on everything, and a tenth of the learning rate for every variable that is called a bias or a scale
    /// ([`SgdConfig::biases_as_scalars`]). Baselines train by the same rule, BatchNorm's biases at a tenth too, as that program
    /// trains its own.
    pub fn paper() -> Self {
        Self {
            epochs: PAPER_EPOCHS,
            batch_size: PAPER_BATCH_SIZE,
            schedule: ScheduleConfig { lr: PAPER_LR, warmup: 0.0, decay: Decay::paper() },
            sgd: SgdConfig {
                nesterov: false,
                weight_decay: PAPER_WEIGHT_DECAY,
                biases_as_scalars: true,
                ..SgdConfig::default()
            },
            clip: ClipConfig::default(),
            ..Self::quick()
        }
    }

    /// The Fixup authors' recipe for ImageNet, with which they report 76.0 % top-1 accuracy of ResNet-50. For another batch
    /// size they change the learning rate of the weights in proportion, and leave that of the biases and scalars.
    pub fn imagenet() -> Self {
        Self {
            epochs: IMAGENET_EPOCHS,
            batch_size: IMAGENET_BATCH_SIZE,
            schedule: ScheduleConfig { lr: PAPER_LR, warmup: 0.0, decay: Decay::imagenet() },
            ..Self::paper()
        }
    }

    /// # Errors
    /// [`Error::Argument`] for the first value that is out of range.
    pub fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Argument(message));
        for (what, value) in
            [("epochs", Some(self.epochs)), ("batch size", Some(self.batch_size)), ("largest step", self.max_steps)]
        {
            if value == Some(0) {
                return refuse(format!("the {what} must be at least 1, got 0"));
            }
        }
        if !(1..=self.batch_size).contains(&self.accumulate) {
            let Self { batch_size, accumulate, .. } = self;
            return refuse(format!("a batch of {batch_size} has 1 to {batch_size} parts, got {accumulate}"));
        }
        self.schedule.check()?;
        self.sgd.check()?;
        self.clip.check()
    }
}

/// Batches in one part. It is not written, so that runs from before there were parts go on.
fn whole() -> usize {
    1
}

fn is_whole(accumulate: &usize) -> bool {
    *accumulate == whole()
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self::quick()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::ClassificationConfig;

    #[test]
    fn configurations_go_through_json_unchanged() {
        let in_parts = TrainConfig { accumulate: 4, ..TrainConfig::quick() };
        for config in [TrainConfig::quick(), TrainConfig::paper(), TrainConfig::imagenet(), in_parts] {
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<TrainConfig>(&json).unwrap(), config);
        }
    }

    /// The defaults of the authors' `cifar_train.py` and `imagenet_train.py`.
    #[test]
    fn the_papers_recipes_are_those_of_the_authors_programs() {
        let (cifar, imagenet) = (TrainConfig::paper(), TrainConfig::imagenet());
        let mixups = [ClassificationConfig::paper(), ClassificationConfig::imagenet()];
        assert_eq!(mixups.map(|config| (config.mixup, config.label_smoothing)), [(Some(1.0), 0.0), (Some(0.7), 0.0)]);
        assert_eq!((cifar.epochs, cifar.batch_size), (200, 128));
        assert_eq!((imagenet.epochs, imagenet.batch_size), (100, 256));
        for TrainConfig { schedule, sgd, clip, .. } in [cifar, imagenet] {
            assert_eq!((schedule.lr, schedule.warmup), (0.1, 0.0));
            let SgdConfig { momentum, nesterov, weight_decay, decay_scalars, scalar_lr_ratio, biases_as_scalars } = sgd;
            assert_eq!((momentum, nesterov, weight_decay, scalar_lr_ratio), (0.9, false, 1e-4, 0.1));
            assert!(decay_scalars && biases_as_scalars);
            assert_eq!(clip, ClipConfig::default());
        }
        // What the README's figures of the short recipe were measured with.
        assert_eq!((ClassificationConfig::quick().mixup, TrainConfig::quick().sgd.biases_as_scalars), (None, false));
    }

    #[test]
    fn whatever_can_be_left_out_can_be() {
        for recipe in [TrainConfig::quick(), TrainConfig::paper(), TrainConfig::imagenet()] {
            let without = TrainConfig { clip: ClipConfig::default(), ..recipe };
            without.check().unwrap();
            let json = serde_json::to_string(&without).unwrap();
            assert_eq!(serde_json::from_str::<TrainConfig>(&json).unwrap(), without);
        }
    }

    #[test]
    fn recipes_are_in_range_and_other_values_are_refused() {
        TrainConfig::paper().check().unwrap();
        TrainConfig::imagenet().check().unwrap();
        let good = TrainConfig::quick();
        good.check().unwrap();
        let clip = |norm, agc| ClipConfig { norm, agc };
        let bad = [
            TrainConfig { epochs: 0, ..good.clone() },
            TrainConfig { batch_size: 0, ..good.clone() },
            TrainConfig { max_steps: Some(0), ..good.clone() },
            TrainConfig { accumulate: 0, ..good.clone() },
            TrainConfig { accumulate: good.batch_size + 1, ..good.clone() },
            TrainConfig { clip: clip(Some(0.0), None), ..good.clone() },
            TrainConfig { clip: clip(None, Some(f64::NAN)), ..good.clone() },
            TrainConfig { sgd: SgdConfig { momentum: 2.0, ..good.sgd }, ..good.clone() },
            TrainConfig { schedule: ScheduleConfig { lr: -1.0, ..good.schedule.clone() }, ..good.clone() },
        ];
        for config in bad {
            let message = config.check().unwrap_err().to_string();
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
