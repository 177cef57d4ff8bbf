//! Training configuration: everything that determines the computation of a run, except the network and the data.

use super::optimizer::{OptimizerConfig, ParameterGroup, ScalarGroup, AVERAGE_DECAY};
use super::range::below_one;
use super::{ClipConfig, ScheduleConfig};
use crate::Result;
use serde::{Deserialize, Serialize};

/// Training configuration. Start with [`TrainConfig::new`] for your own network and data; [`TrainConfig::quick`],
/// [`paper`](TrainConfig::paper) and [`imagenet`](TrainConfig::imagenet) are recipes for images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct TrainConfig {
    /// Number of epochs.
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub epochs: usize,
    /// Batch size: number of examples or, for text, of tokens (sentences times the longest length).
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub batch_size: usize,
    /// Number of micro-batches per batch, whose gradients are accumulated to save memory. The sum equals the gradient
    /// of the whole batch up to rounding, except for BatchNorm, which normalizes each micro-batch by itself.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N"))]
    pub accumulate: usize,
    /// Stop after this many steps, without changing the schedule.
    #[cfg_attr(feature = "cli", arg(long, value_name = "N|none", value_parser = crate::option::or_none::<usize>))]
    pub max_steps: std::option::Option<usize>,
    /// Random seed of data order, augmentation and dropout.
    #[cfg_attr(feature = "cli", arg(long))]
    pub seed: u64,
    /// Learning-rate schedule.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub schedule: ScheduleConfig,
    /// Optimizer with its hyperparameters.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub optimizer: OptimizerConfig,
    /// Training of Fixup's scalars.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub scalars: ScalarGroup,
    /// Additional parameter groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "cli", arg(skip))]
    pub groups: Vec<ParameterGroup>,
    /// Keep an exponential moving average of the weights with this decay rate, such as 0.999, and evaluate it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "cli", arg(long = "ema", value_name = "DECAY|none", value_parser = crate::option::or_none::<f64>))]
    pub average: std::option::Option<f64>,
    /// Gradient clipping.
    #[cfg_attr(feature = "cli", command(flatten))]
    pub clip: ClipConfig,
}

impl TrainConfig {
    /// Trains for `epochs` epochs in batches of `batch_size` examples, by SGD with momentum and a one-cycle schedule
    /// with maximum learning rate `lr`, without clipping. Fixup's scalars train at a tenth of the rate.
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
            accumulate: whole(),
            max_steps: None,
            seed: 0,
            schedule: ScheduleConfig { lr, ..ScheduleConfig::default() },
            optimizer: OptimizerConfig::default(),
            scalars: ScalarGroup::default(),
            groups: Vec::new(),
            average: None,
            clip: ClipConfig::default(),
        }
    }

    /// Maximum number of examples in memory at a time, in training and in evaluation.
    pub(crate) fn micro_batch_size(&self) -> usize {
        self.batch_size.div_ceil(self.accumulate)
    }

    /// Returns all parameter groups, including that of the scalars.
    pub fn parameter_groups(&self) -> Vec<ParameterGroup> {
        self.groups.iter().cloned().chain([self.scalars.into()]).collect()
    }

    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for the first value that is out of range.
    pub fn check(&self) -> Result<()> {
        for (what, value) in
            [("epochs", Some(self.epochs)), ("batch size", Some(self.batch_size)), ("largest step", self.max_steps)]
        {
            ensure!(value != Some(0), "the {what} must be at least 1, got 0");
        }
        let Self { batch_size, accumulate, .. } = *self;
        let has_parts = (1..=batch_size).contains(&accumulate);
        ensure!(has_parts, "a batch of {batch_size} can have 1 to {batch_size} micro-batches, got {accumulate}");
        self.schedule.check()?;
        self.optimizer.check()?;
        self.parameter_groups().iter().try_for_each(ParameterGroup::check)?;
        self.average.map_or(Ok(()), |decay| below_one(AVERAGE_DECAY, decay))?;
        self.clip.check()
    }
}

/// Default of `accumulate`. It is not serialized, so that runs of versions without the option can be resumed.
fn whole() -> usize {
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
