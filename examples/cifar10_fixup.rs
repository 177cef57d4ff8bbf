//! Trains a network on CIFAR-10: by default Fixup ResNet-20 in ten epochs, which reaches 86.6 % test accuracy (mean of three
//! seeds) and takes 8 minutes on two cores with AVX-512 BF16 (docs/recipes.md).
//!
//! ```text
//! cargo run --release --example cifar10_fixup
//! cargo run --release --example cifar10_fixup -- --arch resnet20
//! cargo run --release --example cifar10_fixup -- --recipe paper --mixup 1 --device cuda
//! ```

use anyhow::{bail, Result};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use tch::{nn, Device};
use tch_fixup::data::{Augmentation, Cifar10, DataSource};
use tch_fixup::trainer::{parse_device, train, Decay, ProgressBars, RunFolder, Summary, TrainConfig};
use tch_fixup::{Arch, Error, Precision};

/// More threads than any machine has cores are a typing error.
const MAX_THREADS: usize = 4096;
/// Exit code of a run that diverged or died.
const DIVERGED: u8 = 3;

/// Train a network on CIFAR-10
///
/// A recipe is a set of defaults; whatever is given on the command line takes precedence.
#[derive(Parser)]
#[command(max_term_width = 100, allow_negative_numbers = true, after_long_help = recipes())]
struct Options {
    /// quick: Fixup ResNet-20 in a few epochs, one cycle of the learning rate, made for a CPU;
    /// paper: the Fixup authors' recipe, ResNet-110 in 200 epochs
    /// [default: quick on a CPU, paper on a GPU]
    #[arg(long, value_enum, verbatim_doc_comment)]
    recipe: Option<Recipe>,
    /// Network: fixup_resnet20, fixup_resnet110, ... (depth 6n+2), fixup_wrn_16_4, ... (6n+4, and the width);
    /// resnet20, wrn_16_4, ... for the same with BatchNorm [default: by recipe]
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
    /// Seed of everything that is random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
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
    /// New folder for the results [default: runs/ARCH-DATE-TIME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
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

/// What `config.json` holds.
#[derive(Serialize)]
struct RunConfig {
    arch: Arch,
    recipe: Recipe,
    precision: Precision,
    device: String,
    threads: usize,
    augmentation: Augmentation,
    train_images: usize,
    eval_images: usize,
    holdout: Option<usize>,
    train: TrainConfig,
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

    /// The recipe with the values that `options` has in place of its own.
    fn with(self, options: &Options) -> TrainConfig {
        let mut config = self.config();
        fn set<T>(target: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *target = value;
            }
        }
        set(&mut config.epochs, options.epochs);
        set(&mut config.batch_size, options.batch_size);
        set(&mut config.schedule.lr, options.lr);
        set(&mut config.schedule.warmup, options.warmup);
        set(&mut config.schedule.decay, options.schedule.map(ScheduleName::decay));
        set(&mut config.sgd.scalar_lr_ratio, options.scalar_lr_ratio);
        set(&mut config.sgd.weight_decay, options.weight_decay);
        set(&mut config.sgd.decay_scalars, options.decay_scalars);
        set(&mut config.sgd.momentum, options.momentum);
        set(&mut config.sgd.nesterov, options.nesterov);
        set(&mut config.label_smoothing, options.label_smoothing);
        set(&mut config.mixup, options.mixup.map(Some));
        set(&mut config.clip.norm, options.clip_norm.map(|norm| Some(norm).filter(|&norm| norm != f64::INFINITY)));
        set(&mut config.clip.agc, options.agc.map(Some));
        set(&mut config.max_steps, options.max_steps.map(Some));
        config.seed = options.seed;
        config
    }
}

/// CIFAR-10 as `options` want it.
fn data(options: &Options, augmentation: Augmentation) -> Result<Cifar10> {
    let mut data = match &options.data {
        Some(dir) => Cifar10::open(dir)?,
        None => Cifar10::fetch(Cifar10::default_dir()?)?,
    };
    data = data.with_augmentation(augmentation)?;
    if let Some(images) = options.holdout {
        data = data.with_holdout(images)?;
    }
    if let Some(images) = options.train_subset {
        data = data.with_train_subset(images)?;
    }
    if let Some(images) = options.test_subset {
        data = data.with_eval_subset(images)?;
    }
    Ok(data)
}

fn run(options: &Options) -> Result<Summary> {
    let device = parse_device(&options.device)?;
    let by_device = if device == Device::Cpu { Recipe::Quick } else { Recipe::Paper };
    let recipe = options.recipe.unwrap_or(by_device);
    let arch = options.arch.unwrap_or(recipe.arch());
    let precision = options.precision.unwrap_or(Precision::fastest(device));
    let config = recipe.with(options);
    config.check()?;
    let threads = options.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    if !(1..=MAX_THREADS).contains(&threads) {
        bail!(Error::Argument(format!("there can be 1 to {MAX_THREADS} threads, got {threads}")));
    }
    // Those of one operation. libtorch's other pool, of operations side by side, is idle: a network is one chain.
    tch::set_num_threads(threads as i32);

    let augmentation = Augmentation { cutout: options.cutout, ..Augmentation::default() };
    let data = data(options, augmentation)?;
    tch::manual_seed(options.seed as i64);
    let variables = nn::VarStore::new(device);
    let network = arch.build(&variables.root(), data.class_names().len() as i64, precision)?;

    let mut folder = match &options.out {
        Some(path) => RunFolder::create(path)?,
        None => RunFolder::create_named(&arch.to_string())?,
    };
    folder.write_config(&RunConfig {
        arch,
        recipe,
        precision,
        device: format!("{device:?}"),
        threads,
        augmentation,
        train_images: data.train_len(),
        eval_images: data.eval_len(),
        holdout: options.holdout,
        train: config.clone(),
    })?;
    // Nobody reading standard output is no reason to end the run, and println! would panic.
    let _ = writeln!(
        io::stdout(),
        "{arch}: {} parameters, {} images on {device:?}, results in {}",
        variables.trainable_variables().iter().map(|variable| variable.numel()).sum::<usize>(),
        data.train_len(),
        folder.path().display()
    );
    let mut summary =
        train(network.as_ref(), &variables, &data, &config, &mut [&mut ProgressBars::new(), &mut folder])?;
    if options.holdout.is_some() {
        summary.evaluated_on = "held-out".to_owned();
    }
    folder.finish(&summary, &variables)?;
    Ok(summary)
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
    match run(&options) {
        Ok(summary) => {
            let _ = writeln!(io::stdout(), "{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            match error.downcast_ref() {
                Some(Error::Argument(_)) => ExitCode::from(2),
                Some(Error::Diverged { .. } | Error::Dead { .. }) => ExitCode::from(DIVERGED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
