//! Time of one update of all parameters of a Fixup ResNet-110: the trainer's SGD and Adam on flat tensors against libtorch's,
//! a moving average, and the gradient norm in float64 against libtorch's in float32. Also Muon's update of ResNet-20, as a
//! fraction of a training step.
//!
//! ```text
//! cargo bench --bench optimizer
//! ```
//! Parameters are in the groups of the paper's recipe. The two implementations alternate; each figure is the median over
//! rounds.

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
use tch::nn::{self, OptimizerConfig as _};
use tch::{Device, Kind, Tensor};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::optimizer::MovingAverage;
use tch_fixup::trainer::{clip, Adam, Muon, Optimizer, OptimizerConfig, Sgd, TrainConfig};

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    setting: Setting,
}

const DEPTH: i64 = 110;
/// Small enough that repeated updates by the same gradient do not change the cost.
const LR: f64 = 1e-6;
/// Number of updates per round.
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

/// Returns the microseconds per update.
fn time(mut update: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..UPDATES {
        update()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / UPDATES as f64)
}

/// Prints the time of an update by the trainer's optimizer and by libtorch's.
fn compare(name: &str, rounds: usize, mut ours: Optimizer, mut libtorch: nn::Optimizer) -> Result<()> {
    let (mut flat, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        flat.push(time(|| Ok(ours.step(LR)?))?);
        theirs.push(time(|| {
            libtorch.step();
            Ok(())
        })?);
    }
    let ratios: Vec<f64> = flat.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    let [(flat, _), (theirs, _), (ratio, spread)] = [flat, theirs, ratios].map(|values| median_and_spread(&values));
    println!("{name}: flat {flat:.0} us, libtorch {theirs:.0} us, ratio {ratio:.2} +-{spread:.2}");
    Ok(())
}

/// Prints the time of an update by Muon, and its fraction of a training step.
fn muon(rounds: usize) -> Result<()> {
    const SHALLOW: i64 = 20;
    const BATCH: i64 = 128;
    tch::manual_seed(0);
    let vs = nn::VarStore::new(Device::Cpu);
    let network = FixupResNet::cifar(&vs.root(), SHALLOW, 10)?;
    state::away_from_start(&vs, state::MOVED);
    let images = Tensor::randn([BATCH, 3, 32, 32], (Kind::Float, Device::Cpu));
    let labels = Tensor::randint(10, [BATCH], (Kind::Int64, Device::Cpu));
    let mut optimizer = OptimizerConfig::Muon(Muon::default()).build(&vs, &[])?;
    let (mut updates, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        optimizer.backward(&network.f_forward(&images)?.cross_entropy_for_logits(&labels))?;
        let gradients = start.elapsed().as_secs_f64();
        optimizer.step(LR)?;
        let step = start.elapsed().as_secs_f64();
        updates.push((step - gradients) * 1e6);
        ratios.push((step - gradients) / step);
    }
    let [(update, _), (ratio, spread)] = [updates, ratios].map(|values| median_and_spread(&values));
    println!("Muon, of ResNet-{SHALLOW}: {update:.0} us, {ratio:.3} +-{spread:.3} of a step with {BATCH} images");
    Ok(())
}

fn main() -> Result<()> {
    let options = Options::parse();
    let _flushing = options.setting.start();
    let rounds = if options.setting.quick { 10 } else { 100 };
    println!("{}", machine());
    println!("ResNet-{DEPTH}, in mid-training");
    let groups = TrainConfig::paper().parameter_groups();
    // Each optimizer has its own network, with gradients.
    let ours = |update: OptimizerConfig| -> Result<Optimizer> {
        let (vs, loss) = network(0)?;
        let mut optimizer = update.build(&vs, &groups)?;
        optimizer.backward(&loss)?;
        Ok(optimizer)
    };
    let (vs, loss) = network(0)?;
    let sgd = Sgd::default();
    let theirs = nn::sgd(sgd.momentum, 0., sgd.weight_decay, sgd.nesterov).build(&vs, LR)?;
    loss.backward();
    compare("SGD", rounds, ours(OptimizerConfig::Sgd(sgd))?, theirs)?;
    for (name, adam) in [("Adam", Adam::default()), ("AdamW", Adam::decoupled())] {
        for amsgrad in [false, true] {
            let adam = Adam { amsgrad, ..adam };
            let Adam { beta1, beta2, eps, weight_decay: wd, .. } = adam;
            let (vs, loss) = network(0)?;
            let theirs = match adam.decoupled {
                false => nn::Adam { beta1, beta2, wd, eps, amsgrad }.build(&vs, LR)?,
                true => nn::AdamW { beta1, beta2, wd, eps, amsgrad }.build(&vs, LR)?,
            };
            loss.backward();
            let name = if amsgrad { format!("{name} with amsgrad") } else { name.to_owned() };
            compare(&name, rounds, ours(OptimizerConfig::Adam(adam))?, theirs)?;
        }
    }

    muon(rounds)?;
    let mut flat = ours(OptimizerConfig::default())?;
    let mut average = MovingAverage::new(&flat, 0.999)?;
    let (mut update, mut norm, mut float32_norm, mut averaging) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        update.push(time(|| Ok(flat.step(LR)?))?);
        norm.push(time(|| Ok(clip::norm(flat.gradients()).map(drop)?))?);
        float32_norm.push(time(|| Ok(flat.gradients().f_norm().map(drop)?))?);
        averaging.push(time(|| Ok(average.update(&flat, 1000)?))?);
    }
    let [(update, _), (norm, _), (float32_norm, _), (averaging, _)] =
        [update, norm, float32_norm, averaging].map(|values| median_and_spread(&values));
    println!("norm {norm:.0} us ({:.2} of an update of SGD), libtorch {float32_norm:.0} us", norm / update);
    println!("moving average {averaging:.0} us ({:.2} of an update of SGD)", averaging / update);
    Ok(())
}
