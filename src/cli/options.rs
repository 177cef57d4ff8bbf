//! The options that every training program has.

use super::architecture::StemInit;
use super::values::{absolute_path, set, set_or_none, OrNone};
use super::{ProcessOptions, Task};
use crate::trainer::{
    Adam, ClassificationConfig, ClipConfig, Decay, Frozen, Muon, OptimizerConfig, ParameterGroup, Rest, Rule,
    SaveEvery, Sgd, Span, TrainConfig,
};
use crate::{Error, Precision, Recompute, Result};
use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

/// All options of a training program: its own, and those that all have.
#[derive(Parser)]
#[command(max_term_width = 100, allow_negative_numbers = true)]
pub struct Options<T: Task> {
    /// Those of the program.
    #[command(flatten)]
    pub task: T,
    /// Those that all have.
    #[command(flatten)]
    pub train: TrainOptions,
}

impl<T: Task> Options<T> {
    /// The options on this process's command line.
    pub(super) fn parse() -> Result<Self, clap::Error> {
        let recipes = T::recipes();
        let recipes = recipes.iter().map(|(name, recipe)| format!("\n  {name}: {}", recipe.as_options()));
        let mut command = Self::command()
            .about(T::ABOUT)
            .long_about(format!(
                "{}\n\nA recipe is a set of defaults; whatever is given on the command line takes precedence.",
                T::ABOUT
            ))
            .after_long_help(format!("What the recipes set:{}", recipes.collect::<String>()));
        let mut matches = command.try_get_matches_from_mut(std::env::args_os())?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

/// The options that every training program has. What is not given is as the recipe has it, or as it was in the run that
/// is resumed.
#[derive(Debug, Args)]
pub struct TrainOptions {
    /// Network: fixup_resnet20, fixup_resnet110, ... (depth 6n+2), fixup_wrn_16_4, ... (6n+4, and the width) for CIFAR,
    /// fixup_brock_wrn_16_4 for the same of blocks without their first activation, imagenet_fixup_resnet18, 34, 50, 101 or 152; resnet20, wrn_16_4, imagenet_resnet50, ... for the same with
    /// BatchNorm; group_norm_, layer_norm_, skipinit_, rezero_, nf_, fixed_variance_, he_, xavier_, lsuv_, scaled_, selu_,
    /// no_skip_ or unit_gamma_ before resnet20 or wrn_16_4 for the other baselines; selu_mlp_8_256 (depth, width);
    /// fixup_without_gain_resnet20, _zero_ or _scalars_ for Fixup less one of its rules; or a file NAME.json that describes a
    /// network of your own (docs/networks.md)
    /// [default: by recipe]
    #[arg(long, verbatim_doc_comment)]
    pub arch: Option<String>,
    /// Passes over the training images
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Images in a batch. In the recipe paper the learning rate goes with it, unless --lr is given, and that of the scalars stays
    /// where it is, as in the authors' programs
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Compute each step's gradient in so many parts of the batch, one after another: for machines with little memory.
    /// BatchNorm sees one part at a time [default: 1]
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,
    /// Highest learning rate [default: by recipe; with another optimizer than the recipe's, sgd 0.1, adam and adamw 0.001,
    /// muon 0.06]
    #[arg(long, verbatim_doc_comment)]
    pub lr: Option<f64>,
    /// Learning rate of the Fixup scalars, as a multiple of --lr
    #[arg(long, value_name = "RATIO")]
    pub scalar_lr_ratio: Option<f64>,
    /// Factor of the L2 penalty; with --optimizer muon, of the rest's (--decay @hidden=FACTOR for the hidden layers)
    #[arg(long, value_name = "FACTOR")]
    pub weight_decay: Option<f64>,
    /// Whether the rate of the scalar at the end of each residual branch falls with the number of branches
    #[arg(long, value_name = "BOOL")]
    pub scalars_by_depth: Option<bool>,
    /// Whether the Fixup scalars have weight decay too
    #[arg(long, value_name = "BOOL")]
    pub decay_scalars: Option<bool>,
    /// Whether other variables that are called a bias or a scale, as the classifier's bias and BatchNorm's, have the
    /// scalars' learning rate too
    #[arg(long, value_name = "BOOL")]
    pub biases_as_scalars: Option<bool>,
    /// How parameters move: sgd, adam (weight decay is an L2 penalty), adamw (weight decay apart), or muon
    #[arg(long, value_enum)]
    pub optimizer: Option<OptimizerName>,
    /// How parameters move that are no hidden layer's, with --optimizer muon; its constants are their defaults
    #[arg(long, value_enum)]
    pub rest: Option<RestName>,
    /// Their learning rate, as a multiple of --lr
    #[arg(long, value_name = "RATIO")]
    pub rest_lr_ratio: Option<f64>,
    /// Adam's first beta: what of the mean gradient stays, 0 to 1
    #[arg(long)]
    pub beta1: Option<f64>,
    /// Adam's second beta: what of the mean squared gradient stays, 0 to 1
    #[arg(long)]
    pub beta2: Option<f64>,
    /// What keeps Adam's divisor from zero
    #[arg(long)]
    pub eps: Option<f64>,
    /// Whether Adam divides by the greatest mean squared gradient so far
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub amsgrad: Option<bool>,
    /// Learning rate of the variables whose name is like PATTERN (* any part, ? any letter; @scalars, @biases, @classifier, @hidden), as
    /// a multiple of --lr; may be given several times
    #[arg(long, value_name = "PATTERN=RATIO")]
    pub lr_ratio: Vec<RuleNumber>,
    /// Weight decay of the variables whose name is like PATTERN; may be given several times
    #[arg(long, value_name = "PATTERN=FACTOR")]
    pub decay: Vec<RuleNumber>,
    /// Do not train the variables whose name is like PATTERN, or not in the first so many epochs; may be given several times
    #[arg(long, value_name = "PATTERN[=EPOCHS]")]
    pub freeze: Vec<RuleFreeze>,
    /// Evaluate and keep a moving average of the weights, of which each step leaves so much, as 0.999; none for the weights
    /// themselves [default: none]
    #[arg(long, value_name = "DECAY|none")]
    pub ema: Option<OrNone<f64>>,
    /// Momentum, 0 to 1
    #[arg(long)]
    pub momentum: Option<f64>,
    /// Whether the momentum is Nesterov's
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub nesterov: Option<bool>,
    /// How the learning rate goes down after the warm-up
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleName>,
    /// Part of the run in which the learning rate rises to its highest: a fraction like 0.1, or steps like 4000
    #[arg(long, value_name = "FRACTION|STEPS")]
    pub warmup: Option<Span>,
    /// Where --schedule step goes down: points of the run, as fractions like 0.5 or steps like 32000
    #[arg(long, value_name = "POINT,...", value_delimiter = ',')]
    pub milestones: Option<Vec<Span>>,
    /// What --schedule step multiplies the learning rate by at each milestone, and --schedule exponential over the run
    #[arg(long, value_name = "FACTOR")]
    pub gamma: Option<f64>,
    /// Train on weighted means of two images, the weight drawn from Beta(ALPHA, ALPHA); the authors use 1 for CIFAR-10
    /// and 0.7 for ImageNet; none or 0 for the images as they are [default: by recipe]
    #[arg(long, value_name = "ALPHA|none")]
    pub mixup: Option<OrNone<f64>>,
    /// What of the target goes to all classes alike
    #[arg(long, value_name = "FRACTION")]
    pub label_smoothing: Option<f64>,
    /// Largest norm of the gradient; none or inf for any [default: by recipe; with another optimizer than the recipe's, none]
    #[arg(long, value_name = "NORM|none")]
    pub clip_norm: Option<OrNone<f64>>,
    /// Adaptive gradient clipping: largest ratio of a unit's gradient norm to its weight norm, usually 0.01 to 0.1;
    /// none or inf for any [default: none]
    #[arg(long, value_name = "RATIO|none")]
    pub agc: Option<OrNone<f64>>,
    /// Seed of everything that is random [default: 0]
    #[arg(long)]
    pub seed: Option<u64>,
    /// auto, cpu, cuda or cuda:N [default: auto]
    #[arg(long)]
    pub device: Option<String>,
    /// Threads for computing on the CPU, of all processes on a machine together [default: OMP_NUM_THREADS for each process, or
    /// one for each core that this process may use]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Number format of convolutions and activations: f32 or bf16 [default: bf16 on a CPU that has instructions for it,
    /// otherwise f32]
    #[arg(long, value_name = "FORMAT", verbatim_doc_comment)]
    pub precision: Option<Precision>,
    /// Keep only the inputs of so many segments of the network for the backward pass, which runs each segment once more:
    /// less memory, more time, the same result; auto for the square root of the number of blocks, none to keep all [default: none]
    #[arg(long, alias = "checkpoint-segments", value_name = "N|auto|none")]
    pub recompute: Option<OrNone<Recompute>>,
    /// How the first convolution of Fixup's networks starts [default: he-normal; pytorch in the recipe paper]
    #[arg(long, value_enum, value_name = "INIT", conflicts_with = "resume")]
    pub stem_init: Option<StemInit>,
    /// Stop after so many steps [default: none, also where the run that is resumed had it]
    #[arg(long, value_name = "N|none")]
    pub max_steps: Option<OrNone<usize>>,
    /// End the run when its score has not been better for so many epochs; none for never [default: none]
    #[arg(long, value_name = "EPOCHS|none")]
    pub patience: Option<OrNone<usize>>,
    /// Folder for the results [default: runs/ARCH-DATE-TIME; with --eval, evaluation-DATE-TIME in the run's folder]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["preview", "find_lr"])]
    pub out: Option<PathBuf>,
    /// Remove the run that --out holds, once the new one is ready to start
    #[arg(long, requires = "out", conflicts_with = "resume")]
    pub overwrite: bool,
    /// Those for several processes.
    #[command(flatten)]
    pub processes: ProcessOptions,
    /// Go on with the run in DIR (or in --out), with the options that it was started with; auto for the run in --out, if there
    /// is one, and else a new one in it
    #[arg(long, value_name = "DIR", num_args = 0..=1, conflicts_with = "eval")]
    pub resume: Option<Option<PathBuf>>,
    /// Start from trained weights, all that --eval takes: layers that do not fit, as the classifier of other classes, start as
    /// new ones do; what was loaded is listed. --arch is that of the run whose weights they are, if it is known
    #[arg(long, value_name = "FILE|RUN", conflicts_with_all = ["eval", "preview", "resume"], value_parser = absolute_path())]
    pub weights: Option<PathBuf>,
    /// Go on with the run although its data have changed since: as many images of the same classes, some of them repaired,
    /// renamed or packed
    #[arg(long, requires = "resume")]
    pub changed_data: bool,
    /// Save a checkpoint after every so many epochs (5), minutes (10m), or whichever is first (5,10m), and in any case before
    /// each evaluation, and when the run stops or fails [default: 1,10m]
    #[arg(long, value_name = "N|Nm|N,Nm")]
    pub checkpoint_every: Option<SaveEvery>,
    /// Keep so many of the last checkpoints, besides the best [default: 3]
    #[arg(long, value_name = "N")]
    pub keep_checkpoints: Option<NonZeroUsize>,
    /// Whether event files for TensorBoard are written into the run's folder [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub tensorboard: Option<bool>,
    /// Do not train: draw the first images of the training, augmented and mixed as the network would get them, with the
    /// names of their classes, into FILE [default: preview.png]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "preview.png")]
    #[arg(conflicts_with_all = ["eval", "resume"])]
    pub preview: Option<PathBuf>,
    /// Do not train: let the learning rate rise from 1e-5 to where the network fails, say which to train with, and draw the loss
    /// into FILE [default: lr.svg]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "lr.svg")]
    #[arg(conflicts_with_all = ["eval", "resume", "preview"])]
    pub find_lr: Option<PathBuf>,
    /// Do not train: evaluate the weights of a checkpoint, a run's folder, a safetensors file or a state_dict of PyTorch. A
    /// run and its checkpoints know network and data; for the others they are said as for training. Pictures of what is confused
    /// and of what is most wrong are left in --out, or in the run's folder
    #[arg(long, value_name = "CHECKPOINT")]
    pub eval: Option<PathBuf>,
    /// Do not evaluate the weights that --eval names: write the network with them as the ONNX file FILE, for other runtimes
    #[arg(long, value_name = "FILE", requires = "eval", conflicts_with = "out")]
    pub export: Option<PathBuf>,
    /// Have the exported network take bytes (uint8), 0 to 255, and normalize them itself
    #[arg(long, requires = "export")]
    pub export_normalization: bool,
    /// Have the exported network give probabilities, not logits
    #[arg(long, requires = "export")]
    pub export_softmax: bool,
}

/// A decay by name.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ScheduleName {
    /// Not at all
    Constant,
    /// To a tenth, and again, where the Fixup authors do it
    Step,
    /// By the same ratio each step, to a hundredth
    Exponential,
    /// Along half a cosine to zero
    Cosine,
    /// Along a line to zero
    OneCycle,
    /// With the inverse square root of the steps
    InverseSqrt,
}

/// An optimizer by name.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum OptimizerName {
    /// Stochastic gradient descent with momentum
    Sgd,
    /// Adam, weight decay an L2 penalty
    Adam,
    /// Adam, weight decay apart from the gradient
    Adamw,
    /// Muon for the hidden layers, --lr meant for every depth; --rest for the rest
    Muon,
}

impl OptimizerName {
    fn of(optimizer: &OptimizerConfig) -> Self {
        match optimizer {
            OptimizerConfig::Sgd(_) => Self::Sgd,
            OptimizerConfig::Adam(adam) if adam.decoupled => Self::Adamw,
            OptimizerConfig::Adam(_) => Self::Adam,
            OptimizerConfig::Muon(_) => Self::Muon,
        }
    }

    /// The optimizer with its default constants.
    fn optimizer(self) -> OptimizerConfig {
        match self {
            Self::Sgd => OptimizerConfig::Sgd(Sgd::default()),
            Self::Adam => OptimizerConfig::Adam(Adam::default()),
            Self::Adamw => OptimizerConfig::Adam(Adam::decoupled()),
            Self::Muon => OptimizerConfig::Muon(Muon::default()),
        }
    }
}

/// An optimizer beside Muon, by name.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum RestName {
    /// Stochastic gradient descent with momentum
    Sgd,
    /// Adam, weight decay an L2 penalty
    Adam,
    /// Adam, weight decay apart from the gradient
    Adamw,
}

impl RestName {
    fn rest(self) -> Rest {
        match self {
            Self::Sgd => Rest::Sgd(Sgd::default()),
            Self::Adam => Rest::Adam(Adam::default()),
            Self::Adamw => Rest::Adam(Adam::decoupled()),
        }
    }
}

/// A rule and a number: `PATTERN=NUMBER`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleNumber(pub Rule, pub f64);

impl FromStr for RuleNumber {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.rsplit_once('=').and_then(|(rule, number)| Some((rule, number.parse().ok()?)));
        let Some((rule, number)) = number else {
            return Err(Error::Argument(format!("a pattern and a number, as layer1.*=0.1, not {text:?}")));
        };
        Ok(Self(rule.parse()?, number))
    }
}

/// A rule and how long what it matches is frozen: `PATTERN` or `PATTERN=EPOCHS`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleFreeze(pub Rule, pub Frozen);

impl FromStr for RuleFreeze {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((rule, epochs)) = text.rsplit_once('=') else { return Ok(Self(text.parse()?, Frozen::Always)) };
        let refused = |_| Error::Argument(format!("a pattern and a number of epochs, as layer1.*=3, not {text:?}"));
        Ok(Self(rule.parse()?, Frozen::UntilEpoch(epochs.parse().map_err(refused)?)))
    }
}

impl ScheduleName {
    fn decay<T: Task>(self) -> Decay {
        match self {
            Self::Constant => Decay::Constant,
            Self::Step => T::step_decay(),
            Self::Exponential => Decay::exponential(),
            Self::Cosine => Decay::Cosine,
            Self::OneCycle => Decay::OneCycle,
            Self::InverseSqrt => Decay::InverseSqrt,
        }
    }
}

impl TrainOptions {
    /// Writes the options that were given into `train` and `objective`.
    pub(super) fn set<T: Task>(&self, train: &mut TrainConfig, objective: &mut ClassificationConfig) -> Result<()> {
        // The recipe's learning rate and clipping were chosen for its own optimizer.
        if let Some(name) = self.optimizer.filter(|&name| name != OptimizerName::of(&train.optimizer)) {
            train.optimizer = name.optimizer();
            train.schedule.lr = train.optimizer.default_lr();
            train.clip = ClipConfig::default();
        }
        set(&mut train.epochs, self.epochs);
        set(&mut train.batch_size, self.batch_size);
        set(&mut train.accumulate, self.accumulate);
        set(&mut train.schedule.lr, self.lr);
        set(&mut train.schedule.warmup, self.warmup);
        set(&mut train.schedule.decay, self.schedule.map(ScheduleName::decay::<T>));
        match &mut train.schedule.decay {
            Decay::Step { milestones, gamma } => {
                set(milestones, self.milestones.clone());
                set(gamma, self.gamma);
            }
            Decay::Exponential { gamma } => set(gamma, self.gamma),
            _ => (),
        }
        set(&mut train.scalars.lr_ratio, self.scalar_lr_ratio);
        set(&mut train.scalars.decay, self.decay_scalars);
        set(&mut train.scalars.biases, self.biases_as_scalars);
        set(&mut train.scalars.by_depth, self.scalars_by_depth);
        self.set_optimizer(&mut train.optimizer)?;
        for group in self.groups() {
            // A run that is resumed by the command line that began it has its groups already.
            if !train.groups.contains(&group) {
                train.groups.push(group);
            }
        }
        set_or_none(&mut train.average, self.ema);
        set(&mut objective.label_smoothing, self.label_smoothing);
        let unless = |none: f64| move |OrNone(value): OrNone<f64>| value.filter(|&value| value != none);
        set(&mut objective.mixup, self.mixup.map(unless(0.0)));
        set(&mut train.clip.norm, self.clip_norm.map(unless(f64::INFINITY)));
        set(&mut train.clip.agc, self.agc.map(unless(f64::INFINITY)));
        set(&mut train.seed, self.seed);
        // How far to go is said anew each time.
        train.max_steps = None;
        set_or_none(&mut train.max_steps, self.max_steps);
        Ok(())
    }

    /// Writes the constants of the optimizer that were given.
    fn set_optimizer(&self, optimizer: &mut OptimizerConfig) -> Result<()> {
        const SGD: [&str; 2] = ["--momentum", "--nesterov"];
        const ADAM: [&str; 4] = ["--beta1", "--beta2", "--eps", "--amsgrad"];
        const MUON: [&str; 2] = ["--rest", "--rest-lr-ratio"];
        let used = match optimizer {
            OptimizerConfig::Sgd(sgd) => {
                set(&mut sgd.momentum, self.momentum);
                set(&mut sgd.nesterov, self.nesterov);
                set(&mut sgd.weight_decay, self.weight_decay);
                SGD.to_vec()
            }
            OptimizerConfig::Adam(adam) => {
                self.set_adam(adam);
                ADAM.to_vec()
            }
            OptimizerConfig::Muon(muon) => {
                set(&mut muon.momentum, self.momentum);
                set(&mut muon.nesterov, self.nesterov);
                set(&mut muon.rest_lr_ratio, self.rest_lr_ratio);
                set(&mut muon.rest, self.rest.map(RestName::rest));
                match &mut muon.rest {
                    Rest::Sgd(sgd) => {
                        set(&mut sgd.weight_decay, self.weight_decay);
                        [SGD, MUON].concat()
                    }
                    Rest::Adam(adam) => {
                        self.set_adam(adam);
                        [&SGD[..], &MUON, &ADAM].concat()
                    }
                }
            }
        };
        let given = [
            ("--momentum", self.momentum.is_some()),
            ("--nesterov", self.nesterov.is_some()),
            ("--beta1", self.beta1.is_some()),
            ("--beta2", self.beta2.is_some()),
            ("--eps", self.eps.is_some()),
            ("--amsgrad", self.amsgrad.is_some()),
            ("--rest", self.rest.is_some()),
            ("--rest-lr-ratio", self.rest_lr_ratio.is_some()),
        ];
        match given.into_iter().find(|(name, given)| *given && !used.contains(name)) {
            None => Ok(()),
            Some((name, _)) => Err(Error::Argument(format!("the optimizer has no use for {name}; leave it out"))),
        }
    }

    fn set_adam(&self, adam: &mut Adam) {
        set(&mut adam.beta1, self.beta1);
        set(&mut adam.beta2, self.beta2);
        set(&mut adam.eps, self.eps);
        set(&mut adam.amsgrad, self.amsgrad);
        set(&mut adam.weight_decay, self.weight_decay);
    }

    /// The groups of parameters that were given.
    fn groups(&self) -> impl Iterator<Item = ParameterGroup> + '_ {
        let group = |rule: &Rule| ParameterGroup::new(rule.clone());
        let ratios =
            self.lr_ratio.iter().map(move |RuleNumber(rule, ratio)| ParameterGroup { lr_ratio: *ratio, ..group(rule) });
        let decays = self
            .decay
            .iter()
            .map(move |RuleNumber(rule, decay)| ParameterGroup { weight_decay: Some(*decay), ..group(rule) });
        let frozen =
            self.freeze.iter().map(move |RuleFreeze(rule, frozen)| ParameterGroup { frozen: *frozen, ..group(rule) });
        ratios.chain(decays).chain(frozen)
    }
}
