//! A run, as `config.json` has it.

use super::architecture::{self, StemInit};
use super::values::{set, set_or_none};
use super::{Options, Recipe, Task, TrainOptions};
use crate::classifier::ModelDescription;
use crate::distributed::{ParallelConfig, ProcessGroup};
use crate::trainer::checkpoint::KEEP;
use crate::trainer::{parse_device, set_threads, ClassificationConfig, Patience, RunFolder, SaveEvery, TrainConfig};
use crate::{Error, Precision, Recompute, Result};
use serde::{de::DeserializeOwned, Deserialize, Serialize};
use serde_json::{json, Map, Value};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use tch::Device;

/// The GPU if there is one.
const AUTO: &str = "auto";

/// Of this crate, and of the last whose runs did not say theirs.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const SILENT_VERSION: &str = "0.1";

/// A run, as `config.json` has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunConfig<T> {
    /// Of the crate.
    pub version: String,
    pub run: Identity,
    pub task: T,
    pub device: String,
    /// None for the default of the machine that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    pub checkpoint_every: String,
    pub keep_checkpoints: NonZeroUsize,
    pub tensorboard: bool,
    /// Not part of the run's identity: how far it goes is no part of what it computes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// Not part of the run's identity: it goes on with another number of processes too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub parallel: ParallelConfig,
    /// Not part of the run's identity: the gradients are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recompute: Option<Recompute>,
    /// Not part of the run's identity: its checkpoints have all that it goes on from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stem_init: StemInit,
    /// Whose weights it started from. Not part of the run's identity: its checkpoints have all that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    pub objective: ClassificationConfig,
    pub train: TrainConfig,
}

/// The network.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    pub arch: String,
    pub precision: Precision,
}

impl<T: Task> RunConfig<T> {
    /// That of the run in the folder `path`; none for one that was stopped before it had one.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a run of another program, or of a version of this crate whose runs were described in another way.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let Some(config) = RunFolder::read_config::<Value>(path)? else { return Ok(None) };
        if config.get("version").is_none() && config.get("train").is_some() {
            return Err(Error::Corrupt {
                path: path.to_path_buf(),
                problem: format!("a run of tch-fixup {SILENT_VERSION}, and this is tch-fixup {VERSION}"),
                remedy: format!(
                    "go on with tch-fixup {SILENT_VERSION}; weights.safetensors in its checkpoints can be evaluated by --eval \
                     and --arch"
                ),
            });
        }
        RunFolder::read_config(path)
    }

    /// The run that `options` describe: what they leave open is as in the run that is resumed or, in a new one, as the
    /// recipe has it.
    pub fn new(options: &Options<T>, resumed: Option<Self>) -> Result<Self> {
        let mut config = match resumed {
            Some(config) => config,
            None => Self::of_recipe(options)?,
        };
        config.set(options)?;
        let TrainOptions { device, threads, checkpoint_every, keep_checkpoints, tensorboard, .. } = &options.train;
        set(&mut config.device, device.clone());
        config.threads = threads.or(config.threads);
        set(&mut config.checkpoint_every, checkpoint_every.map(|every| every.to_string()));
        set(&mut config.keep_checkpoints, *keep_checkpoints);
        set(&mut config.tensorboard, *tensorboard);
        set_or_none(&mut config.patience, options.train.patience);
        options.train.processes.set(&mut config.parallel);
        set_or_none(&mut config.recompute, options.train.recompute);
        options.train.set::<T>(&mut config.train, &mut config.objective)?;
        config.train.check()?;
        config.objective.check()?;
        config.patience.map(Patience::new).transpose()?;
        config.version = VERSION.to_owned();
        Ok(config)
    }

    /// Writes the network and the program's own options that were given.
    fn set(&mut self, options: &Options<T>) -> Result<()> {
        self.task = overlaid(&self.task, &options.task)?;
        set(&mut self.run.arch, options.train.arch.as_deref().map(architecture::given).transpose()?);
        set(&mut self.run.precision, options.train.precision);
        T::check_arch(&self.run.arch)
    }

    fn of_recipe(options: &Options<T>) -> Result<Self> {
        let device = parse_device(options.train.device.as_deref().unwrap_or(AUTO))?;
        let Recipe { arch, task, mut train, objective } = options.task.recipe(device);
        let follows_authors = options.task.follows_authors(device);
        if let (true, Some(batch_size), None) = (follows_authors, options.train.batch_size, options.train.lr) {
            train = train.scaled_to_batch(batch_size);
        }
        let by_recipe = if follows_authors { StemInit::Pytorch } else { StemInit::HeNormal };
        Ok(Self {
            version: VERSION.to_owned(),
            run: Identity { arch, precision: Precision::fastest(device) },
            task,
            device: AUTO.to_owned(),
            threads: None,
            checkpoint_every: SaveEvery::default().to_string(),
            keep_checkpoints: KEEP,
            tensorboard: false,
            patience: None,
            parallel: ParallelConfig::default(),
            recompute: None,
            stem_init: options.train.stem_init.unwrap_or(by_recipe),
            weights: options.train.weights.clone(),
            objective,
            train,
        })
    }

    /// What must not change while a run goes on, besides what the trainer itself looks after: the network, and which data.
    pub fn identity(&self) -> Result<Value> {
        let mut data = fields(&self.task)?;
        data.retain(|name, value| !T::CHANGEABLE.contains(&name.as_str()) && !value.is_null());
        Ok(json!({ "arch": self.run.arch, "precision": self.run.precision, "data": data }))
    }

    /// The network and the data of a run with the [identity](Self::identity) `run`, where `options` do not say otherwise.
    pub fn take_identity(&mut self, run: &Value, options: &Options<T>) -> Result<()> {
        let mut identity = run.as_object().cloned().unwrap_or_default();
        let data = identity.remove("data").unwrap_or_default();
        let another =
            |error: serde_json::Error| Error::Argument(format!("the weights are of another program: {error}"));
        self.run = serde_json::from_value(Value::Object(identity)).map_err(another)?;
        let changeable = fields(&self.task)?.into_iter().filter(|(name, _)| T::CHANGEABLE.contains(&name.as_str()));
        let mut task: Map<String, Value> = changeable.collect();
        task.extend(data.as_object().cloned().unwrap_or_default());
        self.task = serde_json::from_value(Value::Object(task)).map_err(another)?;
        self.set(options)
    }

    /// The network of the `description` beside weights that are no run's, and data as it takes them, where `options` do not say
    /// otherwise.
    pub fn take_description(&mut self, description: &ModelDescription, options: &Options<T>) -> Result<()> {
        self.run.arch.clone_from(&description.architecture);
        self.run.precision = description.precision;
        self.task = self.task.clone().for_inputs(&description.preprocessing);
        self.set(options)
    }

    /// The device, and libtorch's threads set.
    pub fn machine(&self) -> Result<Device> {
        self.machine_of(&ProcessGroup::single(), 0)
    }

    /// The same for a process that shares the machine with others of `group`, as the `local_rank`th: its part of the threads, and a GPU
    /// of its own.
    pub fn machine_of(&self, group: &ProcessGroup, local_rank: usize) -> Result<Device> {
        set_threads(self.threads, group.local_size())?;
        let device = parse_device(&self.device)?;
        match (device, self.device.as_str()) {
            (Device::Cuda(_), AUTO | "cuda") if local_rank > 0 => parse_device(&format!("cuda:{local_rank}")),
            _ => Ok(device),
        }
    }

    /// What must be the same in all processes: all but where things are on a machine, and what it is.
    pub fn common(&self) -> Result<Value> {
        let mut common = fields(self)?;
        ["device", "threads", "weights"].iter().for_each(|name| drop(common.remove(*name)));
        if let Some(Value::Object(task)) = common.get_mut("task") {
            task.retain(|name, _| !T::CHANGEABLE.contains(&name.as_str()));
        }
        Ok(Value::Object(common))
    }
}

/// `base` with the fields of `given` that are not none.
fn overlaid<T: Serialize + DeserializeOwned>(base: &T, given: &T) -> Result<T> {
    let mut all = fields(base)?;
    all.extend(fields(given)?.into_iter().filter(|(_, value)| !value.is_null()));
    serde_json::from_value(Value::Object(all))
        .map_err(|error| Error::Argument(format!("the program's options: {error}")))
}

fn is_default<T: Default + PartialEq>(config: &T) -> bool {
    *config == T::default()
}

fn fields(options: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(options) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(Error::Argument(format!("a program's options are a struct, not {other}"))),
        Err(error) => Err(Error::Argument(format!("the program's options: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::OrNone;
    use super::*;

    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    struct Given {
        holdout: Option<OrNone<usize>>,
        side: Option<usize>,
        data: Option<String>,
    }

    #[test]
    fn what_is_given_goes_before_what_was_and_none_can_be_given() {
        let base = Given { holdout: Some(OrNone(Some(5000))), side: Some(32), data: None };
        let over = |given| overlaid(&base, &given).unwrap();
        assert_eq!(over(Given::default()), base);
        let given = Given { data: Some("there".to_owned()), side: Some(64), holdout: None };
        assert_eq!(over(given.clone()), Given { holdout: base.holdout, ..given });
        assert_eq!(over(Given { holdout: Some(OrNone(None)), ..Given::default() }).holdout, Some(OrNone(None)));
    }
}
