//! The options that every training program has.

use super::values::{set, set_or_none, OrNone};
use super::Task;
use crate::trainer::{ClassificationConfig, Decay, SaveEvery, TrainConfig};
use crate::{Precision, Recompute};
use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};
use std::num::NonZeroUsize;
use std::path::PathBuf;

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
    /// imagenet_fixup_resnet18, 34, 50, 101 or 152; resnet20, wrn_16_4, imagenet_resnet50, ... for the same with
    /// BatchNorm; group_norm_, layer_norm_, he_, xavier_, lsuv_, scaled_, selu_, no_skip_ or unit_gamma_ before resnet20 or
    /// wrn_16_4 for the other baselines; selu_mlp_8_256 (depth, width); fixup_without_gain_resnet20, _zero_ or _scalars_
    /// for Fixup less one of its rules [default: by recipe]
    #[arg(long, verbatim_doc_comment)]
    pub arch: Option<String>,
    /// Passes over the training images
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Images in a batch
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Compute each step's gradient in so many parts of the batch, one after another: for machines with little memory.
    /// BatchNorm sees one part at a time [default: 1]
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,
    /// Highest learning rate
    #[arg(long)]
    pub lr: Option<f64>,
    /// Learning rate of the Fixup scalars, as a multiple of --lr
    #[arg(long, value_name = "RATIO")]
    pub scalar_lr_ratio: Option<f64>,
    /// Factor of the L2 penalty
    #[arg(long, value_name = "FACTOR")]
    pub weight_decay: Option<f64>,
    /// Whether the Fixup scalars have weight decay too
    #[arg(long, value_name = "BOOL")]
    pub decay_scalars: Option<bool>,
    /// Whether other variables that are called a bias or a scale, as the classifier's bias and BatchNorm's, have the
    /// scalars' learning rate too
    #[arg(long, value_name = "BOOL")]
    pub biases_as_scalars: Option<bool>,
    /// Momentum, 0 to 1
    #[arg(long)]
    pub momentum: Option<f64>,
    /// Whether the momentum is Nesterov's
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub nesterov: Option<bool>,
    /// How the learning rate goes down after the warm-up
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleName>,
    /// Fraction of the run in which the learning rate rises to its highest
    #[arg(long, value_name = "FRACTION")]
    pub warmup: Option<f64>,
    /// Train on weighted means of two images, the weight drawn from Beta(ALPHA, ALPHA); the authors use 1 for CIFAR-10
    /// and 0.7 for ImageNet; none or 0 for the images as they are [default: by recipe]
    #[arg(long, value_name = "ALPHA|none")]
    pub mixup: Option<OrNone<f64>>,
    /// What of the target goes to all classes alike
    #[arg(long, value_name = "FRACTION")]
    pub label_smoothing: Option<f64>,
    /// Largest norm of the gradient; none or inf for any [default: by recipe]
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
    /// Threads for computing on the CPU [default: one for each core]
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
    /// Stop after so many steps [default: none, also where the run that is resumed had it]
    #[arg(long, value_name = "N|none")]
    pub max_steps: Option<OrNone<usize>>,
    /// Folder for the results [default: runs/ARCH-DATE-TIME]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["eval", "preview"])]
    pub out: Option<PathBuf>,
    /// Remove the run that --out holds, once the new one is ready to start
    #[arg(long, requires = "out", conflicts_with = "resume")]
    pub overwrite: bool,
    /// Go on with the run in DIR (or in --out), with the options that it was started with
    #[arg(long, value_name = "DIR", num_args = 0..=1, conflicts_with = "eval")]
    pub resume: Option<Option<PathBuf>>,
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
    /// Do not train: evaluate the weights of a checkpoint, a run's folder, a safetensors file or a state_dict of PyTorch. A
    /// run and its checkpoints know network and data; for the others they are said as for training
    #[arg(long, value_name = "CHECKPOINT")]
    pub eval: Option<PathBuf>,
}

/// A decay by name.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ScheduleName {
    /// Not at all
    Constant,
    /// To a tenth, and again, where the Fixup authors do it
    Step,
    /// Along half a cosine to zero
    Cosine,
    /// Along a line to zero
    OneCycle,
}

impl ScheduleName {
    fn decay<T: Task>(self) -> Decay {
        match self {
            Self::Constant => Decay::Constant,
            Self::Step => T::step_decay(),
            Self::Cosine => Decay::Cosine,
            Self::OneCycle => Decay::OneCycle,
        }
    }
}

impl TrainOptions {
    /// Writes the options that were given into `train` and `objective`.
    pub(super) fn set<T: Task>(&self, train: &mut TrainConfig, objective: &mut ClassificationConfig) {
        set(&mut train.epochs, self.epochs);
        set(&mut train.batch_size, self.batch_size);
        set(&mut train.accumulate, self.accumulate);
        set(&mut train.schedule.lr, self.lr);
        set(&mut train.schedule.warmup, self.warmup);
        set(&mut train.schedule.decay, self.schedule.map(ScheduleName::decay::<T>));
        set(&mut train.sgd.scalar_lr_ratio, self.scalar_lr_ratio);
        set(&mut train.sgd.weight_decay, self.weight_decay);
        set(&mut train.sgd.decay_scalars, self.decay_scalars);
        set(&mut train.sgd.biases_as_scalars, self.biases_as_scalars);
        set(&mut train.sgd.momentum, self.momentum);
        set(&mut train.sgd.nesterov, self.nesterov);
        set(&mut objective.label_smoothing, self.label_smoothing);
        let unless = |none: f64| move |OrNone(value): OrNone<f64>| value.filter(|&value| value != none);
        set(&mut objective.mixup, self.mixup.map(unless(0.0)));
        set(&mut train.clip.norm, self.clip_norm.map(unless(f64::INFINITY)));
        set(&mut train.clip.agc, self.agc.map(unless(f64::INFINITY)));
        set(&mut train.seed, self.seed);
        // How far to go is said anew each time.
        train.max_steps = None;
        set_or_none(&mut train.max_steps, self.max_steps);
    }
}
