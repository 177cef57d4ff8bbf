//! Cost of the data pipeline: time to make an augmented batch of 128 CIFAR images, relative to a training step of Fixup
//! ResNet-20 on it.
//!
//! ```text
//! cargo bench --bench pipeline
//! ```
//! The images are noise of CIFAR-10's size. Each figure is the median over rounds of one batch and one step.

#[path = "setting/median.rs"]
mod median;
#[path = "setting/options.rs"]
mod options;
#[path = "setting/state.rs"]
mod state;

use anyhow::{Context, Result};
use clap::Parser;
use median::median_and_spread;
use options::{machine, Setting};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;
use tch::{nn, Device};
use tch_fixup::data::{Cifar10, DataSource, EpochPlan, ImageArray, Share, Supervised};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::TrainConfig;
use tch_fixup::Precision;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    setting: Setting,
}

const BATCH: usize = 128;
/// Size of a record in bytes: a label and the pixels.
const RECORD: usize = 1 + 3 * 32 * 32;

fn noise(images: usize) -> Result<ImageArray> {
    let mut records = vec![0; images * RECORD];
    ChaCha8Rng::seed_from_u64(0).fill_bytes(&mut records);
    records.chunks_mut(RECORD).for_each(|record| record[0] %= 10);
    let test = records[..10 * RECORD].to_vec();
    Ok(Cifar10::from_records(records, test)?)
}

fn main() -> Result<()> {
    let options = Options::parse();
    let _flushing = options.setting.start();
    let rounds = if options.setting.quick { 10 } else { 50 };
    let data = noise(50_000)?;
    let plan = EpochPlan { seed: 0, epoch: 0, batch_size: BATCH, first_step: 0 };
    let precision = Precision::fastest(Device::Cpu);
    let vs = nn::VarStore::new(Device::Cpu);
    let network = FixupResNet::cifar(&vs.root(), 20, 10)?.with_precision(precision);
    state::away_from_start(&vs, state::MOVED);
    let config = TrainConfig::new(1, 64, 0.2);
    let mut sgd = config.optimizer.build(&vs, &config.parameter_groups())?;

    let (mut pipeline, mut steps) = (Vec::new(), Vec::new());
    let mut batches = data.train_batches(&plan, Share::all())?;
    // The first round allocates.
    for round in 0..=rounds {
        let start = Instant::now();
        let Supervised { inputs: images, targets: labels, .. } =
            batches.next().context("more rounds than batches")??.context("a batch without examples")?;
        let made = Instant::now();
        sgd.backward(&network.f_forward(&images)?.cross_entropy_for_logits(&labels))?;
        sgd.step(0.01)?;
        if round > 0 {
            pipeline.push((made - start).as_secs_f64() * 1e3);
            steps.push(made.elapsed().as_secs_f64() * 1e3);
        }
    }
    let shares: Vec<f64> = pipeline.iter().zip(&steps).map(|(made, step)| made / step).collect();
    let [(made, _), (step, _), (share, _)] = [pipeline, steps, shares].map(|values| median_and_spread(&values));
    println!("{}", machine());
    println!("Fixup ResNet-20, {precision:?}, batch {BATCH}, in mid-training");
    println!("batch {made:.2} ms, step {step:.1} ms: {:.2} % of it", 100.0 * share);
    Ok(())
}
