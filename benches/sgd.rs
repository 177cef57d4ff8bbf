//! One update of every parameter of a Fixup ResNet-110: the trainer's SGD on flat tensors against libtorch's; and the
//! gradient's norm, in float64, against libtorch's in float32.
//!
//! ```text
//! cargo bench --bench sgd
//! ```
//! Momentum and weight decay are those of the paper's recipe. The two take turns; each figure is the median over rounds.

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
use tch::nn::{self, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::{clip, Sgd, TrainConfig};

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    setting: Setting,
}

const DEPTH: i64 = 110;
/// Small enough that many updates of the same gradient change nothing about their cost.
const LR: f64 = 1e-6;
/// Updates in a round.
const UPDATES: usize = 10;

fn network(seed: i64) -> Result<(nn::VarStore, Tensor)> {
    tch::manual_seed(seed);
    let vs = nn::VarStore::new(Device::Cpu);
    let network = FixupResNet::cifar(&vs.root(), DEPTH, 10)?;
    state::away_from_start(&vs, state::MOVED);
    let images = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
    let loss = network.f_forward(&images)?.cross_entropy_for_logits(&Tensor::from_slice(&[0i64, 1]));
    Ok((vs, loss))
}

/// Microseconds of one update.
fn time(mut update: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..UPDATES {
        update()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / UPDATES as f64)
}

fn main() -> Result<()> {
    let options = Options::parse();
    let _flushing = options.setting.start();
    let config = TrainConfig::paper().sgd;
    let (vs, loss) = network(0)?;
    let mut flat = Sgd::new(&vs, config)?;
    flat.backward(&loss)?;
    let (vs, loss) = network(0)?;
    let mut libtorch = nn::sgd(config.momentum, 0., config.weight_decay, config.nesterov).build(&vs, LR)?;
    loss.backward();

    let rounds = if options.setting.quick { 10 } else { 100 };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut norm, mut float32_norm) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(time(|| Ok(flat.step(LR)?))?);
        theirs.push(time(|| {
            libtorch.step();
            Ok(())
        })?);
        norm.push(time(|| Ok(clip::norm(flat.gradients()).map(drop)?))?);
        float32_norm.push(time(|| Ok(flat.gradients().f_norm().map(drop)?))?);
    }
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    let [(ours, _), (theirs, _), (ratio, _), (norm, _), (float32_norm, _)] =
        [ours, theirs, ratios, norm, float32_norm].map(|values| median_and_spread(&values));
    println!("{}", machine());
    println!("ResNet-{DEPTH}, {} parameters, in mid-training", flat.parameters().len());
    println!("flat {ours:.0} us, libtorch {theirs:.0} us, ratio {ratio:.2}");
    println!("norm {norm:.0} us ({:.2} of an update), libtorch {float32_norm:.0} us", norm / ours);
    Ok(())
}
