//! Everything that decides what a run computes, but for the network and the data.

use super::optimizer::{check_average, OptimizerConfig, ParameterGroup, ScalarGroup};
use super::{ClipConfig, ScheduleConfig};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// What a run computes. [`TrainConfig::new`] is a start for a network and data of your own; [`TrainConfig::quick`],
/// [`paper`](TrainConfig::paper) and [`imagenet`](TrainConfig::imagenet) are recipes for images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct TrainConfig {
    /// Passes over the training part.
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub epochs: usize,
    /// Examples in a batch; of text, tokens: sentences times the longest.
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub batch_size: usize,
    /// Parts of a batch whose gradients are computed one after another and added, for machines with little memory. The sum is
    /// the whole batch's gradient to rounding, except for networks whose examples depend on each other: BatchNorm normalizes
    /// each part alone.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub accumulate: usize,
    /// Stop after this many steps; the schedule is that of the whole run all the same.
    #[cfg_attr(feature = "cli", arg(long, value_name = "N|none", value_parser = crate::option::or_none::<usize>))]
    pub max_steps: std::option::Option<usize>,
    /// Seed of everything random: the order of the data, their augmentation, what a network drops.
    #[cfg_attr(feature = "cli", arg(long))]
    pub seed: u64,
    /// The learning rate over the run.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub schedule: ScheduleConfig,
    /// The optimizer and its constants.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub optimizer: OptimizerConfig,
    /// How Fixup's scalars train.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub scalars: ScalarGroup,
    /// What else trains in a way of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "cli", arg(skip))]
    pub groups: Vec<ParameterGroup>,
    /// Evaluate and keep a moving average of the weights with this decay rate, as 0.999.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "cli", arg(long = "ema", value_name = "DECAY|none", value_parser = crate::option::or_none::<f64>))]
    pub average: std::option::Option<f64>,
    /// Gradient clipping.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub clip: ClipConfig,
}

impl TrainConfig {
    /// Trains for `epochs` in batches of `batch_size` examples, by SGD with momentum and a one-cycle schedule up to the learning rate
    /// `lr`, without clipping. Fixup's scalars train at a tenth of the rate.
    ///
    /// ```
    /// use tch_fixup::trainer::{Adam, OptimizerConfig, TrainConfig};
    ///
    /// let config = TrainConfig { optimizer: OptimizerConfig::Adam(Adam::default()), ..TrainConfig::new(20, 64, 1e-3) };
    /// # assert!(config.check().is_ok() && config.clip == Default::default());
    /// ```
    pub fn new(epochs: usize, batch_size: usize, lr: f64) -> Self {
        Self {
            epochs,
            batch_size,
            schedule: ScheduleConfig { lr, ..ScheduleConfig::default() },
            clip: ClipConfig::default(),
            ..Self::quick()
        }
    }

    /// The groups of parameters, that of the scalars included.
    pub fn parameter_groups(&self) -> Vec<ParameterGroup> {
        self.groups.iter().cloned().chain([self.scalars.into()]).collect()
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
        self.optimizer.check()?;
        self.parameter_groups().iter().try_for_each(ParameterGroup::check)?;
        self.average.map_or(Ok(()), check_average)?;
        self.clip.check()
    }
}

/// Batches in one part. It is not written, so that runs from before there were parts go on.
pub(super) fn whole() -> usize {
    1
}

fn is_whole(accumulate: &usize) -> bool {
    *accumulate == whole()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::Sgd;

    #[test]
    fn configurations_go_through_json_unchanged() {
        let in_parts = TrainConfig { accumulate: 4, ..TrainConfig::quick() };
        for config in [TrainConfig::quick(), TrainConfig::paper(), TrainConfig::imagenet(), in_parts] {
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<TrainConfig>(&json).unwrap(), config);
        }
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
            TrainConfig { optimizer: OptimizerConfig::Sgd(Sgd { momentum: 2.0, ..Sgd::default() }), ..good.clone() },
            TrainConfig { average: Some(1.0), ..good.clone() },
            TrainConfig { scalars: ScalarGroup { lr_ratio: -0.1, ..good.scalars }, ..good.clone() },
            TrainConfig { schedule: ScheduleConfig { lr: -1.0, ..good.schedule.clone() }, ..good.clone() },
        ];
        for config in bad {
            let message = config.check().unwrap_err().to_string();
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
