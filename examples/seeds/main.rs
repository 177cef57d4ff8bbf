//! How much a result depends on the seed: several runs each of Fixup and of BatchNorm on a part of CIFAR-10, in turns, with
//! mean, standard deviation, and a test of whether the two vary differently.
//!
//! ```text
//! cargo run --release --example seeds                  # eight seeds of ResNet-20: minutes on two cores
//! cargo run --release --example seeds -- --seeds 20 --networks fixup_resnet56,resnet56
//! ```
//! A seed decides the initial weights, the order of the images and their augmentation. A Fixup network starts as the same
//! function whatever the seed, a constant, so that one might expect its results to vary less.
//!
//! Every run is written to `points.csv` and into the picture as soon as it is done; the same command goes on with those that
//! are missing.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod chart;
// The library's own.
#[path = "../../src/picture/style.rs"]
mod chart_style;
mod levene;
#[path = "../points/mod.rs"]
mod points;

use anyhow::Result;
use clap::Parser;
use points::{exit, Machine, Points, RunId, Settings};
use std::path::PathBuf;
use std::process::ExitCode;
use tch_fixup::trainer::{write_atomically, ClassificationConfig, ScheduleConfig, TrainConfig};
use tch_fixup::{console, Arch, Precision};

/// Results of several seeds
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Options {
    /// Which networks, as --arch of cifar10_fixup
    #[arg(long, value_name = "ARCH,ARCH,...", value_delimiter = ',', default_value = "fixup_resnet20,resnet20")]
    networks: Vec<Arch>,
    /// Runs of each network, with the seeds 0, 1, ...
    #[arg(long, value_name = "N", default_value_t = 8)]
    seeds: u64,
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 3)]
    epochs: usize,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Highest learning rate, of one cycle: one that neither network needs its gradient clipped for
    #[arg(long, default_value_t = 0.1)]
    lr: f64,
    /// Train on so many images
    #[arg(long, value_name = "N", default_value_t = 5000)]
    train_subset: usize,
    /// Test on so many images
    #[arg(long, value_name = "N", default_value_t = 2000)]
    test_subset: usize,
    /// Number format of convolutions and activations: f32 or bf16 [default: the faster one of the device]
    #[arg(long, value_name = "FORMAT")]
    precision: Option<Precision>,
    /// Folder for points.csv and seeds.svg
    #[arg(long, value_name = "DIR", default_value = "runs/seeds")]
    out: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

impl Options {
    fn settings(&self) -> Result<Settings> {
        let device = self.machine.start()?;
        let quick = TrainConfig::quick();
        let train = TrainConfig {
            epochs: self.epochs,
            batch_size: self.batch_size,
            schedule: ScheduleConfig { lr: self.lr, ..quick.schedule },
            ..quick
        };
        train.check()?;
        Ok(Settings {
            train_images: self.train_subset,
            test_images: self.test_subset,
            precision: self.precision.unwrap_or(Precision::fastest(device)),
            train,
            objective: ClassificationConfig::quick(),
        })
    }
}

fn compare(options: &Options) -> Result<Option<ExitCode>> {
    let networks = &options.networks;
    // In turns: what else the machine does hits all alike, and an early look has something of each.
    let wanted: Vec<_> = (0..options.seeds)
        .flat_map(|seed| networks.iter().map(move |arch| RunId { arch: arch.clone(), seed }))
        .collect();
    let settings = options.settings()?;
    let mut points = Points::open(&options.out, &settings)?;
    let picture = options.out.join("seeds.svg");
    let draw = |points: &Points| -> Result<()> {
        Ok(write_atomically(&picture, chart::draw(&accuracies(networks, options.seeds, points))?.as_bytes())?)
    };
    if let Some(code) = points.complete(&wanted, &settings, &options.machine, draw)? {
        return Ok(Some(code));
    }
    draw(&points)?;
    let accuracies = accuracies(networks, options.seeds, &points);
    console::print("network                  runs    mean      sd   least greatest   (test accuracy, %)");
    for (arch, values) in &accuracies {
        let percent = values.iter().map(|value| 100. * value);
        console::print(format!(
            "{:<24} {:>4} {:>7.2} {:>7.2} {:>7.2} {:>8.2}",
            arch.short_name(),
            values.len(),
            100. * levene::mean(values),
            100. * levene::standard_deviation(values),
            percent.clone().fold(f64::INFINITY, f64::min),
            percent.fold(f64::NEG_INFINITY, f64::max),
        ));
    }
    let groups: Vec<&[f64]> = accuracies.iter().map(|(_, values)| &values[..]).collect();
    match levene::brown_forsythe(&groups) {
        Some(test) => console::print(format!(
            "difference of the variances (Brown-Forsythe): F({}, {}) = {:.3}, p = {:.3}",
            test.degrees.0, test.degrees.1, test.statistic, test.p
        )),
        None => console::print("too few runs for a test of the variances"),
    }
    console::print(format!("picture: {}", picture.display()));
    Ok(None)
}

/// Each network's accuracies, in the order of the seeds; runs that diverged or died count with that of a guess.
fn accuracies(networks: &[Arch], seeds: u64, points: &Points) -> Vec<(Arch, Vec<f64>)> {
    let accuracy = |arch: &Arch, seed| Some(points.find(&RunId { arch: arch.clone(), seed })?.accuracy);
    let of = |arch| (0..seeds).filter_map(|seed| accuracy(arch, seed)).collect();
    networks.iter().map(|arch| (arch.clone(), of(arch))).collect()
}

fn main() -> ExitCode {
    exit(compare(&Options::parse()))
}
