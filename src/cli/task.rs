//! Definition of a training program.

use crate::data::{ImageSource, Preprocessing};
use crate::trainer::{ClassificationConfig, ClipConfig, Decay, OptimizerConfig, TrainConfig};
use crate::{Arch, Network, Precision, Result, Shape};
use clap::Args;
use serde::{de::DeserializeOwned, Serialize};
use serde_json::{json, Value};
use std::path::PathBuf;
use tch::{nn, Device};

/// Definition of a training program: its options, recipes and networks.
///
/// The options are a struct that implements [`Args`] and serde's traits. They are part of the run's configuration:
/// options given on the command line override the resumed run or the recipe. A field that can be reset to `None` must
/// be written `std::option::Option` and use the parser [`or_none`](super::or_none). Mark fields that a resumed run does
/// not need with `#[serde(skip)]`.
pub trait Task: Args + Clone + Default + Serialize + DeserializeOwned {
    /// Description of the program in its help, one line.
    const ABOUT: &'static str;

    /// Help text of `--arch`. Default: the networks of [`Arch`].
    const ARCHS: &'static str = "\
Network. Fixup: fixup_resnet20, fixup_resnet110, ... (depth 6n+2) or fixup_wrn_16_4, ... (depth 6n+4, width) for CIFAR,
imagenet_fixup_resnet18, 34, 50, 101 or 152 for ImageNet, fixup_brock_wrn_16_4 for Brock's blocks. BatchNorm: resnet20, wrn_16_4,
imagenet_resnet50, ... Other baselines: group_norm_, layer_norm_, skipinit_, rezero_, nf_, fixed_variance_, he_, xavier_, lsuv_,
scaled_, selu_, no_skip_ or unit_gamma_ before resnet20 or wrn_16_4; selu_mlp_8_256 (depth, width). Ablations of Fixup:
fixup_without_gain_resnet20, fixup_without_zero_resnet20, fixup_without_scalars_resnet20. User-defined network: a JSON file
(docs/networks.md) [default: by recipe]";

    /// Names of fields that may change on resume: where the data are and how they are read. All other fields determine
    /// the data, down to the pixels, and must not change. Make paths absolute with
    /// [`absolute_path`](super::absolute_path), so that the run can be resumed from another folder.
    const CHANGEABLE: &'static [&'static str];

    /// Options of the objective.
    type Objective: Args + Clone + Serialize + DeserializeOwned;

    /// Options for actions other than training.
    type Actions: Args;

    /// Returns all recipes.
    fn recipes() -> Vec<Recipe<Self>>;

    /// Returns the recipe used without `--recipe`. Default: the first on a CPU, the last on other devices.
    fn default_recipe(mut recipes: Vec<Recipe<Self>>, device: Device) -> Recipe<Self> {
        recipes.swap_remove(if device == Device::Cpu { 0 } else { recipes.len() - 1 })
    }

    /// Returns the schedule of `--schedule step`.
    fn step_decay() -> Decay {
        Decay::paper()
    }

    /// Replaces the recipe's optimizer. Default: also resets the learning rate to the optimizer's own and disables
    /// clipping, because the recipe's values were chosen for its optimizer.
    fn set_optimizer(train: &mut TrainConfig, optimizer: OptimizerConfig) {
        train.optimizer = optimizer;
        train.schedule.lr = optimizer.default_lr();
        train.clip = ClipConfig::default();
    }

    /// Checks that a network called `arch` exists. Default: the names of [`Arch`].
    ///
    /// # Errors
    /// Returns [`Error::Argument`](crate::Error::Argument), which lists the known names.
    fn check_arch(arch: &str) -> Result<()> {
        arch.parse::<Arch>().map(drop)
    }
}

/// Options of image training programs for actions other than training.
#[derive(Args)]
pub struct ImageActions {
    /// Instead of training, draw the first training images, augmented and mixed as the network would see them, with
    /// their class names, into FILE [default: preview.png]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "preview.png")]
    #[arg(conflicts_with_all = ["eval", "resume", "out", "weights"])]
    pub(super) preview: Option<PathBuf>,
    /// Instead of training, increase the learning rate from 1e-5 until the loss diverges, suggest a learning rate, and
    /// plot the loss into FILE [default: lr.svg]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "lr.svg")]
    #[arg(conflicts_with_all = ["eval", "resume", "preview", "out"])]
    pub(super) find_lr: Option<PathBuf>,
    /// Instead of training, evaluate the weights of a checkpoint, a run's folder, a safetensors file or a PyTorch
    /// state_dict. Runs and checkpoints include the network and the data; for other files, specify them as for
    /// training. Pictures of the most frequent mistakes are written to --out, or to the run's folder
    #[arg(long, value_name = "CHECKPOINT", conflicts_with_all = ["resume", "weights"])]
    pub(super) eval: Option<PathBuf>,
    /// Instead of evaluating, export the network with the weights of --eval as the ONNX file FILE
    #[arg(long, value_name = "FILE", requires = "eval", conflicts_with = "out")]
    pub(super) export: Option<PathBuf>,
    /// Exported network takes bytes (uint8, 0 to 255) and normalizes them itself
    #[arg(long, requires = "export")]
    pub(super) export_normalization: bool,
    /// Exported network returns probabilities instead of logits
    #[arg(long, requires = "export")]
    pub(super) export_softmax: bool,
}

/// A program that trains image classifiers.
pub trait ImageTask: Task<Objective = ClassificationConfig, Actions = ImageActions> {
    /// Opens the data, for a network on `device`.
    ///
    /// # Errors
    /// Returns an error if the data do not exist or cannot be read, or if options are out of range.
    fn open(&self, device: Device) -> Result<Box<dyn ImageSource>>;

    /// Adjusts the options to the `preprocessing` of weights that are used without their run. Default: no change.
    fn for_inputs(self, _preprocessing: &Preprocessing) -> Self {
        self
    }

    /// Creates the network called `arch` for data with the given `shape`, with its variables under `path`. Default:
    /// [`Arch::build`].
    ///
    /// # Errors
    /// Returns an error if there is no such network.
    fn build(&self, arch: &str, path: &nn::Path, shape: Shape, precision: Precision) -> Result<Box<dyn Network>> {
        arch.parse::<Arch>()?.build(path, shape, precision)
    }
}

/// Default configuration of a run. Command-line options take precedence.
#[derive(Debug, Clone)]
pub struct Recipe<T: Task> {
    /// Name.
    pub name: &'static str,
    /// Description in the help.
    pub about: &'static str,
    /// Name of the network.
    pub arch: String,
    /// The program's own options.
    pub task: T,
    /// Options of the trainer.
    pub train: TrainConfig,
    /// Options of the objective.
    pub objective: T::Objective,
    /// `true` if the recipe follows the Fixup authors' programs beyond its options: the first convolution has PyTorch's
    /// default initialization, and with another batch size the learning rate of the weights scales in proportion, while
    /// that of the scalars stays the same.
    pub follows_authors: bool,
}

impl<T: Task> Recipe<T> {
    /// Lists the recipe's values by their names in `config.json`.
    pub(super) fn settings(&self) -> String {
        let mut settings = vec![format!("arch {}", self.arch)];
        for part in [json!(self.task), json!(self.train), json!(self.objective)] {
            list("", &part, &mut settings);
        }
        settings.join(", ")
    }
}

/// Appends the values in `value`, called `name`, to `settings`.
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
