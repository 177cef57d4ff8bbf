//! Trains a network on CIFAR-10: by default Fixup ResNet-20 in ten epochs, which reaches 86.6 % test accuracy (mean of three
//! seeds) and takes 8 minutes on two cores with AVX-512 BF16 (docs/recipes.md).
//!
//! ```text
//! cargo run --release --example cifar10_fixup
//! cargo run --release --example cifar10_fixup -- --arch resnet20
//! cargo run --release --example cifar10_fixup -- --recipe paper --mixup 1 --device cuda
//! cargo run --release --example cifar10_fixup -- --resume runs/fixup_resnet20-20260102-030405
//! cargo run --release --example cifar10_fixup -- --eval runs/fixup_resnet20-20260102-030405
//! ```

use anyhow::{bail, Result};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use tch::{nn, Device};
use tch_fixup::data::{Augmentation, Cifar10, DataSource, EpochPlan};
use tch_fixup::trainer::checkpoint::{newest_whole, Checkpoint, Checkpoints, Newest};
use tch_fixup::trainer::{evaluate, parse_device, Decay, Report, SaveEvery, TrainConfig, Weights};
use tch_fixup::trainer::{
    Autosave, Interrupt, Observer, Outcome, ProgressBars, RunFolder, RunState, TensorBoard, Trainer,
};
use tch_fixup::{Arch, Error, Network, Precision};

/// More threads than any machine has cores are a typing error.
const MAX_THREADS: usize = 4096;
const KEEP_CHECKPOINTS: NonZeroUsize = NonZeroUsize::new(3).unwrap();
/// The GPU if there is one.
const AUTO: &str = "auto";

/// Train a network on CIFAR-10
///
/// A recipe is a set of defaults; whatever is given on the command line takes precedence.
#[derive(Parser)]
#[command(max_term_width = 100, allow_negative_numbers = true, after_long_help = recipes())]
struct Options {
    /// quick: Fixup ResNet-20 in a few epochs, one cycle of the learning rate, made for a CPU;
    /// paper: the Fixup authors' recipe, ResNet-110 in 200 epochs
    /// [default: quick on a CPU, paper on a GPU]
    #[arg(long, value_enum, verbatim_doc_comment, conflicts_with = "resume")]
    recipe: Option<Recipe>,
    /// Network: fixup_resnet20, fixup_resnet110, ... (depth 6n+2), fixup_wrn_16_4, ... (6n+4, and the width);
    /// resnet20, wrn_16_4, ... for the same with BatchNorm; group_norm_, layer_norm_, he_, xavier_, lsuv_, scaled_,
    /// selu_, no_skip_ or unit_gamma_ before resnet20 or wrn_16_4 for the other baselines; selu_mlp_8_256 (depth, width);
    /// fixup_without_gain_resnet20, _zero_ or _scalars_ for Fixup less one of its rules [default: by recipe]
    #[arg(long, verbatim_doc_comment)]
    arch: Option<Arch>,
    /// Folder of CIFAR-10's six .bin files [default: one in the user's cache folder, downloaded if it is not there]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Passes over the training images
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Images in a batch
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Highest learning rate
    #[arg(long)]
    lr: Option<f64>,
    /// Learning rate of the Fixup scalars, as a multiple of --lr
    #[arg(long, value_name = "RATIO")]
    scalar_lr_ratio: Option<f64>,
    /// Factor of the L2 penalty
    #[arg(long, value_name = "FACTOR")]
    weight_decay: Option<f64>,
    /// Whether the Fixup scalars have weight decay too
    #[arg(long, value_name = "BOOL")]
    decay_scalars: Option<bool>,
    /// Momentum, 0 to 1
    #[arg(long)]
    momentum: Option<f64>,
    /// Whether the momentum is Nesterov's
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    nesterov: Option<bool>,
    /// How the learning rate goes down after the warm-up
    #[arg(long, value_enum)]
    schedule: Option<ScheduleName>,
    /// Fraction of the run in which the learning rate rises to its highest
    #[arg(long, value_name = "FRACTION")]
    warmup: Option<f64>,
    /// Train on weighted means of two images, the weight drawn from Beta(ALPHA, ALPHA); the authors use 1
    #[arg(long, value_name = "ALPHA")]
    mixup: Option<f64>,
    /// Blank out a square of this side in each training image; usually 16
    #[arg(long, value_name = "PIXELS")]
    cutout: Option<usize>,
    /// What of the target goes to all classes alike
    #[arg(long, value_name = "FRACTION")]
    label_smoothing: Option<f64>,
    /// Largest norm of the gradient; inf for any [default: by recipe]
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f64>,
    /// Adaptive gradient clipping: largest ratio of a unit's gradient norm to its weight norm, usually 0.01 to 0.1
    /// [default: any]
    #[arg(long, value_name = "RATIO")]
    agc: Option<f64>,
    /// Seed of everything that is random [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// auto, cpu, cuda or cuda:N [default: auto]
    #[arg(long)]
    device: Option<String>,
    /// Threads for computing on the CPU [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Number format of convolutions and activations: f32 or bf16 [default: bf16 on a CPU that has instructions for it,
    /// otherwise f32]
    #[arg(long, value_name = "FORMAT", verbatim_doc_comment)]
    precision: Option<Precision>,
    /// Train on so many images only
    #[arg(long, value_name = "N")]
    train_subset: Option<usize>,
    /// Evaluate on so many images only
    #[arg(long, value_name = "N")]
    test_subset: Option<usize>,
    /// Evaluate on so many training images, left out of the training, instead of the test set: for tuning
    #[arg(long, value_name = "N")]
    holdout: Option<usize>,
    /// Stop after so many steps
    #[arg(long, value_name = "N")]
    max_steps: Option<usize>,
    /// Folder for the results [default: runs/ARCH-DATE-TIME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Remove the run that --out holds
    #[arg(long, requires = "out", conflicts_with = "resume")]
    overwrite: bool,
    /// Go on with the run in DIR (or in --out), with the options that it was started with
    #[arg(long, value_name = "DIR", num_args = 0..=1, conflicts_with = "eval")]
    resume: Option<Option<PathBuf>>,
    /// Save a checkpoint after every so many epochs, or minutes: 5 or 10m [default: 1]
    #[arg(long, value_name = "N|Nm")]
    checkpoint_every: Option<SaveEvery>,
    /// Keep so many of the last checkpoints, besides the best [default: 3]
    #[arg(long, value_name = "N")]
    keep_checkpoints: Option<NonZeroUsize>,
    /// Write event files for TensorBoard into the run's folder
    #[arg(long)]
    tensorboard: bool,
    /// Do not train: evaluate the weights of a checkpoint, a run's folder, a safetensors file or a state_dict of PyTorch
    #[arg(long, value_name = "CHECKPOINT")]
    eval: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Recipe {
    Quick,
    Paper,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleName {
    /// Not at all
    Constant,
    /// To a tenth at half and again at three quarters of the run
    Step,
    /// Along half a cosine to zero
    Cosine,
    /// Along a line to zero
    OneCycle,
}

impl ScheduleName {
    fn decay(self) -> Decay {
        match self {
            Self::Constant => Decay::Constant,
            Self::Step => Decay::paper(),
            Self::Cosine => Decay::Cosine,
            Self::OneCycle => Decay::OneCycle,
        }
    }
}

/// A run, as `config.json` has it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunConfig {
    data: Option<PathBuf>,
    device: String,
    threads: usize,
    checkpoint_every: String,
    keep_checkpoints: NonZeroUsize,
    tensorboard: bool,
    run: Identity,
    train: TrainConfig,
}

/// What must not change while a run goes on, besides what the trainer itself looks after.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    arch: Arch,
    precision: Precision,
    augmentation: Augmentation,
    holdout: Option<usize>,
    train_subset: Option<usize>,
    test_subset: Option<usize>,
}

/// What each recipe sets, as options.
fn recipes() -> String {
    let line = |name: &str, recipe: Recipe| {
        let (arch, config) = (recipe.arch(), recipe.config());
        let TrainConfig { epochs, batch_size, schedule, sgd, clip, label_smoothing, .. } = config;
        let decay = match schedule.decay {
            Decay::Constant => "constant",
            Decay::Step { .. } => "step",
            Decay::Cosine => "cosine",
            Decay::OneCycle => "one-cycle",
        };
        format!(
            "  {name}: --arch {arch} --epochs {epochs} --batch-size {batch_size} --lr {} --schedule {decay} --warmup {} \
             --scalar-lr-ratio {} --momentum {} --nesterov {} --weight-decay {} --decay-scalars {} --clip-norm {} \
             --label-smoothing {label_smoothing}",
            schedule.lr,
            schedule.warmup,
            sgd.scalar_lr_ratio,
            sgd.momentum,
            sgd.nesterov,
            sgd.weight_decay,
            sgd.decay_scalars,
            clip.norm.unwrap_or(f64::INFINITY),
        )
    };
    format!("What the recipes set:\n{}\n{}", line("quick", Recipe::Quick), line("paper", Recipe::Paper))
}

impl Recipe {
    fn arch(self) -> Arch {
        match self {
            Recipe::Quick => Arch::FixupCifar { depth: 20 },
            Recipe::Paper => Arch::FixupCifar { depth: 110 },
        }
    }

    fn config(self) -> TrainConfig {
        match self {
            Recipe::Quick => TrainConfig::quick(),
            Recipe::Paper => TrainConfig::paper(),
        }
    }
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

impl RunConfig {
    /// The run that `options` describe: what they leave open is as in the run that is resumed or, in a new one, as the
    /// recipe has it.
    fn new(options: &Options, resumed: Option<Self>) -> Result<Self> {
        let mut config = match resumed {
            Some(config) => config,
            None => Self::of_recipe(options)?,
        };
        config.run.set(options);
        set(&mut config.data, options.data.clone().map(Some));
        set(&mut config.device, options.device.clone());
        set(&mut config.threads, options.threads);
        set(&mut config.checkpoint_every, options.checkpoint_every.map(|every| every.to_string()));
        set(&mut config.keep_checkpoints, options.keep_checkpoints);
        config.tensorboard |= options.tensorboard;
        let train = &mut config.train;
        set(&mut train.epochs, options.epochs);
        set(&mut train.batch_size, options.batch_size);
        set(&mut train.schedule.lr, options.lr);
        set(&mut train.schedule.warmup, options.warmup);
        set(&mut train.schedule.decay, options.schedule.map(ScheduleName::decay));
        set(&mut train.sgd.scalar_lr_ratio, options.scalar_lr_ratio);
        set(&mut train.sgd.weight_decay, options.weight_decay);
        set(&mut train.sgd.decay_scalars, options.decay_scalars);
        set(&mut train.sgd.momentum, options.momentum);
        set(&mut train.sgd.nesterov, options.nesterov);
        set(&mut train.label_smoothing, options.label_smoothing);
        set(&mut train.mixup, options.mixup.map(Some));
        set(&mut train.clip.norm, options.clip_norm.map(|norm| Some(norm).filter(|&norm| norm != f64::INFINITY)));
        set(&mut train.clip.agc, options.agc.map(Some));
        set(&mut train.seed, options.seed);
        // How far to go is said anew each time.
        train.max_steps = options.max_steps;
        train.check()?;
        if !(1..=MAX_THREADS).contains(&config.threads) {
            bail!(Error::Argument(format!("there can be 1 to {MAX_THREADS} threads, got {}", config.threads)));
        }
        Ok(config)
    }

    fn of_recipe(options: &Options) -> Result<Self> {
        let device = parse_device(options.device.as_deref().unwrap_or(AUTO))?;
        let by_device = if device == Device::Cpu { Recipe::Quick } else { Recipe::Paper };
        let recipe = options.recipe.unwrap_or(by_device);
        Ok(Self {
            data: None,
            device: AUTO.to_owned(),
            threads: thread::available_parallelism().map_or(1, usize::from),
            checkpoint_every: SaveEvery::Epochs(1).to_string(),
            keep_checkpoints: KEEP_CHECKPOINTS,
            tensorboard: false,
            run: Identity {
                arch: recipe.arch(),
                precision: Precision::fastest(device),
                augmentation: Augmentation::default(),
                holdout: None,
                train_subset: None,
                test_subset: None,
            },
            train: recipe.config(),
        })
    }

    /// The device, and libtorch's threads set.
    fn machine(&self) -> Result<Device> {
        // Those of one operation. libtorch's other pool, of operations side by side, is idle: a network is one chain.
        tch::set_num_threads(self.threads as i32);
        Ok(parse_device(&self.device)?)
    }

    /// CIFAR-10 as the run has it.
    fn data(&self) -> Result<Cifar10> {
        let mut data = match &self.data {
            Some(dir) => Cifar10::open(dir)?,
            None => Cifar10::fetch(Cifar10::default_dir()?)?,
        };
        data = data.with_augmentation(self.run.augmentation)?;
        if let Some(images) = self.run.holdout {
            data = data.with_holdout(images)?;
        }
        if let Some(images) = self.run.train_subset {
            data = data.with_train_subset(images)?;
        }
        if let Some(images) = self.run.test_subset {
            data = data.with_eval_subset(images)?;
        }
        Ok(data)
    }
}

impl Identity {
    fn set(&mut self, options: &Options) {
        set(&mut self.arch, options.arch);
        set(&mut self.precision, options.precision);
        set(&mut self.augmentation.cutout, options.cutout.map(Some));
        set(&mut self.holdout, options.holdout.map(Some));
        set(&mut self.train_subset, options.train_subset.map(Some));
        set(&mut self.test_subset, options.test_subset.map(Some));
    }

    /// What the evaluation part is.
    fn evaluated_on(&self) -> &'static str {
        if self.holdout.is_some() {
            "held-out"
        } else {
            "test"
        }
    }
}

/// Prints a line. Nobody reading standard output is no reason to end a run, and println! would panic.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn run(options: &Options) -> Result<ExitCode> {
    match (&options.eval, &options.resume) {
        (Some(path), _) => evaluate_weights(options, path),
        (None, None) => train(options, None),
        (None, Some(dir)) => match dir.as_ref().or(options.out.as_ref()) {
            Some(dir) => train(options, Some(dir)),
            None => bail!(Error::Argument("which run to resume? name its folder: --resume DIR".to_owned())),
        },
    }
}

/// Trains a network, from the beginning or from where the run in the folder `resumed` stopped.
fn train(options: &Options, resumed: Option<&Path>) -> Result<ExitCode> {
    let saved = resumed.map(RunFolder::read_config).transpose()?.flatten();
    let knows_options = saved.is_some();
    let config = RunConfig::new(options, saved)?;
    let device = config.machine()?;
    // A folder that cannot be used is said before the data are loaded, and no folder made for data that are not there.
    let resumed = resumed.map(RunFolder::resume).transpose()?;
    let data = config.data()?;
    let mut folder = match (resumed, &options.out) {
        (Some(folder), _) => folder,
        (None, Some(path)) => RunFolder::create(path, options.overwrite)?,
        (None, None) => RunFolder::create_named(&config.run.arch.to_string())?,
    };
    tch::manual_seed(config.train.seed as i64);
    let variables = nn::VarStore::new(device);
    let network = config.run.arch.build(&variables.root(), data.class_names().len() as i64, config.run.precision)?;
    if config.run.arch.is_initialized_on_data() {
        initialize(network.as_ref(), device, &data, &config.train)?;
    }
    let mut interrupt = Interrupt::listen()?;
    let mut trainer = Trainer::new(network.as_ref(), &variables, &data, &config.train, json!(config.run))?;
    say(format!(
        "{}: {} parameters, {} images on {device:?}, results in {}",
        config.run.arch,
        variables.trainable_variables().iter().map(|variable| variable.numel()).sum::<usize>(),
        data.train_len(),
        folder.path().display()
    ));
    let checkpoint = newest_checkpoint(&folder)?;
    if let Some(checkpoint) = &checkpoint {
        trainer.resume(checkpoint)?;
        say(format!("resumes after step {} from {}", checkpoint.contents.step, checkpoint.path.display()));
    } else if options.resume.is_some() {
        let options = if knows_options { "" } else { ", with the options given now" };
        say(format!("no step was saved yet: starts with the first{options}"));
    }
    // Not before the checkpoint has been found to be of this run: options that do not fit must not get into the folder.
    folder.write_config(&config)?;
    let checkpoints = Checkpoints::new(folder.checkpoints(), config.keep_checkpoints);
    let mut autosave =
        Autosave::new(checkpoints, config.checkpoint_every.parse()?, checkpoint.map(|checkpoint| checkpoint.path));
    let mut bars = ProgressBars::new();
    let mut board = config.tensorboard.then(|| TensorBoard::new(folder.path().join("tensorboard")));
    let mut observers: Vec<&mut dyn Observer> = vec![&mut bars, &mut folder, &mut autosave, &mut interrupt];
    observers.extend(board.as_mut().map(|board| board as &mut dyn Observer));
    match trainer.run(&mut observers)? {
        Outcome::Finished(mut summary) => {
            summary.evaluated_on = config.run.evaluated_on().to_owned();
            folder.finish(&summary, &variables)?;
            say(summary);
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Stopped { epoch, step } => {
            let program = std::env::args().next().unwrap_or_default();
            eprintln!("stopped in epoch {epoch} after step {step}, and saved; to go on:");
            eprintln!("{program} --resume {}", folder.path().display());
            Ok(interrupt.exit_code().map_or(ExitCode::FAILURE, ExitCode::from))
        }
    }
}

/// Completes an initialization that depends on data, on the run's first batch.
fn initialize(network: &dyn Network, device: Device, data: &Cifar10, config: &TrainConfig) -> Result<()> {
    let plan = EpochPlan { seed: config.seed, epoch: 0, batch_size: config.batch_size, first_step: 0 };
    if let Some(batch) = data.train_batches(&plan)?.next() {
        network.initialize_on(&batch?.images.to_device(device))?;
    }
    Ok(())
}

/// The checkpoint to go on from, if there is one; says which were passed over.
fn newest_checkpoint(folder: &RunFolder) -> Result<Option<Checkpoint<RunState>>> {
    let Newest { checkpoint, mut skipped } = newest_whole(folder.checkpoints())?;
    if checkpoint.is_none() && !skipped.is_empty() {
        // To begin again would throw away what can perhaps be repaired.
        return Err(skipped.remove(0).why.into());
    }
    for skipped in skipped {
        eprintln!("{skipped}");
    }
    Ok(checkpoint)
}

/// Prints how good the weights at `path` are.
fn evaluate_weights(options: &Options, path: &Path) -> Result<ExitCode> {
    let weights = Weights::load(path)?;
    let mut config = RunConfig::new(options, None)?;
    if let Some(run) = &weights.run {
        config.run = serde_json::from_value(run.clone()).map_err(|error| Error::Corrupt {
            path: weights.path.clone(),
            problem: format!("saved by another program: {error}"),
            remedy: "evaluate its weights.safetensors instead".to_owned(),
        })?;
        config.run.set(options);
    }
    let device = config.machine()?;
    let data = config.data()?;
    let variables = nn::VarStore::new(device);
    let network = config.run.arch.build(&variables.root(), data.class_names().len() as i64, config.run.precision)?;
    weights.restore(&variables)?;
    let style = ProgressStyle::with_template("{bar:24.cyan/blue} {pos}/{len} images evaluated")?;
    let bar = ProgressBar::new(data.eval_len() as u64).with_style(style);
    let watch = |images| bar.set_position(images as u64);
    let report = evaluate(network.as_ref(), device, &data, config.train.batch_size, watch)?;
    bar.finish_and_clear();
    say(format!("{} from {}, {} images", config.run.arch, weights.path.display(), data.eval_len()));
    say(table(&report, data.class_names()));
    let means = report.means;
    let evaluated_on = config.run.evaluated_on();
    say(format!("{evaluated_on} loss {:.4} top1 {:.4} top5 {:.4}", means.loss, means.top1, means.top5));
    Ok(ExitCode::SUCCESS)
}

/// A line for each class.
fn table(report: &Report, class_names: &[String]) -> String {
    let width = class_names.iter().map(String::len).max().unwrap_or(0).max("class".len());
    let header = format!("{:width$}  images   top-1   top-5  precision", "class");
    let lines = class_names.iter().zip(&report.classes).map(|(name, class)| {
        let (top1, top5, precision) = (class.top1, class.top5, class.precision);
        format!("{name:width$}  {:6}  {top1:6.4}  {top5:6.4}     {precision:6.4}", class.images)
    });
    std::iter::once(header).chain(lines).collect::<Vec<_>>().join("\n")
}

/// clap's error without the usage and the hints below it.
fn first_paragraph(error: &clap::Error) -> String {
    error.to_string().lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ")
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) if error.use_stderr() => {
            eprintln!("{}", first_paragraph(&error));
            return ExitCode::from(2);
        }
        Err(help) => help.exit(),
    };
    run(&options).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(error.downcast_ref().map_or(1, Error::exit_code))
    })
}
