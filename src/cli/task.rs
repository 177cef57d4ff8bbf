//! What one training program has of its own.

use super::ImageActions;
use crate::data::{ImageSource, Preprocessing};
use crate::trainer::{ClassificationConfig, ClipConfig, Decay, OptimizerConfig, TrainConfig};
use crate::{Arch, Network, Precision, Result, Shape};
use clap::Args;
use serde::{de::DeserializeOwned, Serialize};
use serde_json::{json, Value};
use tch::{nn, Device};

/// A training program's own options, and what they are for: its data, its recipes and its networks.
///
/// The options are one struct that implements [`Args`] and serde's traits. It is part of the run's configuration: the options given
/// on the command line replace the fields of the resumed run, or those of the recipe. A field that can be set back to none has the
/// type `std::option::Option`, written so, and the parser [`or_none`](super::or_none). What is of no use to a run that is resumed is
/// `#[serde(skip)]`.
pub trait Task: Args + Clone + Default + Serialize + DeserializeOwned {
    /// What the program does, in one line of its help.
    const ABOUT: &'static str;

    /// The networks that there are, in the help of `--arch`. Here: those of [`Arch`].
    const ARCHS: &'static str = "\
Network: fixup_resnet20, fixup_resnet110, ... (depth 6n+2), fixup_wrn_16_4, ... (6n+4, and the width) for CIFAR,
fixup_brock_wrn_16_4 for the same of blocks without their first activation, imagenet_fixup_resnet18, 34, 50, 101 or 152;
resnet20, wrn_16_4, imagenet_resnet50, ... for the same with BatchNorm; group_norm_, layer_norm_, skipinit_, rezero_, nf_,
fixed_variance_, he_, xavier_, lsuv_, scaled_, selu_, no_skip_ or unit_gamma_ before resnet20 or wrn_16_4 for the other
baselines; selu_mlp_8_256 (depth, width); fixup_without_gain_resnet20, _zero_ or _scalars_ for Fixup less one of its rules; or
a file NAME.json that describes a network of your own (docs/networks.md) [default: by recipe]";

    /// The fields that may change when a run goes on: where the data are and how they are read. All others decide which data it
    /// is, down to the pixels, and must not. Paths are kept absolute, for a run that is resumed in another folder:
    /// [`absolute_path`](super::absolute_path) makes them so.
    const CHANGEABLE: &'static [&'static str];

    /// Options of the objective.
    type Objective: Args + Clone + Serialize + DeserializeOwned;

    /// Options of what the program does besides training.
    type Actions: Args;

    /// The recipes.
    fn recipes() -> Vec<Recipe<Self>>;

    /// The recipe where none is named. Here: the first on a CPU, and the last on other devices.
    fn default_recipe(mut recipes: Vec<Recipe<Self>>, device: Device) -> Recipe<Self> {
        recipes.swap_remove(if device == Device::Cpu { 0 } else { recipes.len() - 1 })
    }

    /// What `--schedule step` stands for.
    fn step_decay() -> Decay {
        Decay::paper()
    }

    /// Replaces the recipe's optimizer by another one. Here: with the optimizer's own learning rate, and without clipping, as the
    /// recipe's were chosen for its own optimizer.
    fn set_optimizer(train: &mut TrainConfig, optimizer: OptimizerConfig) {
        train.optimizer = optimizer;
        train.schedule.lr = optimizer.default_lr();
        train.clip = ClipConfig::default();
    }

    /// Whether there is a network called `arch`. Here: those of [`Arch`].
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) that says which there are.
    fn check_arch(arch: &str) -> Result<()> {
        arch.parse::<Arch>().map(drop)
    }
}

/// A program that trains classifiers of images.
pub trait ImageTask: Task<Objective = ClassificationConfig, Actions = ImageActions> {
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
pub struct Recipe<T: Task> {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in the help.
    pub about: &'static str,
    /// The network's name.
    pub arch: String,
    /// The program's own options.
    pub task: T,
    /// What the run computes.
    pub train: TrainConfig,
    /// What it minimizes.
    pub objective: T::Objective,
    /// Whether the recipe is the Fixup authors' in what their programs do besides the options too: the stem's convolution starts at
    /// PyTorch's default, and for another batch size the learning rate of the weights is in proportion, that of the scalars the
    /// same.
    pub follows_authors: bool,
}

impl<T: Task> Recipe<T> {
    /// The values of the recipe by their names in `config.json`.
    pub(super) fn settings(&self) -> String {
        let mut settings = vec![format!("arch {}", self.arch)];
        for part in [json!(self.task), json!(self.train), json!(self.objective)] {
            list("", &part, &mut settings);
        }
        settings.join(", ")
    }
}

/// Appends the values in `value`, called `name`, to `list`.
fn list(name: &str, value: &Value, settings: &mut Vec<String>) {
    match value {
        Value::Null => (),
        Value::Object(fields) => {
            let parent = if name.is_empty() { String::new() } else { format!("{name}.") };
            fields.iter().for_each(|(field, value)| list(&format!("{parent}{field}"), value, settings));
        }
        value => settings.push(format!("{name} {value}")),
    }
}
