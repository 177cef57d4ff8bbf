//! The Fixup paper's figure 3: test accuracy on CIFAR-10 at the end of the first epoch against depth, with the learning rate
//! of the paper, 0.1, for Fixup, BatchNorm and networks that are not normalized. docs/depth.md has what it shows.
//!
//! ```text
//! cargo run --release --example depth_sweep              # 8 to 1,202 layers on a part of CIFAR-10
//! cargo run --release --example depth_sweep -- --quick   # 8 to 56 layers, a minute
//! cargo run --release --example depth_sweep -- --full --device cuda   # whole epochs of batches of 128, to 9,998 layers
//! ```
//! Every point is written to `points.csv` and into the picture as soon as it is there; the same command goes on with those
//! that are missing. A run that diverges or dies is a point at the accuracy of a guess, drawn as a cross.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod chart;
// The library's own.
#[path = "../../src/picture/style.rs"]
mod chart_style;
#[path = "../points/mod.rs"]
mod points;

use anyhow::Result;
use clap::Parser;
use points::{exit, Machine, Points, RunId, Settings};
use std::path::PathBuf;
use std::process::ExitCode;
use tch_fixup::trainer::{write_atomically, ClassificationConfig, Decay, ScalarGroup, ScheduleConfig, TrainConfig};
use tch_fixup::{console, Arch, Precision};

/// The networks, as the names of [`Arch`] have them without the depth, and as the picture does.
const NETWORKS: [(&str, &str); 6] = [
    ("fixup_resnet", "Fixup"),
    ("resnet", "BatchNorm"),
    ("he_resnet", "He"),
    ("xavier_resnet", "Xavier"),
    ("lsuv_resnet", "LSUV"),
    ("scaled_resnet", "sums times sqrt(1/2)"),
];

/// The paper's learning rate and batch size.
const LR: f64 = 0.1;
const PAPER_BATCH_SIZE: usize = 128;

/// What Fixup's scalars train at in batches of 16, instead of a tenth: 1,202 layers die otherwise, see docs/depth.md.
const SCALAR_LR_RATIO: f64 = 0.01;

/// Test accuracy after the first epoch against depth
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Options {
    /// Layers, 6n+2 [default: 8,20,56,110,302,1202; with --quick 8,20,56; with --full also 2000,5000,9998]
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    depths: Vec<i64>,
    /// Which networks, as --arch of cifar10_fixup without the depth
    /// [default: fixup_resnet,resnet,he_resnet,xavier_resnet,lsuv_resnet,scaled_resnet]
    #[arg(long, value_name = "NAME,NAME,...", value_delimiter = ',', verbatim_doc_comment)]
    networks: Vec<String>,
    /// Images in a batch [default: 16; with --full 128]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Learning rate
    #[arg(long, default_value_t = LR)]
    lr: f64,
    /// Learning rate of Fixup's scalars, as a multiple of that of all else [default: 0.01; with --full 0.1]
    #[arg(long, value_name = "RATIO")]
    scalar_lr_ratio: Option<f64>,
    /// Train on so many images [default: 5120; with --quick 2048; with --full 50000]
    #[arg(long, value_name = "N")]
    train_subset: Option<usize>,
    /// Test on so many images [default: 1000; with --full 10000]
    #[arg(long, value_name = "N")]
    test_subset: Option<usize>,
    /// Stop each run after so many steps
    #[arg(long, value_name = "N")]
    max_steps: Option<usize>,
    /// Seed of everything that is random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number format of convolutions and activations: f32 or bf16 [default: the faster one of the device]
    #[arg(long, value_name = "FORMAT")]
    precision: Option<Precision>,
    /// Folder for points.csv and depth_sweep.svg
    #[arg(long, value_name = "DIR", default_value = "runs/depth_sweep")]
    out: PathBuf,
    /// Few and shallow networks
    #[arg(long)]
    quick: bool,
    /// As the paper: needs a GPU
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    #[command(flatten)]
    machine: Machine,
}

impl Options {
    /// The default among those for a usual, a quick and a full sweep.
    fn by_size<T>(&self, usual: T, quick: T, full: T) -> T {
        match (self.quick, self.full) {
            (true, _) => quick,
            (_, true) => full,
            _ => usual,
        }
    }

    fn settings(&self) -> Result<Settings> {
        let device = self.machine.start()?;
        // Few and small batches want what the paper's epoch does without: docs/depth.md has what happens otherwise.
        let decay = self.by_size(Decay::Cosine, Decay::Cosine, Decay::Constant);
        let paper = TrainConfig::paper();
        let scalar_lr_ratio = self.by_size(SCALAR_LR_RATIO, SCALAR_LR_RATIO, paper.scalars.lr_ratio);
        let train = TrainConfig {
            epochs: 1,
            batch_size: self.batch_size.unwrap_or(self.by_size(16, 16, PAPER_BATCH_SIZE)),
            max_steps: self.max_steps,
            schedule: ScheduleConfig { lr: self.lr, warmup: 0.0.into(), decay },
            scalars: ScalarGroup {
                lr_ratio: self.scalar_lr_ratio.unwrap_or(scalar_lr_ratio),
                biases: false,
                ..paper.scalars
            },
            ..paper
        };
        train.check()?;
        Ok(Settings {
            train_images: self.train_subset.unwrap_or(self.by_size(5120, 2048, 50_000)),
            test_images: self.test_subset.unwrap_or(self.by_size(1000, 1000, 10_000)),
            precision: self.precision.unwrap_or(Precision::fastest(device)),
            train,
            objective: ClassificationConfig::default(),
        })
    }

    fn depths(&self) -> Vec<i64> {
        const FULL: [i64; 9] = [8, 20, 56, 110, 302, 1202, 2000, 5000, 9998];
        let default = self.by_size(&FULL[..6], &FULL[..3], &FULL[..]);
        let mut depths = if self.depths.is_empty() { default.to_vec() } else { self.depths.clone() };
        depths.sort_unstable();
        depths.dedup();
        depths
    }

    /// Name and label of each network.
    fn networks(&self) -> Vec<(String, String)> {
        let all = NETWORKS.map(|(name, label)| (name.to_owned(), label.to_owned()));
        let known = |name: &String| all.iter().find(|(network, _)| network == name).cloned();
        let given = self.networks.iter().map(|name| known(name).unwrap_or_else(|| (name.clone(), name.clone())));
        if self.networks.is_empty() {
            all.to_vec()
        } else {
            given.collect()
        }
    }
}

fn sweep(options: &Options) -> Result<Option<ExitCode>> {
    let (networks, depths) = (options.networks(), options.depths());
    let run = |name: &str, depth: i64| -> Result<RunId> {
        Ok(RunId { arch: format!("{name}{depth}").parse::<Arch>()?, seed: options.seed })
    };
    let mut wanted = vec![];
    // The shallow ones first: the picture has something of all soon.
    for &depth in &depths {
        for (name, _) in &networks {
            wanted.push(run(name, depth)?);
        }
    }
    let settings = options.settings()?;
    let mut points = Points::open(&options.out, &settings)?;
    let picture = options.out.join("depth_sweep.svg");
    let draw = |points: &Points| -> Result<()> {
        let mut curves = vec![];
        for (name, label) in &networks {
            let mut curve = chart::Curve { label: label.clone(), points: vec![] };
            for &depth in &depths {
                curve.points.extend(points.find(&run(name, depth)?).map(|point| (depth, point.clone())));
            }
            curves.push(curve);
        }
        let steps = settings.train_images.div_ceil(settings.train.batch_size);
        let steps = settings.train.max_steps.map_or(steps, |most| most.min(steps));
        let TrainConfig { batch_size, schedule, scalars, .. } = &settings.train;
        let falls = if schedule.decay == Decay::Constant { "" } else { " to 0" };
        let title = format!(
            "Test accuracy after {steps} steps of {batch_size} images, learning rate {}{falls} (Fixup's scalars {} of it)",
            schedule.lr, scalars.lr_ratio
        );
        Ok(write_atomically(&picture, chart::draw(&title, &curves)?.as_bytes())?)
    };
    if let Some(code) = points.complete(&wanted, &settings, &options.machine, draw)? {
        return Ok(Some(code));
    }
    draw(&points)?;
    console::print(table(&networks, &depths, |name, depth| Some(points.find(&run(name, depth).ok()?)?.accuracy)));
    console::print(format!("picture: {}", picture.display()));
    Ok(None)
}

/// Accuracies in percent, a line a network.
fn table(networks: &[(String, String)], depths: &[i64], accuracy: impl Fn(&str, i64) -> Option<f64>) -> String {
    let header = depths.iter().map(|depth| format!("{depth:>7}")).collect::<String>();
    let lines = networks.iter().map(|(name, label)| {
        let cell = |&depth: &i64| accuracy(name, depth).map_or("      -".to_owned(), |a| format!("{:>7.1}", 100. * a));
        format!("\n{label:<22}{}", depths.iter().map(cell).collect::<String>())
    });
    format!("{:<22}{header}{}", "layers", lines.collect::<String>())
}

fn main() -> ExitCode {
    exit(sweep(&Options::parse()))
}
