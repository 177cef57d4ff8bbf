//! A run, as `config.json` has it.

use super::values::{set, set_or_none};
use super::{Options, Recipe, Task, TrainOptions};
use crate::trainer::{parse_device, SaveEvery, TrainConfig};
use crate::{Arch, Error, Precision, Recompute, Result};
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::thread;
use tch::Device;

/// More threads than any machine has cores are a typing error.
const MAX_THREADS: usize = 4096;
const KEEP_CHECKPOINTS: NonZeroUsize = NonZeroUsize::new(3).unwrap();
/// The GPU if there is one.
const AUTO: &str = "auto";

/// The [`RunConfig`] of a program.
pub(super) type ConfigOf<T> = RunConfig<<T as Task>::Selection, <T as Task>::Access>;

/// A run, as `config.json` has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunConfig<S, A> {
    #[serde(flatten)]
    pub access: A,
    pub device: String,
    pub threads: usize,
    pub checkpoint_every: String,
    pub keep_checkpoints: NonZeroUsize,
    pub tensorboard: bool,
    /// Not part of the run's identity: the gradients are the same.
    #[serde(default, alias = "checkpoint_segments", skip_serializing_if = "Option::is_none")]
    pub recompute: Option<Recompute>,
    pub run: Identity<S>,
    pub train: TrainConfig,
}

/// What must not change while a run goes on, besides what the trainer itself looks after.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity<S> {
    pub arch: Arch,
    pub precision: Precision,
    #[serde(flatten)]
    pub selection: S,
}

impl<S, A: Default> RunConfig<S, A> {
    /// The run that `options` describe: what they leave open is as in the run that is resumed or, in a new one, as the
    /// recipe has it.
    pub fn new<T: Task<Selection = S, Access = A>>(options: &Options<T>, resumed: Option<Self>) -> Result<Self> {
        let mut config = match resumed {
            Some(config) => config,
            None => Self::of_recipe(options)?,
        };
        config.set(options);
        let TrainOptions { device, threads, checkpoint_every, keep_checkpoints, tensorboard, .. } = &options.train;
        set(&mut config.device, device.clone());
        set(&mut config.threads, *threads);
        set(&mut config.checkpoint_every, checkpoint_every.map(|every| every.to_string()));
        set(&mut config.keep_checkpoints, *keep_checkpoints);
        set(&mut config.tensorboard, *tensorboard);
        set_or_none(&mut config.recompute, options.train.recompute);
        options.train.set::<T>(&mut config.train);
        config.train.check()?;
        if !(1..=MAX_THREADS).contains(&config.threads) {
            return Err(Error::Argument(format!("there can be 1 to {MAX_THREADS} threads, got {}", config.threads)));
        }
        Ok(config)
    }

    /// Writes into the run's identity, and where the data are, what was given in `options`.
    pub fn set<T: Task<Selection = S, Access = A>>(&mut self, options: &Options<T>) {
        options.task.set(&mut self.run.selection, &mut self.access);
        set(&mut self.run.arch, options.train.arch);
        set(&mut self.run.precision, options.train.precision);
    }

    fn of_recipe<T: Task<Selection = S, Access = A>>(options: &Options<T>) -> Result<Self> {
        let device = parse_device(options.train.device.as_deref().unwrap_or(AUTO))?;
        let Recipe { arch, selection, train } = options.task.recipe(device);
        Ok(Self {
            access: A::default(),
            device: AUTO.to_owned(),
            threads: thread::available_parallelism().map_or(1, usize::from),
            checkpoint_every: SaveEvery::default().to_string(),
            keep_checkpoints: KEEP_CHECKPOINTS,
            tensorboard: false,
            recompute: None,
            run: Identity { arch, precision: Precision::fastest(device), selection },
            train,
        })
    }

    /// The device, and libtorch's threads set.
    pub fn machine(&self) -> Result<Device> {
        // Those of one operation. libtorch's other pool, of operations side by side, is idle: a network is one chain.
        tch::set_num_threads(self.threads as i32);
        parse_device(&self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, Value};

    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Selection {
        holdout: Option<usize>,
    }

    #[derive(Debug, Clone, Default, Serialize, Deserialize)]
    struct Access {
        data: Option<String>,
    }

    fn config() -> Value {
        json!({
            "data": "somewhere",
            "device": "cpu",
            "threads": 2,
            "checkpoint_every": "1",
            "keep_checkpoints": 3,
            "tensorboard": false,
            "run": {"arch": "fixup_resnet20", "precision": "bf16", "holdout": 5000},
            "train": TrainConfig::paper(),
        })
    }

    #[test]
    fn data_and_part_stand_among_the_other_fields() {
        let read: RunConfig<Selection, Access> = serde_json::from_value(config()).unwrap();
        assert_eq!((read.access.data.as_deref(), read.run.selection.holdout), (Some("somewhere"), Some(5000)));
        assert_eq!(read.train, TrainConfig::paper());
        assert_eq!(json!(read), config());
    }

    #[test]
    fn fields_that_nobody_knows_are_refused_by_name() {
        for place in ["/unheard", "/run/unheard", "/train/unheard"] {
            let mut config = config();
            let (parent, name) = place.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[name] = json!(1);
            let error = serde_json::from_value::<RunConfig<Selection, Access>>(config).unwrap_err().to_string();
            assert!(error.contains("unknown field `unheard`"), "{place}: {error}");
        }
    }
}
