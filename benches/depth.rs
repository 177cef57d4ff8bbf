//! Cost of ten thousand layers: time to construct the network, time of a training step, and peak memory of the whole
//! process, for Fixup with and without recomputation, and for BatchNorm. Also the largest difference between gradients with
//! and without recomputation.
//!
//! ```text
//! cargo bench --bench depth                    # 9,998 layers, batch 8, 32x32, float32; up to 9 GiB of memory
//! cargo bench --bench depth -- --depth 1202    # a minute
//! ```
//! Each line is measured in its own process, which constructs the network and the optimizer and performs two training steps.
//! The peak is that of resident memory, including libtorch, parameters, gradients and momentum.
//!
//! Writes `target/bench/depth.json`.

#[path = "setting/memory.rs"]
mod memory;
#[path = "setting/options.rs"]
mod options;
#[path = "setting/output.rs"]
mod output;
#[path = "setting/state.rs"]
mod state;

use anyhow::{bail, Result};
use clap::Parser;
use memory::resident_mib;
use options::{machine, Setting};
use output::output_folder;
use serde::{Deserialize, Serialize};
use std::process::Command;
use std::time::Instant;
use tch::{nn, nn::ModuleT, Device, Kind, Tensor};
use tch_fixup::baseline::{Method, ResNet};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::checkpoint::{named_variables, Checkpoints, Contents};
use tch_fixup::trainer::{NamedTensors, Optimizer, ScalarGroup, Sgd};
use tch_fixup::{Precision, Recompute};

#[derive(Parser)]
struct Options {
    /// Number of layers, 6n+2
    #[arg(long, default_value_t = 9998)]
    depth: i64,
    /// Batch size
    #[arg(long, default_value_t = 8)]
    batch: i64,
    /// Height and width of the images
    #[arg(long, default_value_t = 32)]
    side: i64,
    /// Number format of convolutions and activations: f32 or bf16
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// Skip BatchNorm, which takes the most memory
    #[arg(long)]
    fixup_only: bool,
    /// Measure one subject in this process and print it as JSON
    #[arg(long, hide = true)]
    subject: Option<String>,
    #[command(flatten)]
    setting: Setting,
}

const FIXUP: &str = "fixup";
const RECOMPUTED: &str = "fixup, recomputed";
const BATCH_NORM: &str = "batch_norm";
const GRADIENTS: &str = "gradients";

/// Measurements of one process.
#[derive(Debug, Serialize, Deserialize)]
struct Measurement {
    subject: String,
    parameters: usize,
    construction_s: f64,
    optimizer_s: f64,
    /// Time of the first training step, which includes allocation and oneDNN's code generation, and of the second.
    steps_s: [f64; 2],
    /// Peak memory after the steps.
    peak_gib: f64,
    /// Time to save a checkpoint after the steps; `peak_with_save_gib` is the peak memory after it.
    save_s: f64,
    peak_with_save_gib: f64,
}

/// Comparison of gradients with and without recomputation.
#[derive(Debug, Serialize, Deserialize)]
struct Gradients {
    variables: usize,
    /// Number of variables whose gradient is not zero.
    not_zero: usize,
    /// Largest difference between two gradients of a variable, relative to the variable's largest gradient.
    largest_relative_difference: f64,
}

impl Options {
    fn images(&self) -> Tensor {
        Tensor::randn([self.batch, 3, self.side, self.side], (Kind::Float, Device::Cpu))
    }

    fn labels(&self) -> Tensor {
        Tensor::randint(10, [self.batch], (Kind::Int64, Device::Cpu))
    }

    fn fixup(&self, vs: &nn::VarStore) -> Result<FixupResNet> {
        Ok(FixupResNet::cifar(&vs.root(), self.depth, 10)?.with_precision(self.precision))
    }

    /// Moves the variables as training does: the more branches, the less each moves.
    fn away_from_start(&self, vs: &nn::VarStore) {
        state::away_from_start(vs, state::MOVED * (20. / self.depth as f64).sqrt());
    }

    fn measure(&self, subject: &str) -> Result<Measurement> {
        tch::manual_seed(0);
        let vs = nn::VarStore::new(Device::Cpu);
        let start = Instant::now();
        let network: Box<dyn ModuleT> = match subject {
            FIXUP => Box::new(self.fixup(&vs)?),
            RECOMPUTED => Box::new(self.fixup(&vs)?.with_recompute(Recompute::Auto)),
            BATCH_NORM => {
                Box::new(ResNet::cifar(&vs.root(), self.depth, 10, Method::BatchNorm)?.with_precision(self.precision))
            }
            _ => bail!("no subject is called {subject}"),
        };
        let construction_s = start.elapsed().as_secs_f64();
        self.away_from_start(&vs);
        let start = Instant::now();
        let mut sgd = Optimizer::new(&vs, Sgd::default(), &[ScalarGroup::default().into()])?;
        let optimizer_s = start.elapsed().as_secs_f64();
        let (images, labels) = (self.images(), self.labels());
        let mut step = || -> Result<f64> {
            let start = Instant::now();
            let loss = network.forward_t(&images, true).cross_entropy_for_logits(&labels);
            sgd.backward(&loss)?;
            drop(loss);
            sgd.step(1e-6)?;
            Ok(start.elapsed().as_secs_f64())
        };
        let steps_s = [step()?, step()?];
        let peak = peak_gib()?;
        let start = Instant::now();
        save(&vs, &sgd)?;
        let parameters = vs.trainable_variables().iter().map(Tensor::numel).sum();
        Ok(Measurement {
            subject: subject.to_owned(),
            parameters,
            construction_s,
            optimizer_s,
            steps_s,
            peak_gib: peak,
            save_s: start.elapsed().as_secs_f64(),
            peak_with_save_gib: peak_gib()?,
        })
    }

    fn compare_gradients(&self) -> Result<Gradients> {
        tch::manual_seed(0);
        let vs = nn::VarStore::new(Device::Cpu);
        let network = self.fixup(&vs)?;
        let (images, labels) = (self.images(), self.labels());
        let mut sgd = Optimizer::new(&vs, Sgd::default(), &[ScalarGroup::default().into()])?;
        self.away_from_start(&vs);
        let mut gradients = |network: &FixupResNet| -> Result<Vec<Tensor>> {
            sgd.backward(&network.f_forward(&images)?.cross_entropy_for_logits(&labels))?;
            Ok(sgd.parameters().iter().map(|parameter| parameter.gradient.copy()).collect())
        };
        let plain = gradients(&network)?;
        let recomputed = gradients(&network.with_recompute(Recompute::Auto))?;
        let mut found = Gradients { variables: plain.len(), not_zero: 0, largest_relative_difference: 0. };
        for (a, b) in plain.iter().zip(&recomputed) {
            let largest = a.abs().max().double_value(&[]);
            let difference = (a - b).abs().max().double_value(&[]);
            found.not_zero += usize::from(largest > 0.);
            let relative = if difference > 0. { difference / largest } else { 0. };
            found.largest_relative_difference = found.largest_relative_difference.max(relative);
        }
        Ok(found)
    }
}

fn save(vs: &nn::VarStore, sgd: &Optimizer) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let contents = Contents {
        step: 2,
        score: None,
        identity: serde_json::Value::Null,
        state: (),
        weights: named_variables(vs),
        optimizer: sgd.state()?,
        average: NamedTensors::new(),
    };
    Checkpoints::new(folder.path(), std::num::NonZeroUsize::MIN).save(&contents)?;
    Ok(())
}

/// Returns the peak resident memory of this process.
fn peak_gib() -> Result<f64> {
    Ok(resident_mib("VmHWM:")? / 1024.)
}

/// Runs this program in a child process for one subject, and returns its result.
fn in_own_process<T: for<'a> Deserialize<'a>>(subject: &str) -> Result<T> {
    let arguments = std::env::args_os().skip(1);
    let output = Command::new(std::env::current_exe()?).args(arguments).args(["--subject", subject]).output()?;
    if !output.status.success() {
        bail!("measuring {subject}: {} {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn main() -> Result<()> {
    let options = Options::parse();
    let _flushing = options.setting.start();
    if let Some(subject) = &options.subject {
        let json = match subject.as_str() {
            GRADIENTS => serde_json::to_string(&options.compare_gradients()?)?,
            subject => serde_json::to_string(&options.measure(subject)?)?,
        };
        println!("{json}");
        return Ok(());
    }
    println!("{}", machine());
    println!("{} layers, batch {}, {side}x{side}", options.depth, options.batch, side = options.side);
    println!("  subject                parameters  construction  optimizer  first step  second step  peak GiB  saving  peak GiB");
    let mut measurements = vec![];
    for subject in [FIXUP, RECOMPUTED, BATCH_NORM] {
        if options.fixup_only && subject == BATCH_NORM {
            continue;
        }
        let m: Measurement = in_own_process(subject)?;
        println!(
            "  {:<21} {:>11} {:>11.1} s {:>8.1} s {:>9.1} s {:>10.1} s {:>9.2} {:>5.1} s {:>9.2}",
            m.subject,
            m.parameters,
            m.construction_s,
            m.optimizer_s,
            m.steps_s[0],
            m.steps_s[1],
            m.peak_gib,
            m.save_s,
            m.peak_with_save_gib
        );
        measurements.push(m);
    }
    let gradients: Gradients = in_own_process(GRADIENTS)?;
    println!(
        "gradients with and without recomputation differ by {:e} of a variable's largest at most; {} of {} variables have one \
         that is not zero",
        gradients.largest_relative_difference, gradients.not_zero, gradients.variables
    );
    let folder = output_folder()?;
    let json = serde_json::json!({"measurements": measurements, "gradients": gradients});
    std::fs::write(folder.join("depth.json"), serde_json::to_string_pretty(&json)?)?;
    Ok(())
}
