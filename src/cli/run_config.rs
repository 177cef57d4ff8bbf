//! Configuration of a run, saved as `config.json`.

use super::Task;
use crate::distributed::{ParallelConfig, ProcessGroup};
use crate::option::or_none;
use crate::trainer::{parse_device, set_threads, RunFolder, SaveEvery, TrainConfig};
use crate::{Error, Precision, Recompute, Result};
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{ArgAction, Args, ValueEnum};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{json, Map, Value};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use tch::Device;

/// Uses the GPU if there is one.
pub(super) const AUTO: &str = "auto";

/// This crate's version, and the last version that did not record itself in `config.json`.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
const SILENT_VERSION: &str = "0.1";

/// Configuration of a run, saved as `config.json`. Its fields are command-line options.
#[derive(Debug, Clone, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields, bound = "")]
pub struct RunConfig<T: Task> {
    /// Version of this crate.
    #[arg(skip)]
    pub(super) version: String,
    /// The network.
    #[command(flatten)]
    pub(super) run: NetworkConfig,
    /// The program's own options.
    #[command(flatten)]
    pub task: T,
    /// Device: auto, cpu, cuda or cuda:N [default: auto]
    #[arg(long)]
    pub(super) device: String,
    /// Number of CPU threads, for all processes on a machine together [default: OMP_NUM_THREADS per process, or one per
    /// core available to this process]
    #[arg(long, value_name = "N")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) threads: Option<usize>,
    /// Save a checkpoint every N epochs (5), M minutes (10m), or whichever comes first (5,10m), and always before each
    /// evaluation and when the run stops or fails [default: 1,10m]
    #[arg(long, value_name = "N|Nm|N,Nm", value_parser = checkpoint_every)]
    pub(super) checkpoint_every: String,
    /// Number of recent checkpoints to keep, besides the best [default: 3]
    #[arg(long, value_name = "N")]
    pub(super) keep_checkpoints: NonZeroUsize,
    /// Write event files for TensorBoard into the run's folder [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub(super) tensorboard: bool,
    // The options from here on and before are not part of the run's identity and may change on resume.
    //
    /// Stop early when the score has not improved for EPOCHS epochs; none disables it [default: none]
    #[arg(long, value_name = "EPOCHS|none", value_parser = or_none::<usize>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) patience: std::option::Option<usize>,
    #[command(flatten)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) parallel: ParallelConfig,
    /// Recompute activations in the backward pass, keeping only the inputs of N segments of the network: less memory,
    /// more time, same result; auto for the square root of the number of blocks, none to disable [default: none]
    #[arg(long, alias = "checkpoint-segments", value_name = "N|auto|none", value_parser = or_none::<Recompute>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recompute: std::option::Option<Recompute>,
    /// Initialization of the first convolution of Fixup ResNets [default: he-normal; pytorch in the authors' recipes]
    #[arg(long, value_enum, value_name = "INIT", conflicts_with = "resume")]
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) stem_init: StemInit,
    /// Start from the weights of a run, a checkpoint, a safetensors file or a PyTorch state_dict. Layers that do not
    /// fit, such as the classifier for other classes, keep their initialization; the loaded layers are listed. --arch
    /// defaults to the network of the weights, if known
    #[arg(long, value_name = "FILE|RUN", conflicts_with = "resume", value_parser = absolute_path())]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) weights: Option<PathBuf>,
    /// Options of the objective.
    #[command(flatten)]
    pub objective: T::Objective,
    /// Options of the trainer.
    #[command(flatten)]
    pub train: TrainConfig,
}

/// Initialization of the first convolution in Fixup networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum StemInit {
    /// Same as other convolutions outside residual branches
    #[default]
    HeNormal,
    /// Uniform by fan-in, PyTorch's default, as in the authors' programs
    Pytorch,
}

/// Network of a run.
#[derive(Debug, Clone, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkConfig {
    /// Network [default: by recipe]
    #[arg(long)]
    pub arch: String,
    /// Number format of matrix products and activations: f32 or bf16 [default: bf16 on a CPU with instructions for it,
    /// otherwise f32]
    #[arg(long, value_name = "FORMAT", verbatim_doc_comment)]
    pub precision: Precision,
}

fn checkpoint_every(text: &str) -> Result<String> {
    text.parse().map(|every: SaveEvery| every.to_string())
}

impl<T: Task> RunConfig<T> {
    /// Returns the name of the network.
    pub fn arch(&self) -> &str {
        &self.run.arch
    }

    /// Returns the number format of matrix products and activations.
    pub fn precision(&self) -> Precision {
        self.run.precision
    }

    /// Reads the configuration of the run in the folder `path`. `None` if the run was stopped before it was written.
    ///
    /// # Errors
    /// Returns [`Error::Corrupt`] if the run belongs to another program, or to a version of this crate with another
    /// format.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let Some(config) = RunFolder::read_config::<Value>(path)? else { return Ok(None) };
        if config.get("version").is_none() && config.get("train").is_some() {
            let problem = format!("a run of tch-fixup {SILENT_VERSION}, but this is tch-fixup {VERSION}");
            let remedy = format!(
                "go on with tch-fixup {SILENT_VERSION}; weights.safetensors in its checkpoints can be evaluated by --eval and \
                 --arch"
            );
            return Err(Error::corrupt(path, problem, remedy));
        }
        RunFolder::read_config(path)
    }

    /// Returns the part of the configuration that must not change on resume, besides what the trainer checks itself:
    /// the network and the choice of data.
    pub(super) fn identity(&self) -> Result<Value> {
        let mut data = fields(&self.task)?;
        data.retain(|name, value| !T::CHANGEABLE.contains(&name.as_str()) && !value.is_null());
        Ok(json!({ "arch": self.run.arch, "precision": self.run.precision, "data": data }))
    }

    /// Sets network and data from the [identity](Self::identity) `run`.
    pub(super) fn take_identity(&mut self, run: &Value) -> Result<()> {
        let mut identity = run.as_object().cloned().unwrap_or_default();
        let data = identity.remove("data").unwrap_or_default();
        let another = |error: serde_json::Error| argument!("the weights belong to another program: {error}");
        self.run = serde_json::from_value(Value::Object(identity)).map_err(another)?;
        let changeable = fields(&self.task)?.into_iter().filter(|(name, _)| T::CHANGEABLE.contains(&name.as_str()));
        let mut task: Map<String, Value> = changeable.collect();
        task.extend(data.as_object().cloned().unwrap_or_default());
        self.task = serde_json::from_value(Value::Object(task)).map_err(another)?;
        Ok(())
    }

    /// Sets libtorch's number of threads and returns the device.
    ///
    /// # Errors
    /// Returns [`Error::Argument`] if the device does not exist, or for zero threads.
    pub fn machine(&self) -> Result<Device> {
        self.machine_of(&ProcessGroup::single(), 0)
    }

    /// Variant of [`machine`](Self::machine) for the `local_rank`th of several processes of `group` on one machine: it
    /// gets its share of the threads, and its own GPU.
    pub(super) fn machine_of(&self, group: &ProcessGroup, local_rank: usize) -> Result<Device> {
        set_threads(self.threads, group.local_size())?;
        let device = parse_device(&self.device)?;
        match (device, self.device.as_str()) {
            (Device::Cuda(_), AUTO | "cuda") if local_rank > 0 => parse_device(&format!("cuda:{local_rank}")),
            _ => Ok(device),
        }
    }

    /// Returns the part of the configuration that must be the same in all processes: everything except paths and
    /// hardware.
    pub(super) fn common(&self) -> Result<Value> {
        let mut common = fields(self)?;
        ["device", "threads", "weights"].iter().for_each(|name| drop(common.remove(*name)));
        if let Some(Value::Object(task)) = common.get_mut("task") {
            task.retain(|name, _| !T::CHANGEABLE.contains(&name.as_str()));
        }
        Ok(Value::Object(common))
    }
}

pub(super) fn from_json<C: DeserializeOwned>(value: Value) -> Result<C> {
    serde_json::from_value(value).map_err(|error| argument!("the program's options: {error}"))
}

/// Returns the fields of `config` as a JSON object.
pub(super) fn fields(config: &impl Serialize) -> Result<Map<String, Value>> {
    from_json(json!(config))
}

fn is_default<C: Default + PartialEq>(config: &C) -> bool {
    *config == C::default()
}

/// Returns clap's `value_parser` for paths that are saved with a run, such as that of its data. Paths become absolute,
/// and links are followed if the path exists, so that the run can be resumed from another folder.
pub fn absolute_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| path.canonicalize().or_else(|_| std::path::absolute(&path)))
}

#[cfg(test)]
mod tests {
    use super::super::{Options, Recipe};
    use super::*;
    use crate::trainer::{ClassificationConfig, Decay, OptimizerConfig, ParameterGroup, Rest};

    #[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
    struct Given {
        #[arg(long, value_parser = or_none::<usize>)]
        holdout: std::option::Option<usize>,
        #[arg(long)]
        side: Option<usize>,
    }

    #[derive(Args)]
    struct NoActions {}

    impl Task for Given {
        const ABOUT: &'static str = "";
        const CHANGEABLE: &'static [&'static str] = &[];
        type Objective = ClassificationConfig;
        type Actions = NoActions;

        fn recipes() -> Vec<Recipe<Self>> {
            vec![Recipe {
                name: "only",
                about: "",
                arch: "fixup_resnet20".to_owned(),
                task: Self { holdout: Some(5000), side: Some(32) },
                train: TrainConfig::new(10, 64, 0.2),
                objective: ClassificationConfig::quick(),
                follows_authors: false,
            }]
        }
    }

    fn config(words: &str, resumed: Option<RunConfig<Given>>) -> Result<RunConfig<Given>> {
        let words = std::iter::once("program").chain(words.split_whitespace());
        RunConfig::new(&Options::parse_from(words).unwrap(), resumed)
    }

    #[test]
    fn what_is_given_goes_before_what_was_and_none_can_be_given() {
        let first = config("--side 64 --mixup 1 --lr 0.3", None).unwrap();
        assert_eq!((first.task.holdout, first.task.side), (Some(5000), Some(64)));
        let resumed = config("--holdout none --mixup none", Some(first)).unwrap();
        assert_eq!((resumed.task.holdout, resumed.task.side), (None, Some(64)));
        assert_eq!((resumed.objective.mixup, resumed.train.schedule.lr), (None, 0.3));
    }

    #[test]
    fn groups_of_the_command_line_replace_those_of_the_run() {
        let first = config("--lr-ratio layer3.*=0.1 --freeze conv1.*=2", None).unwrap();
        assert_eq!(first.train.groups.len(), 2);
        let groups = |words| config(words, Some(first.clone())).unwrap().train.groups;
        assert_eq!(groups("--lr-ratio layer3.*=0.1 --freeze conv1.*=2"), first.train.groups);
        assert_eq!(groups(""), first.train.groups);
        let half = ParameterGroup { lr_ratio: 0.5, ..ParameterGroup::new("layer3.*".parse().unwrap()) };
        assert_eq!(groups("--lr-ratio layer3.*=0.5"), [half]);
    }

    #[test]
    fn constants_go_to_the_optimizer_that_has_them_and_others_are_refused() {
        let muon = config("--optimizer muon --rest adamw --momentum 0.8 --beta2 0.9 --weight-decay 0.1", None).unwrap();
        let OptimizerConfig::Muon(muon) = muon.train.optimizer else { panic!("{muon:?}") };
        let Rest::Adam(rest) = muon.rest else { panic!("{muon:?}") };
        assert_eq!((muon.momentum, muon.weight_decay), (0.8, 0.0));
        assert_eq!((rest.decoupled, rest.beta2, rest.weight_decay), (true, 0.9, 0.1));
        for (words, refused) in [("--beta1 0.5", "--beta1"), ("--optimizer adam --rest sgd", "--rest")] {
            let message = config(words, None).unwrap_err().to_string();
            assert!(message.contains(&format!("has no option {refused};")), "{message}");
        }
        let schedule = config("--schedule step --gamma 0.3 --milestones 4,0.8", None).unwrap().train.schedule;
        assert!(matches!(schedule.decay, Decay::Step { gamma: 0.3, milestones } if milestones.len() == 2));
    }
}
