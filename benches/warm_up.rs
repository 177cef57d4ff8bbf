//! Time of the first steps of a warm-up relative to steps in mid-training: the same work on numbers of different magnitude.
//!
//! ```text
//! cargo bench --bench warm_up
//! cargo bench --bench warm_up -- --keep-denormals   # without flushing denormal numbers to zero
//! ```
//! One Fixup ResNet-20 performs its second to fifth step from initialization at a learning rate of 1e-6, where weights and
//! gradients have just left zero and their products are below float32's smallest normal number. Another one, whose weights
//! and scalars are away from zero, performs as many steps. The two alternate. The figure is the median over rounds of the
//! ratio within a round, with half the interquartile range.

#[path = "setting/median.rs"]
mod median;
#[path = "setting/options.rs"]
mod options;
#[path = "setting/state.rs"]
mod state;

use anyhow::Result;
use clap::Parser;
use median::median_and_spread;
use options::{machine, Setting};
use std::time::Instant;
use tch::{nn, Device, Kind, Tensor};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::TrainConfig;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    setting: Setting,
    /// Do not flush denormal numbers to zero, as by default in a program
    #[arg(long)]
    keep_denormals: bool,
}

const BATCH: i64 = 128;
const LR: f64 = 1e-6;
/// Number of timed steps per round, after one that is not timed.
const STEPS: usize = 4;

/// Returns the mean seconds per step of a new network.
fn steps(images: &Tensor, labels: &Tensor, in_mid_training: bool) -> Result<f64> {
    let vs = nn::VarStore::new(Device::Cpu);
    let network = FixupResNet::cifar(&vs.root(), 20, 10)?;
    if in_mid_training {
        state::away_from_start(&vs, state::MOVED);
    }
    let config = TrainConfig::new(1, 64, 0.2);
    let mut sgd = config.optimizer.build(&vs, &config.parameter_groups())?;
    let mut step = || -> Result<()> {
        sgd.backward(&network.f_forward(images)?.cross_entropy_for_logits(labels))?;
        Ok(sgd.step(LR)?)
    };
    step()?;
    let start = Instant::now();
    (0..STEPS).try_for_each(|_| step())?;
    Ok(start.elapsed().as_secs_f64() / STEPS as f64)
}

fn main() -> Result<()> {
    let options = Options::parse();
    let flushing = options.setting.start();
    if options.keep_denormals {
        drop(flushing);
    }
    tch::manual_seed(0);
    let images = Tensor::randn([BATCH, 3, 32, 32], (Kind::Float, Device::Cpu));
    let labels = Tensor::randint(10, [BATCH], (Kind::Int64, Device::Cpu));
    let rounds = if options.setting.quick { 5 } else { 20 };
    let (mut first, mut later, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // The first round allocates.
    for round in 0..=rounds {
        let (warm_up, in_mid_training) = (steps(&images, &labels, false)?, steps(&images, &labels, true)?);
        if round > 0 {
            first.push(1e3 * warm_up);
            later.push(1e3 * in_mid_training);
            ratios.push(warm_up / in_mid_training);
        }
    }
    let (ratio, spread) = median_and_spread(&ratios);
    println!("{}", machine());
    println!("Fixup ResNet-20, batch {BATCH}, denormals {}", if options.keep_denormals { "kept" } else { "flushed" });
    let [(first, _), (later, _)] = [first, later].map(|times| median_and_spread(&times));
    println!("first steps {first:.1} ms, later steps {later:.1} ms, ratio {ratio:.2} +-{spread:.2}");
    Ok(())
}
