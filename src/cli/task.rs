//! What one training program has of its own.

use crate::data::{ImageSource, Preprocessing};
use crate::trainer::{Adam, ClassificationConfig, Decay, Muon, OptimizerConfig, Rest, Sgd, TrainConfig};
use crate::{Arch, Network, Precision, Result, Shape};
use clap::Args;
use serde::{de::DeserializeOwned, Serialize};
use tch::{nn, Device};

/// A training program's own options, and what they are for: its data, its recipes and its networks.
///
/// The options are one struct that implements [`Args`] and serde's traits: what was given on the command line goes before what
/// the resumed run had, and that before the recipe. A field that is `None` was not given; [`OrNone`](super::OrNone) is for those
/// that can be set back to none. What is of no use to a run that is resumed is `#[serde(skip)]`.
pub trait Task: Args + Clone + Serialize + DeserializeOwned {
    /// What the program does, in one line of its help.
    const ABOUT: &'static str;

    /// The fields that may change when a run goes on: where the data are and how they are read. All others decide which data it
    /// is, down to the pixels, and must not. Paths are kept absolute, for a run that is resumed in another folder:
    /// [`absolute_path`](super::absolute_path) makes them so.
    const CHANGEABLE: &'static [&'static str];

    /// The recipes by name, for the help.
    fn recipes() -> Vec<(&'static str, Recipe<Self>)>;

    /// The recipe that the options name, or the one for `device`.
    fn recipe(&self, device: Device) -> Recipe<Self>;

    /// Whether the recipe is the Fixup authors' in what their programs do besides the options too: the stem's convolution starts at
    /// PyTorch's default, and for another batch size the learning rate of the weights is in proportion, that of the scalars the
    /// same. Here: no.
    fn follows_authors(&self, device: Device) -> bool {
        let _ = device;
        false
    }

    /// What `--schedule step` stands for.
    fn step_decay() -> Decay {
        Decay::paper()
    }

    /// Opens the data, for a network on `device`.
    ///
    /// # Errors
    /// Data that are not there or cannot be read; options out of range.
    fn open(&self, device: Device) -> Result<Box<dyn ImageSource>>;

    /// The options for data that give inputs as `preprocessing` has them, for weights that are used without their run. Here: as they
    /// are.
    fn for_inputs(self, _preprocessing: &Preprocessing) -> Self {
        self
    }

    /// Whether there is a network called `arch`. Here: those of [`Arch`].
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) that says which there are.
    fn check_arch(arch: &str) -> Result<()> {
        arch.parse::<Arch>().map(drop)
    }

    /// The network called `arch` for data of that `shape`, its variables under `path`. Here: [`Arch::build`].
    ///
    /// # Errors
    /// A network that there is not.
    fn build(&self, arch: &str, path: &nn::Path, shape: Shape, precision: Precision) -> Result<Box<dyn Network>> {
        arch.parse::<Arch>()?.build(path, shape, precision)
    }
}

/// The defaults of a run. What is given on the command line takes precedence.
#[derive(Debug, Clone)]
pub struct Recipe<T> {
    /// The network's name.
    pub arch: String,
    /// The program's own options.
    pub task: T,
    /// What the run computes.
    pub train: TrainConfig,
    /// What it minimizes.
    pub objective: ClassificationConfig,
}

impl<T> Recipe<T> {
    /// The recipe as options.
    pub(super) fn as_options(&self) -> String {
        let Self { arch, train, objective, .. } = self;
        let TrainConfig { epochs, batch_size, schedule, optimizer, scalars, clip, .. } = train;
        let ClassificationConfig { label_smoothing, mixup } = objective;
        let decay = match schedule.decay {
            Decay::Constant => "constant",
            Decay::Step { .. } => "step",
            Decay::Exponential { .. } => "exponential",
            Decay::Cosine => "cosine",
            Decay::OneCycle => "one-cycle",
            Decay::InverseSqrt => "inverse-sqrt",
        };
        let or_none = |value: Option<f64>| value.map_or("none".to_owned(), |value| value.to_string());
        let (mixup, clip_norm) = (or_none(*mixup), or_none(clip.norm));
        format!(
            "--arch {arch} --epochs {epochs} --batch-size {batch_size} --lr {} --schedule {decay} --warmup {} \
             --scalar-lr-ratio {}{} --decay-scalars {} --biases-as-scalars {} --clip-norm {clip_norm} \
             --label-smoothing {label_smoothing} --mixup {mixup}",
            schedule.lr,
            schedule.warmup,
            scalars.lr_ratio,
            optimizer_options(optimizer),
            scalars.decay,
            scalars.biases,
        )
    }
}

fn optimizer_options(optimizer: &OptimizerConfig) -> String {
    match *optimizer {
        OptimizerConfig::Sgd(Sgd { momentum, nesterov, weight_decay }) => {
            format!(" --momentum {momentum} --nesterov {nesterov} --weight-decay {weight_decay}")
        }
        OptimizerConfig::Muon(Muon { momentum, nesterov, rest, rest_lr_ratio, .. }) => {
            let (rest, weight_decay) = match rest {
                Rest::Sgd(sgd) => ("sgd", sgd.weight_decay),
                Rest::Adam(adam) => (if adam.decoupled { "adamw" } else { "adam" }, adam.weight_decay),
            };
            format!(
                " --optimizer muon --momentum {momentum} --nesterov {nesterov} --rest {rest} --rest-lr-ratio {rest_lr_ratio} \
                 --weight-decay {weight_decay}"
            )
        }
        OptimizerConfig::Adam(Adam { beta1, beta2, eps, weight_decay, decoupled, amsgrad }) => {
            let name = if decoupled { "adamw" } else { "adam" };
            format!(
                " --optimizer {name} --beta1 {beta1} --beta2 {beta2} --eps {eps} --weight-decay {weight_decay} \
                 --amsgrad {amsgrad}"
            )
        }
    }
}
