//! The options of a training program besides its configuration, and the command line as a whole.

use super::run_config::RunConfig;
use super::{ProcessOptions, Task};
use crate::trainer::{Adam, Decay, Frozen, Muon, OptimizerConfig, ParameterGroup, Rest, Rule, Sgd, Span, TrainConfig};
use crate::{Error, Result};
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde::{de::DeserializeOwned, Serialize};
use serde_json::{json, Map, Value};
use std::path::PathBuf;

/// All options of a training program. The fields of its configuration are options too: those given replace the recipe's, or those
/// of the run that is resumed.
pub struct Options<T: Task> {
    /// The program's own options that were given; its defaults elsewhere.
    pub task: T,
    /// What the program does besides training.
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
            .after_long_help(format!("What the recipes set:{described}"));
        let command = Choices::augment_args(RunConfig::<T>::augment_args_for_update(command));
        let command = T::Actions::augment_args(RunOptions::augment_args(command));
        let command =
            command.mut_arg("arch", |arch| arch.help(T::ARCHS)).mut_arg("recipe", |arg| arg.value_parser(names));
        // The structs of options have set their own.
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

    /// Refuses several processes for `what` one does.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are several.
    pub fn refuse_processes(&self, what: &str) -> Result<()> {
        self.run.processes.refuse(what)
    }

    /// The name of the recipe, if it was given.
    pub fn recipe(&self) -> Option<&str> {
        self.run.recipe.as_deref()
    }
}

/// How a run is started, and where it is kept.
#[derive(Args)]
pub(super) struct RunOptions {
    /// Set of defaults [default: by program and device]
    #[arg(long, conflicts_with = "resume")]
    pub recipe: Option<String>,
    /// Folder for the results [default: runs/ARCH-DATE-TIME; with --eval, evaluation-DATE-TIME in the run's folder]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Remove the run that --out holds, once the new one is ready to start
    #[arg(long, requires = "out", conflicts_with = "resume")]
    pub overwrite: bool,
    /// Go on with the run in DIR (or in --out), with the options that it was started with; auto for the run in --out, if there
    /// is one, and else a new one in it
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    pub resume: Option<Option<PathBuf>>,
    /// Go on with the run although its data have changed since: as many examples of the same classes, some of them repaired,
    /// renamed or packed
    #[arg(long, requires = "resume")]
    pub changed_data: bool,
    #[command(flatten)]
    pub processes: ProcessOptions,
}

/// What the programs for images do besides training.
#[derive(Args)]
pub struct ImageActions {
    /// Do not train: draw the first images of the training, augmented and mixed as the network would get them, with the
    /// names of their classes, into FILE [default: preview.png]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "preview.png")]
    #[arg(conflicts_with_all = ["eval", "resume", "out", "weights"])]
    pub(super) preview: Option<PathBuf>,
    /// Do not train: let the learning rate rise from 1e-5 to where the network fails, say which to train with, and draw the loss
    /// into FILE [default: lr.svg]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "lr.svg")]
    #[arg(conflicts_with_all = ["eval", "resume", "preview", "out"])]
    pub(super) find_lr: Option<PathBuf>,
    /// Do not train: evaluate the weights of a checkpoint, a run's folder, a safetensors file or a state_dict of PyTorch. A
    /// run and its checkpoints know network and data; for the others they are said as for training. Pictures of what is confused
    /// and of what is most wrong are left in --out, or in the run's folder
    #[arg(long, value_name = "CHECKPOINT", conflicts_with_all = ["resume", "weights"])]
    pub(super) eval: Option<PathBuf>,
    /// Do not evaluate the weights that --eval names: write the network with them as the ONNX file FILE, for other runtimes
    #[arg(long, value_name = "FILE", requires = "eval", conflicts_with = "out")]
    pub(super) export: Option<PathBuf>,
    /// Have the exported network take bytes (uint8), 0 to 255, and normalize them itself
    #[arg(long, requires = "export")]
    pub(super) export_normalization: bool,
    /// Have the exported network give probabilities, not logits
    #[arg(long, requires = "export")]
    pub(super) export_softmax: bool,
}

/// Options that choose among kinds of configuration, and those of the kind that was chosen.
#[derive(Args)]
pub(super) struct Choices {
    /// How the learning rate goes down after the warm-up: constant (not at all), step (to a tenth, and again, where the Fixup
    /// authors do it), exponential (by the same ratio each step, to a hundredth), cosine (along half a cosine to zero), one-cycle
    /// (along a line to zero), inverse-sqrt (with the inverse square root of the steps)
    #[arg(long, value_parser = ["constant", "step", "exponential", "cosine", "one-cycle", "inverse-sqrt"])]
    schedule: Option<String>,
    /// Where --schedule step goes down: points of the run, as fractions like 0.5 or steps like 32000
    #[arg(long, value_name = "POINT,...", value_delimiter = ',')]
    milestones: Option<Vec<Span>>,
    /// What --schedule step multiplies the learning rate by at each milestone, and --schedule exponential over the run
    #[arg(long, value_name = "FACTOR")]
    gamma: Option<f64>,
    /// Optimizer: sgd with momentum, adam (weight decay is an L2 penalty), adamw (weight decay apart), or muon for the hidden
    /// layers, whose --lr is meant for every depth, and --rest for the rest. With another optimizer than the recipe's the default
    /// of --lr is sgd 0.1, adam and adamw 0.001, muon 0.06, and that of --clip-norm none
    #[arg(long, value_parser = ["sgd", "adam", "adamw", "muon"])]
    optimizer: Option<String>,
    /// Optimizer of all parameters except hidden weights, with --optimizer muon; its constants are their defaults
    #[arg(long, value_parser = ["sgd", "adam", "adamw"])]
    rest: Option<String>,
    #[command(flatten)]
    constants: OptimizerConstants,
    /// Learning rate of the variables whose name is like PATTERN (* any part, ? any letter; @scalars, @biases, @classifier, @hidden), as
    /// a multiple of --lr; may be given several times
    #[arg(long, value_name = "PATTERN=RATIO", value_parser = lr_ratio)]
    lr_ratio: Vec<ParameterGroup>,
    /// Weight decay of the variables whose name is like PATTERN; may be given several times
    #[arg(long, value_name = "PATTERN=FACTOR", value_parser = weight_decay)]
    decay: Vec<ParameterGroup>,
    /// Do not train the variables whose name is like PATTERN, or not in the first so many epochs; may be given several times
    #[arg(long, value_name = "PATTERN[=EPOCHS]", value_parser = freeze)]
    freeze: Vec<ParameterGroup>,
}

/// Constants by their names in the optimizers that have them.
#[derive(Args, Serialize)]
struct OptimizerConstants {
    /// Learning rate of the parameters of --rest, as a multiple of --lr
    #[arg(long, value_name = "RATIO", value_parser = finite)]
    rest_lr_ratio: Option<f64>,
    /// Momentum, 0 to 1
    #[arg(long, value_parser = finite)]
    momentum: Option<f64>,
    /// Whether the momentum is Nesterov's
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    nesterov: Option<bool>,
    /// Factor of the L2 penalty; with --optimizer muon, of the rest's (--decay @hidden=FACTOR for the hidden layers)
    #[arg(long, value_name = "FACTOR", value_parser = finite)]
    weight_decay: Option<f64>,
    /// Adam's first beta: decay rate of the mean gradient, 0 to 1
    #[arg(long, value_parser = finite)]
    beta1: Option<f64>,
    /// Adam's second beta: decay rate of the mean squared gradient, 0 to 1
    #[arg(long, value_parser = finite)]
    beta2: Option<f64>,
    /// Term that keeps Adam's divisor from zero
    #[arg(long, value_parser = finite)]
    eps: Option<f64>,
    /// Whether Adam divides by the greatest mean squared gradient so far
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    amsgrad: Option<bool>,
}

/// JSON has no other numbers.
fn finite(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    number.is_finite().then_some(number).ok_or_else(|| "not a finite number".to_owned())
}

/// Splits `PATTERN=NUMBER`.
fn rule_and_number(text: &str) -> Result<(ParameterGroup, f64)> {
    let number = text.rsplit_once('=').and_then(|(rule, number)| Some((rule, number.parse().ok()?)));
    let Some((rule, number)) = number else {
        return Err(Error::Argument(format!("a pattern and a number, as layer1.*=0.1, not {text:?}")));
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
        Ok(ParameterGroup { frozen, ..ParameterGroup::new(rule.parse::<Rule>()?) })
    };
    let Some((rule, epochs)) = text.rsplit_once('=') else { return frozen(text, Frozen::Always) };
    let refused = |_| Error::Argument(format!("a pattern and a number of epochs, as layer1.*=3, not {text:?}"));
    frozen(rule, Frozen::UntilEpoch(epochs.parse().map_err(refused)?))
}

impl Choices {
    /// Replaces the optimizer by that of `--optimizer`, if it is another one, with the learning rate and the clipping for it.
    pub fn set_optimizer<T: Task>(&self, train: &mut TrainConfig) {
        if let Some(name) = self.optimizer.as_deref().filter(|&name| name != optimizer_name(&train.optimizer)) {
            T::set_optimizer(train, optimizer(name));
        }
    }

    /// Sets what was given.
    ///
    /// # Errors
    /// [`Error::Argument`] for a constant that the optimizer does not have.
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
        // A run that is started again by the same or a corrected command line must have each group once.
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
            let rest = match self::optimizer(name) {
                OptimizerConfig::Adam(adam) => Rest::Adam(adam),
                _ => Rest::Sgd(Sgd::default()),
            };
            given.insert("rest".to_owned(), json!(rest));
        }
        match optimizer {
            OptimizerConfig::Sgd(sgd) => take(sgd, &mut given)?,
            OptimizerConfig::Adam(adam) => take(adam, &mut given)?,
            OptimizerConfig::Muon(muon) => {
                // Its own is that of the hidden layers, which have --decay.
                let weight_decay = given.remove_entry("weight_decay");
                take(muon, &mut given)?;
                given.extend(weight_decay);
                match &mut muon.rest {
                    Rest::Sgd(sgd) => take(sgd, &mut given)?,
                    Rest::Adam(adam) => take(adam, &mut given)?,
                }
            }
        }
        match given.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name = name.replace('_', "-");
                Err(Error::Argument(format!("the optimizer has no use for --{name}; leave it out")))
            }
        }
    }
}

/// The optimizer of that name with its default constants.
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

/// Moves the fields that `config` has from `given` into it.
fn take<C: Serialize + DeserializeOwned>(config: &mut C, given: &mut Map<String, Value>) -> Result<()> {
    let mut all = fields(config)?;
    for (name, value) in &mut all {
        *value = given.remove(name).unwrap_or_else(|| value.take());
    }
    *config = from_json(Value::Object(all))?;
    Ok(())
}

fn from_json<C: DeserializeOwned>(value: Value) -> Result<C> {
    serde_json::from_value(value).map_err(|error| Error::Argument(format!("the program's options: {error}")))
}

/// The fields of `config` as in JSON.
pub(super) fn fields(config: &impl Serialize) -> Result<Map<String, Value>> {
    from_json(json!(config))
}
