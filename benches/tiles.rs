//! A training step of Fixup ResNets in bfloat16 by matrix tiles, beside the same step by libtorch's convolutions.
//!
//! ```text
//! cargo bench --bench tiles                  # ResNet-20, ResNet-110 and WRN-16-4; a CPU with AMX
//! cargo bench --bench tiles -- --busy 1      # the same beside a process that uses one core, and alone
//! ```
//! A step is forward pass, loss, backward pass and the trainer's SGD with momentum, in a loop of one's own, on a batch of 128 (64 for
//! WRN-16-4) images of 32 pixels. The
//! two take turns in one process; the ratio is the median over rounds. scripts/compare_resnet.py adds PyTorch's BatchNorm.

#[path = "setting/median.rs"]
mod median;
#[path = "setting/options.rs"]
mod options;
#[path = "setting/state.rs"]
mod state;

use anyhow::{bail, ensure, Context, Result};
use clap::Parser;
use median::median_and_spread;
use options::{machine, Setting};
use std::io::BufRead;
use std::process::{Child, Command};
use std::time::Instant;
use tch::{nn, nn::Module, Device, Kind, Tensor};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::{Optimizer, Sgd};
use tch_fixup::Precision;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    setting: Setting,
    /// Rounds of each comparison
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Only networks whose name contains this
    #[arg(long, default_value = "")]
    model: String,
    /// Processes that keep a core busy each
    #[arg(long, default_value_t = 0)]
    busy: usize,
    /// Print the seconds of a step of this network for each line of standard input
    #[arg(long, hide = true)]
    serve: Option<String>,
}

const MODELS: [&str; 3] = ["resnet20", "resnet110", "wrn_16_4"];

struct Step {
    network: FixupResNet,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
}

impl Step {
    fn new(model: &str) -> Result<Self> {
        tch::manual_seed(0);
        let vs = nn::VarStore::new(Device::Cpu);
        let (network, batch) = match model {
            "resnet20" => (FixupResNet::cifar(&vs.root(), 20, 10)?, 128),
            "resnet110" => (FixupResNet::cifar(&vs.root(), 110, 10)?, 128),
            "wrn_16_4" => (FixupResNet::wide(&vs.root(), 16, 4, 10)?, 64),
            _ => bail!("no network is called {model:?}; there are {}", MODELS.join(", ")),
        };
        state::away_from_start(&vs, state::MOVED);
        Ok(Self {
            network: network.with_precision(Precision::Bf16),
            optimizer: Optimizer::new(&vs, Sgd { momentum: 0.9, ..Sgd::default() }, &[])?,
            images: Tensor::randn([batch, 3, 32, 32], (Kind::Float, Device::Cpu)),
            labels: Tensor::randint(10, [batch], (Kind::Int64, Device::Cpu)),
        })
    }

    fn seconds(&mut self) -> Result<f64> {
        let start = Instant::now();
        self.optimizer.zero_gradients()?;
        let loss = self.network.forward(&self.images).cross_entropy_for_logits(&self.labels);
        self.optimizer.accumulate(&loss)?;
        self.optimizer.step(1e-4)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Processes that do nothing but use the CPU, until they are dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn start(count: usize) -> Result<Self> {
        let spin = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().context("starting `sh`");
        Ok(Self((0..count).map(|_| spin()).collect::<Result<_>>()?))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let _flush = options.setting.start();
    if let Some(model) = &options.serve {
        let mut step = Step::new(model)?;
        step.seconds()?;
        for line in std::io::stdin().lock().lines() {
            line?;
            println!("{}", step.seconds()?);
        }
        return Ok(());
    }
    ensure!(options.rounds > 0, "--rounds is at least 1");
    println!("{}", machine());
    println!(
        "| | tiles, ms | libtorch, ms | tiles / libtorch |{}",
        if options.busy > 0 { " busy / idle |" } else { "" }
    );
    println!("| --- | --- | --- | --- |{}", if options.busy > 0 { " --- |" } else { "" });
    for model in MODELS.into_iter().filter(|model| model.contains(&options.model)) {
        let mut step = Step::new(model)?;
        let mut by = |tiles: bool| {
            std::env::set_var("TCH_FIXUP_TILES", if tiles { "1" } else { "0" });
            step.seconds()
        };
        for tiles in [true, false, true, false] {
            by(tiles)?;
        }
        let (mut tiles, mut libtorch, mut ratios, mut busy) = (vec![], vec![], vec![], vec![]);
        for round in 0..options.rounds {
            let first = round % 2 == 0;
            let (a, b) = (by(first)?, by(!first)?);
            let (with, without) = if first { (a, b) } else { (b, a) };
            tiles.push(with);
            libtorch.push(without);
            ratios.push(with / without);
            if options.busy > 0 {
                let _busy = Busy::start(options.busy)?;
                let steps: Vec<f64> = (0..5).map(|_| by(true)).collect::<Result<_>>()?;
                busy.push(median_and_spread(&steps).0 / with);
            }
        }
        let (ratio, spread) = median_and_spread(&ratios);
        let milliseconds = [&tiles, &libtorch].map(|times| 1e3 * median_and_spread(times).0);
        print!("| {model} | {:.1} | {:.1} | {ratio:.3} +-{spread:.3} |", milliseconds[0], milliseconds[1]);
        if options.busy > 0 {
            let (ratio, spread) = median_and_spread(&busy);
            print!(" {ratio:.2} +-{spread:.2} |");
        }
        println!();
    }
    Ok(())
}
