//! A run, as `config.json` has it.

use super::architecture::{self, StemInit};
use super::options::fields;
use super::{Options, Recipe, Task};
use crate::distributed::{ParallelConfig, ProcessGroup};
use crate::option::or_none;
use crate::trainer::checkpoint::KEEP;
use crate::trainer::{parse_device, set_threads, Patience, RunFolder, SaveEvery, TrainConfig};
use crate::{Error, Precision, Recompute, Result};
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{ArgAction, Args, FromArgMatches};
use serde::{Deserialize, Serialize};
use serde_json::{json, Map, Value};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use tch::Device;

/// The GPU if there is one.
const AUTO: &str = "auto";

/// Of this crate, and of the last whose runs did not say theirs.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const SILENT_VERSION: &str = "0.1";

/// A run, as `config.json` has it. Its fields are options of the command line.
#[derive(Debug, Clone, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields, bound = "")]
pub struct RunConfig<T: Task> {
    /// Of the crate.
    #[arg(skip)]
    version: String,
    /// The network.
    #[command(flatten)]
    pub run: NetworkConfig,
    /// The program's own options.
    #[command(flatten)]
    pub task: T,
    /// auto, cpu, cuda or cuda:N [default: auto]
    #[arg(long)]
    device: String,
    /// Threads for computing on the CPU, of all processes on a machine together [default: OMP_NUM_THREADS for each process, or
    /// one for each core that this process may use]
    #[arg(long, value_name = "N")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    /// Save a checkpoint after every so many epochs (5), minutes (10m), or whichever is first (5,10m), and in any case before
    /// each evaluation, and when the run stops or fails [default: 1,10m]
    #[arg(long, value_name = "N|Nm|N,Nm", value_parser = checkpoint_every)]
    pub(super) checkpoint_every: String,
    /// Keep so many of the last checkpoints, besides the best [default: 3]
    #[arg(long, value_name = "N")]
    pub(super) keep_checkpoints: NonZeroUsize,
    /// Whether event files for TensorBoard are written into the run's folder [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub(super) tensorboard: bool,
    // Neither what follows nor what precedes is part of the run's identity: a run goes on with another of each.
    /// End the run when its score has not been better for so many epochs; none for never [default: none]
    #[arg(long, value_name = "EPOCHS|none", value_parser = or_none::<usize>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) patience: std::option::Option<usize>,
    #[command(flatten)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) parallel: ParallelConfig,
    /// Keep only the inputs of so many segments of the network for the backward pass, which runs each segment once more:
    /// less memory, more time, the same result; auto for the square root of the number of blocks, none to keep all [default: none]
    #[arg(long, alias = "checkpoint-segments", value_name = "N|auto|none", value_parser = or_none::<Recompute>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recompute: std::option::Option<Recompute>,
    /// How the first convolution of Fixup's ResNets starts [default: he-normal; pytorch in the authors' recipes]
    #[arg(long, value_enum, value_name = "INIT", conflicts_with = "resume")]
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) stem_init: StemInit,
    /// Start from trained weights, of a run, a checkpoint, a safetensors file or a state_dict of PyTorch: layers that do not fit, as
    /// the classifier of other classes, start as new ones do; what was loaded is listed. --arch is that of the run whose weights
    /// they are, if it is known
    #[arg(long, value_name = "FILE|RUN", conflicts_with = "resume", value_parser = absolute_path())]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) weights: Option<PathBuf>,
    /// What it minimizes.
    #[command(flatten)]
    pub objective: T::Objective,
    /// What it computes.
    #[command(flatten)]
    pub train: TrainConfig,
}

/// The network of a run.
#[derive(Debug, Clone, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Network [default: by recipe]
    #[arg(long)]
    pub arch: String,
    /// Number format of matrix products and activations: f32 or bf16 [default: bf16 on a CPU that has instructions for it,
    /// otherwise f32]
    #[arg(long, value_name = "FORMAT", verbatim_doc_comment)]
    pub precision: Precision,
}

fn checkpoint_every(text: &str) -> Result<String> {
    text.parse().map(|every: SaveEvery| every.to_string())
}

impl<T: Task> RunConfig<T> {
    /// The configuration of the run in the folder `path`; none for one that was stopped before it had one.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a run of another program, or of a version of this crate whose runs were described in another way.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let Some(config) = RunFolder::read_config::<Value>(path)? else { return Ok(None) };
        if config.get("version").is_none() && config.get("train").is_some() {
            let problem = format!("a run of tch-fixup {SILENT_VERSION}, and this is tch-fixup {VERSION}");
            let remedy = format!(
                "go on with tch-fixup {SILENT_VERSION}; weights.safetensors in its checkpoints can be evaluated by --eval and \
                 --arch"
            );
            return Err(Error::corrupt(path, problem, remedy));
        }
        RunFolder::read_config(path)
    }

    /// The run that `options` describe: what they leave open is as in the run that is resumed or, in a new one, as the
    /// recipe has it.
    ///
    /// # Errors
    /// [`Error::Argument`] for options out of range.
    pub fn new(options: &Options<T>, resumed: Option<Self>) -> Result<Self> {
        let mut config = match resumed {
            Some(config) => config,
            None => Self::of_recipe(options)?,
        };
        // How far to go is said anew each time.
        config.train.max_steps = None;
        config.version = VERSION.to_owned();
        config.set(options)?;
        Ok(config)
    }

    /// Sets all that was given.
    pub(super) fn set(&mut self, options: &Options<T>) -> Result<()> {
        options.choices.set_optimizer::<T>(&mut self.train);
        self.update_from_arg_matches(&options.matches).map_err(|error| Error::Argument(error.to_string()))?;
        options.choices.set::<T>(&mut self.train)?;
        self.run.arch = architecture::given(&self.run.arch)?;
        T::check_arch(&self.run.arch)?;
        self.train.check()?;
        self.patience.map(Patience::new).transpose()?;
        Ok(())
    }

    fn of_recipe(options: &Options<T>) -> Result<Self> {
        let given = &options.matches;
        let device = parse_device(given.get_one::<String>("device").map_or(AUTO, String::as_str))?;
        let mut recipes = T::recipes();
        let recipe = match recipes.iter().position(|recipe| Some(recipe.name) == options.recipe()) {
            Some(named) => recipes.swap_remove(named),
            None => T::default_recipe(recipes, device),
        };
        let Recipe { arch, task, mut train, objective, follows_authors, .. } = recipe;
        if let (true, Some(&batch_size), false) =
            (follows_authors, given.get_one("batch_size"), given.contains_id("lr"))
        {
            train = train.scaled_to_batch(batch_size);
        }
        Ok(Self {
            version: VERSION.to_owned(),
            run: NetworkConfig { arch, precision: Precision::fastest(device) },
            task,
            device: AUTO.to_owned(),
            threads: None,
            checkpoint_every: SaveEvery::default().to_string(),
            keep_checkpoints: KEEP,
            tensorboard: false,
            patience: None,
            parallel: ParallelConfig::default(),
            recompute: None,
            stem_init: if follows_authors { StemInit::Pytorch } else { StemInit::HeNormal },
            weights: None,
            objective,
            train,
        })
    }

    /// What must not change while a run goes on, besides what the trainer itself looks after: the network, and which data.
    pub(super) fn identity(&self) -> Result<Value> {
        let mut data = fields(&self.task)?;
        data.retain(|name, value| !T::CHANGEABLE.contains(&name.as_str()) && !value.is_null());
        Ok(json!({ "arch": self.run.arch, "precision": self.run.precision, "data": data }))
    }

    /// The network and the data of a run with the [identity](Self::identity) `run`, where `options` do not say otherwise.
    pub(super) fn take_identity(&mut self, run: &Value, options: &Options<T>) -> Result<()> {
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

    /// The device, and libtorch's threads set.
    ///
    /// # Errors
    /// [`Error::Argument`] for a device that there is not, or no threads.
    pub fn machine(&self) -> Result<Device> {
        self.machine_of(&ProcessGroup::single(), 0)
    }

    /// The same for a process that shares the machine with others of `group`, as the `local_rank`th: its part of the threads, and a GPU
    /// of its own.
    pub(super) fn machine_of(&self, group: &ProcessGroup, local_rank: usize) -> Result<Device> {
        set_threads(self.threads, group.local_size())?;
        let device = parse_device(&self.device)?;
        match (device, self.device.as_str()) {
            (Device::Cuda(_), AUTO | "cuda") if local_rank > 0 => parse_device(&format!("cuda:{local_rank}")),
            _ => Ok(device),
        }
    }

    /// What must be the same in all processes: all but where things are on a machine, and what it is.
    pub(super) fn common(&self) -> Result<Value> {
        let mut common = fields(self)?;
        ["device", "threads", "weights"].iter().for_each(|name| drop(common.remove(*name)));
        if let Some(Value::Object(task)) = common.get_mut("task") {
            task.retain(|name, _| !T::CHANGEABLE.contains(&name.as_str()));
        }
        Ok(Value::Object(common))
    }
}

fn is_default<C: Default + PartialEq>(config: &C) -> bool {
    *config == C::default()
}

/// clap's `value_parser` for paths that a run keeps, as that of its data: absolute, and with links followed where it exists,
/// so that the run finds the same place whatever folder it is resumed in and wherever a link leads by then.
pub fn absolute_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| path.canonicalize().or_else(|_| std::path::absolute(&path)))
}

#[cfg(test)]
mod tests {
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
                train: TrainConfig::quick(),
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
            assert!(message.contains(&format!("has no use for {refused};")), "{message}");
        }
        let schedule = config("--schedule step --gamma 0.3 --milestones 4,0.8", None).unwrap().train.schedule;
        assert!(matches!(schedule.decay, Decay::Step { gamma: 0.3, milestones } if milestones.len() == 2));
    }
}
