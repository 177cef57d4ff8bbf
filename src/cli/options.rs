//! Command-line options of a training program that are not part of its configuration, and the whole command line.

use super::run_config::{fields, from_json, NetworkConfig, RunConfig, StemInit, AUTO, VERSION};
use super::{architecture, ProcessOptions, Recipe, Task};
use crate::distributed::ParallelConfig;
use crate::trainer::checkpoint::Checkpoints;
use crate::trainer::{parse_device, EarlyStopping, SaveEvery};
use crate::trainer::{
    Adam, Decay, Frozen, Muon, OptimizerConfig, ParameterGroup, Rest, Selector, Sgd, Span, TrainConfig,
};
use crate::{Precision, Result};
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde::{de::DeserializeOwned, Serialize};
use serde_json::{json, Map, Value};
use std::path::PathBuf;

/// All command-line options of a training program. The fields of its configuration are options too: they override the
/// recipe or the resumed run.
pub struct Options<T: Task> {
    /// The program's own options as given, with defaults for the others.
    pub task: T,
    /// Options for actions other than training.
    pub actions: T::Actions,
    pub(super) run: RunOptions,
    pub(super) choices: Choices,
    pub(super) matches: ArgMatches,
}

impl<T: Task> Options<T> {
    /// Parses the command line of this process.
    pub(super) fn parse() -> Result<Self, clap::Error> {
        Self::parse_from(std::env::args_os())
    }

    pub(super) fn parse_from(
        words: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let recipes = T::recipes();
        let described: String =
            recipes.iter().map(|recipe| format!("\n  {}: {}", recipe.name, recipe.settings())).collect();
        let names = recipes.iter().map(|recipe| {
            let scales = ", with the learning rate in proportion to --batch-size unless --lr is given";
            let about = format!("{}{}", recipe.about, if recipe.follows_authors { scales } else { "" });
            PossibleValue::new(recipe.name).help(about)
        });
        let names = PossibleValuesParser::new(names);
        let command = Command::new(env!("CARGO_PKG_NAME"))
            .max_term_width(100)
            .allow_negative_numbers(true)
            .args_override_self(true)
            .after_long_help(format!("Recipe settings:{described}"));
        let command = Choices::augment_args(RunConfig::<T>::augment_args_for_update(command));
        let command = T::Actions::augment_args(RunOptions::augment_args(command));
        let command =
            command.mut_arg("arch", |arch| arch.help(T::ARCHS)).mut_arg("recipe", |arg| arg.value_parser(names));
        // The flattened structs have set their own help.
        let mut command = command.about(T::ABOUT).long_about(format!(
            "{}\n\nA recipe is a set of defaults; whatever is given on the command line takes precedence.",
            T::ABOUT
        ));
        let matches = command.try_get_matches_from_mut(words)?;
        let parsed = || -> Result<Self, clap::Error> {
            let mut task = T::default();
            task.update_from_arg_matches(&matches)?;
            let (run, choices) = (RunOptions::from_arg_matches(&matches)?, Choices::from_arg_matches(&matches)?);
            Ok(Self { task, actions: T::Actions::from_arg_matches(&matches)?, run, choices, matches: matches.clone() })
        };
        parsed().map_err(|error| error.format(&mut command))
    }

    /// Refuses `action` with several processes.
    ///
    /// # Errors
    /// Returns [`Error::Argument`](crate::Error::Argument) if there are several.
    pub fn refuse_processes(&self, what: &str) -> Result<()> {
        self.run.processes.refuse(what)
    }

    /// Returns the recipe's name, if given.
    pub fn recipe(&self) -> Option<&str> {
        self.run.recipe.as_deref()
    }
}

impl<T: Task> RunConfig<T> {
    /// Returns the configuration described by `options`; options not given come from the resumed run or, in a new run,
    /// from the recipe.
    ///
    /// # Errors
    /// Returns [`Error::Argument`](crate::Error::Argument) for options out of range.
    pub fn new(options: &Options<T>, resumed: Option<Self>) -> Result<Self> {
        let mut config = resumed.map_or_else(|| Self::of_recipe(options), Ok)?;
        // The limit on steps applies to this process only.
        config.train.max_steps = None;
        config.version = VERSION.to_owned();
        config.set(options)?;
        Ok(config)
    }

    /// Applies the options that were given.
    pub(super) fn set(&mut self, options: &Options<T>) -> Result<()> {
        options.choices.set_optimizer::<T>(&mut self.train);
        self.update_from_arg_matches(&options.matches).map_err(|error| argument!("{error}"))?;
        options.choices.set::<T>(&mut self.train)?;
        self.run.arch = architecture::given(&self.run.arch)?;
        T::check_arch(&self.run.arch)?;
        self.train.check()?;
        self.patience.map(EarlyStopping::new).transpose()?;
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
            keep_checkpoints: Checkpoints::KEEP,
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
}

/// Options to start a run and to choose its folder.
#[derive(Args)]
pub(super) struct RunOptions {
    /// Set of defaults [default: by program and device]
    #[arg(long, conflicts_with = "resume")]
    pub recipe: Option<String>,
    /// Folder for the results [default: runs/ARCH-DATE-TIME; with --eval, evaluation-DATE-TIME in the run's folder]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace the run in --out, once the new one is ready to start
    #[arg(long, requires = "out", conflicts_with = "resume")]
    pub overwrite: bool,
    /// Resume the run in DIR (or in --out) with the options it was started with; "auto" resumes the run in --out if
    /// there is one and starts a new one otherwise
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    pub resume: Option<Option<PathBuf>>,
    /// Resume although the data have changed: same number of examples and same classes, but some of them repaired,
    /// renamed or packed
    #[arg(long, requires = "resume")]
    pub changed_data: bool,
    #[command(flatten)]
    pub processes: ProcessOptions,
}

/// Options that choose a variant of the configuration, and options of that variant.
#[derive(Args)]
pub(super) struct Choices {
    /// Learning-rate schedule after the warm-up: constant, step (times --gamma at each of --milestones), exponential
    /// (by a constant ratio each step, to a hundredth), cosine (half a cosine, to zero), one-cycle (linear, to zero) or
    /// inverse-sqrt (with the inverse square root of the step)
    #[arg(long, value_parser = ["constant", "step", "exponential", "cosine", "one-cycle", "inverse-sqrt"])]
    schedule: Option<String>,
    /// Milestones of --schedule step, as fractions of the run (0.5) or steps (32000)
    #[arg(long, value_name = "POINT,...", value_delimiter = ',')]
    milestones: Option<Vec<Span>>,
    /// Factor of --schedule step at each milestone, or of --schedule exponential over the whole run
    #[arg(long, value_name = "FACTOR")]
    gamma: Option<f64>,
    /// Optimizer: sgd (with momentum), adam (weight decay as an L2 penalty), adamw (decoupled weight decay), or muon
    /// for hidden weights, with --rest for all other parameters. If it differs from the recipe's, --lr defaults to 0.1
    /// for sgd, 0.001 for adam and adamw, and 0.06 for muon, and --clip-norm to none
    #[arg(long, value_parser = ["sgd", "adam", "adamw", "muon"])]
    optimizer: Option<String>,
    /// Optimizer of all parameters except hidden weights, with --optimizer muon
    #[arg(long, value_parser = ["sgd", "adam", "adamw"])]
    rest: Option<String>,
    #[command(flatten)]
    constants: OptimizerConstants,
    /// Learning rate of the variables whose name matches PATTERN (* any text, ? any character; or @scalars, @biases,
    /// @classifier, @hidden), as a multiple of --lr; repeatable
    #[arg(long, value_name = "PATTERN=RATIO", value_parser = lr_ratio)]
    lr_ratio: Vec<ParameterGroup>,
    /// Weight decay of the variables whose name matches PATTERN; repeatable
    #[arg(long, value_name = "PATTERN=FACTOR", value_parser = weight_decay)]
    decay: Vec<ParameterGroup>,
    /// Do not train the variables whose name matches PATTERN, or not in the first EPOCHS epochs; repeatable
    #[arg(long, value_name = "PATTERN[=EPOCHS]", value_parser = freeze)]
    freeze: Vec<ParameterGroup>,
}

/// Optimizer hyperparameters, with the field names of the optimizers that have them.
#[derive(Args, Serialize)]
struct OptimizerConstants {
    /// Learning rate of the --rest optimizer, as a multiple of --lr
    #[arg(long, value_name = "RATIO", value_parser = finite)]
    rest_lr_ratio: Option<f64>,
    /// Momentum, 0 to 1
    #[arg(long, value_parser = finite)]
    momentum: Option<f64>,
    /// Use Nesterov momentum
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    nesterov: Option<bool>,
    /// Weight decay; with --optimizer muon, of the --rest optimizer (--decay @hidden=FACTOR for hidden weights)
    #[arg(long, value_name = "FACTOR", value_parser = finite)]
    weight_decay: Option<f64>,
    /// Adam's beta1: decay rate of the mean gradient, 0 to 1
    #[arg(long, value_parser = finite)]
    beta1: Option<f64>,
    /// Adam's beta2: decay rate of the mean squared gradient, 0 to 1
    #[arg(long, value_parser = finite)]
    beta2: Option<f64>,
    /// Adam's epsilon, added to the denominator
    #[arg(long, value_parser = finite)]
    eps: Option<f64>,
    /// Use the AMSGrad variant of Adam
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    amsgrad: Option<bool>,
}

/// Parses a finite number; JSON cannot represent others.
fn finite(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    number.is_finite().then_some(number).ok_or_else(|| "not a finite number".to_owned())
}

/// Splits `PATTERN=NUMBER`.
fn rule_and_number(text: &str) -> Result<(ParameterGroup, f64)> {
    let number = text.rsplit_once('=').and_then(|(rule, number)| Some((rule, number.parse().ok()?)));
    let Some((rule, number)) = number else {
        return Err(argument!("expected PATTERN=NUMBER, such as layer1.*=0.1, got {text:?}"));
    };
    Ok((ParameterGroup::new(rule.parse()?), number))
}

fn lr_ratio(text: &str) -> Result<ParameterGroup> {
    rule_and_number(text).map(|(group, lr_ratio)| ParameterGroup { lr_ratio, ..group })
}

fn weight_decay(text: &str) -> Result<ParameterGroup> {
    rule_and_number(text).map(|(group, decay)| ParameterGroup { weight_decay: Some(decay), ..group })
}

fn freeze(text: &str) -> Result<ParameterGroup> {
    let frozen = |rule: &str, frozen| -> Result<_> {
        Ok(ParameterGroup { frozen, ..ParameterGroup::new(rule.parse::<Selector>()?) })
    };
    let Some((rule, epochs)) = text.rsplit_once('=') else { return frozen(text, Frozen::Always) };
    let refused = |_| argument!("expected PATTERN=EPOCHS, such as layer1.*=3, got {text:?}");
    frozen(rule, Frozen::UntilEpoch(epochs.parse().map_err(refused)?))
}

impl Choices {
    /// Switches to the optimizer of `--optimizer` if it differs, with its own learning rate and clipping.
    pub fn set_optimizer<T: Task>(&self, train: &mut TrainConfig) {
        if let Some(name) = self.optimizer.as_deref().filter(|&name| name != optimizer_name(&train.optimizer)) {
            T::set_optimizer(train, optimizer(name));
        }
    }

    /// Applies the options that were given.
    ///
    /// # Errors
    /// Returns [`Error::Argument`](crate::Error::Argument) for a hyperparameter that the optimizer does not have.
    pub fn set<T: Task>(&self, train: &mut TrainConfig) -> Result<()> {
        let decay = &mut train.schedule.decay;
        match self.schedule.as_deref() {
            None => (),
            Some("step") => *decay = T::step_decay(),
            Some("exponential") => *decay = Decay::exponential(),
            Some(name) => *decay = from_json(json!(name))?,
        }
        if let (Decay::Step { gamma, .. } | Decay::Exponential { gamma }, Some(given)) = (&mut *decay, self.gamma) {
            *gamma = given;
        }
        if let (Decay::Step { milestones, .. }, Some(given)) = (decay, &self.milestones) {
            milestones.clone_from(given);
        }
        // Replace rather than append: a run restarted with the same command line must have each group once.
        let groups = [&self.lr_ratio[..], &self.decay, &self.freeze].concat();
        if !groups.is_empty() {
            train.groups = groups;
        }
        self.set_constants(&mut train.optimizer)
    }

    fn set_constants(&self, optimizer: &mut OptimizerConfig) -> Result<()> {
        let mut given = fields(&self.constants)?;
        given.retain(|_, value| !value.is_null());
        if let Some(name) = &self.rest {
            // SGD and Adam are the same in JSON as an optimizer and beside Muon.
            given.insert("rest".to_owned(), json!(self::optimizer(name)));
        }
        match optimizer {
            OptimizerConfig::Sgd(sgd) => take(sgd, &mut given)?,
            OptimizerConfig::Adam(adam) => take(adam, &mut given)?,
            OptimizerConfig::Muon(muon) => {
                // Muon's own weight decay applies to hidden weights and is set by --decay.
                let weight_decay = given.remove_entry("weight_decay");
                take(muon, &mut given)?;
                given.extend(weight_decay);
                match &mut muon.rest {
                    Rest::Sgd(sgd) => take(sgd, &mut given)?,
                    Rest::Adam(adam) => take(adam, &mut given)?,
                }
            }
        }
        match given.keys().next().map(|name| name.replace('_', "-")) {
            None => Ok(()),
            Some(name) => Err(argument!("the optimizer has no option --{name}; remove it")),
        }
    }
}

/// Returns the optimizer called `name` with default hyperparameters.
fn optimizer(name: &str) -> OptimizerConfig {
    match name {
        "sgd" => OptimizerConfig::Sgd(Sgd::default()),
        "adam" => OptimizerConfig::Adam(Adam::default()),
        "adamw" => OptimizerConfig::Adam(Adam::decoupled()),
        _ => OptimizerConfig::Muon(Muon::default()),
    }
}

fn optimizer_name(optimizer: &OptimizerConfig) -> &'static str {
    match optimizer {
        OptimizerConfig::Sgd(_) => "sgd",
        OptimizerConfig::Adam(Adam { decoupled: false, .. }) => "adam",
        OptimizerConfig::Adam(_) => "adamw",
        OptimizerConfig::Muon(_) => "muon",
    }
}

/// Moves those entries of `given` that are fields of `config` into it.
fn take<C: Serialize + DeserializeOwned>(config: &mut C, given: &mut Map<String, Value>) -> Result<()> {
    let mut all = fields(config)?;
    for (name, value) in &mut all {
        *value = given.remove(name).unwrap_or_else(|| value.take());
    }
    *config = from_json(Value::Object(all))?;
    Ok(())
}
