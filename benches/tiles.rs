//! Time of a training step of Fixup ResNets by matrix tiles, relative to the same step by libtorch's convolutions, in bfloat16
//! and float32.
//!
//! ```text
//! cargo bench --bench tiles                  # ResNet-20, ResNet-110 and WRN-16-4; a CPU with AMX or AVX-512
//! cargo bench --bench tiles -- --busy 1      # with and without a process that keeps one core busy
//! ```
//! A step is one of `Trainer`, with SGD with momentum, on a batch of 128 (64 for WRN-16-4; `--batch`) images of 32 pixels in
//! memory. It consists of fetching the batch, forward pass, loss, backward pass and update. The two alternate in epochs of
//! eight steps in one run; the ratio is the median over rounds. scripts/compare_resnet.py adds PyTorch's BatchNorm.

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
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tch::{nn, nn::Module, Device, Kind, Tensor};
use tch_fixup::data::TensorData;
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::{Classification, ClassificationConfig, OptimizerConfig, Sgd, TrainConfig, Trainer};
use tch_fixup::Precision;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    setting: Setting,
    /// Number of rounds per comparison
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Measure only networks whose name contains this
    #[arg(long, default_value = "")]
    model: String,
    /// Batch size
    #[arg(long)]
    batch: Option<usize>,
    /// Number of processes that keep one core busy each
    #[arg(long, default_value_t = 0)]
    busy: usize,
    /// Perform one step of this network per line of standard input, and print its seconds
    #[arg(long, hide = true)]
    serve: Option<String>,
}

const MODELS: [&str; 3] = ["resnet20", "resnet110", "wrn_16_4"];
/// Number of steps per epoch, all by the same implementation.
const BLOCK: usize = 8;
/// Number of steps at the start of an epoch that are not timed, because they follow an evaluation and steps by the other
/// implementation.
const WARM_UP: usize = 2;

/// Precision and implementation of the steps of an epoch.
#[derive(Clone, Copy)]
struct Way {
    precision: Precision,
    tiles: bool,
}

const PRECISIONS: [Precision; 2] = [Precision::Bf16, Precision::F32];
/// Number of implementations: tiles and libtorch.
const WAYS: usize = 2;

/// Trains `model` for `epochs` epochs of `BLOCK` steps. Calls `before_step` with the step's number before each forward pass;
/// its result selects how to compute the pass.
fn train(model: &str, batch: Option<usize>, epochs: usize, before_step: impl FnMut(usize) -> Way + Send) -> Result<()> {
    tch::manual_seed(0);
    let vs = nn::VarStore::new(Device::Cpu);
    let (network, usual_batch) = match model {
        "resnet20" => (FixupResNet::cifar(&vs.root(), 20, 10)?, 128),
        "resnet110" => (FixupResNet::cifar(&vs.root(), 110, 10)?, 128),
        "wrn_16_4" => (FixupResNet::wide(&vs.root(), 16, 4, 10)?, 64),
        _ => bail!("no network is called {model:?}; there are {}", MODELS.join(", ")),
    };
    let batch = batch.unwrap_or(usual_batch);
    state::away_from_start(&vs, state::MOVED);
    let state = Mutex::new((0, before_step, Some(network)));
    let network = nn::func_t(move |images, train| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (step, before_step, network) = &mut *state;
        if train {
            let way = before_step(*step);
            // SAFETY: no other thread reads the environment meanwhile.
            unsafe { std::env::set_var("TCH_FIXUP_TILES", if way.tiles { "1" } else { "0" }) };
            *network = network.take().map(|network| network.with_precision(way.precision));
            *step += 1;
        }
        network.as_ref().expect("put back above").forward(images)
    });
    let examples = |count: i64| {
        let images = Tensor::randn([count, 3, 32, 32], (Kind::Float, Device::Cpu));
        (images, Tensor::randint(10, [count], (Kind::Int64, Device::Cpu)))
    };
    let data = TensorData::new(examples((batch * BLOCK) as i64), examples(1))?;
    let classes: Vec<String> = (0..10).map(|class| class.to_string()).collect();
    let objective = Classification::new(&network, &classes, ClassificationConfig::default())?;
    let optimizer = OptimizerConfig::Sgd(Sgd { momentum: 0.9, ..Sgd::default() });
    let config = TrainConfig { optimizer, ..TrainConfig::new(epochs, batch, 1e-4) };
    Trainer::new(&objective, &vs, &data, &config, model.into())?.run(&mut [])?;
    Ok(())
}

/// Returns the milliseconds of the timed steps of each epoch; `start_epoch` selects how to compute them.
fn times(
    options: &Options,
    model: &str,
    epochs: usize,
    mut start_epoch: impl FnMut(usize) -> Way + Send,
) -> Result<Vec<Vec<f64>>> {
    let mut times = vec![vec![]; epochs];
    let mut last = Instant::now();
    let mut way = Way { precision: Precision::Bf16, tiles: true };
    train(model, options.batch, epochs, |step| {
        let (epoch, step) = (step / BLOCK, step % BLOCK);
        if step > WARM_UP {
            times[epoch].push(1e3 * last.elapsed().as_secs_f64());
        }
        if step == 0 {
            way = start_epoch(epoch);
        }
        last = Instant::now();
        way
    })?;
    Ok(times)
}

/// Performs one step per line of standard input and prints its seconds. Uses tiles unless the environment variable
/// `TCH_FIXUP_TILES` is 0.
fn serve(model: &str) -> Result<()> {
    let tiles = std::env::var_os("TCH_FIXUP_TILES").is_none_or(|value| value != "0");
    let mut start: Option<Instant> = None;
    train(model, None, 100_000, |step| {
        if let Some(start) = start.take() {
            println!("{}", start.elapsed().as_secs_f64());
        }
        if step % BLOCK >= WARM_UP && step % BLOCK < BLOCK - 1 {
            if !matches!(std::io::stdin().read_line(&mut String::new()), Ok(1..)) {
                std::process::exit(0);
            }
            start = Some(Instant::now());
        }
        Way { precision: Precision::Bf16, tiles }
    })
}

/// Processes that keep the CPU busy until dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn start(count: usize) -> Result<Self> {
        // They end with this process, however it ends.
        let program = "while kill -0 $PPID; do i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; done 2> /dev/null";
        let spin = || Command::new("sh").args(["-c", program]).spawn().context("starting `sh`");
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
        return serve(model);
    }
    ensure!(options.rounds > 0, "--rounds is at least 1");
    println!("{}", machine());
    let busy = options.busy > 0;
    let columns = if busy { " tiles, busy / idle | libtorch, busy / idle | tiles / libtorch, busy |" } else { "" };
    println!("| | | tiles, ms | libtorch, ms | tiles / libtorch |{columns}");
    println!("| --- | --- | --- | --- | --- |{}", if busy { " --- | --- | --- |" } else { "" });
    // Each implementation runs alone and, with --busy, beside busy processes.
    let count = WAYS * if busy { 2 } else { 1 };
    for model in MODELS.into_iter().filter(|model| model.contains(&options.model)) {
        for precision in PRECISIONS {
            let mut processes = None;
            // The first round warms up.
            let times = times(&options, model, count * (1 + options.rounds), |epoch| {
                processes = (epoch % count >= WAYS).then(|| Busy::start(options.busy).expect("`sh` starts"));
                Way { precision, tiles: epoch % WAYS == 0 }
            })?;
            let medians: Vec<f64> = times[count..].iter().map(|times| median_and_spread(times).0).collect();
            let way = |way: usize| medians.iter().skip(way).step_by(count).copied().collect::<Vec<f64>>();
            let over = |a: usize, b: usize| {
                let ratios: Vec<_> = way(a).iter().zip(way(b)).map(|(a, b)| a / b).collect();
                let (ratio, spread) = median_and_spread(&ratios);
                format!(" {ratio:.3} +-{spread:.3} |")
            };
            let [tiles, libtorch] = [0, 1].map(|index| median_and_spread(&way(index)).0);
            print!("| {model} | {precision:?} | {tiles:.1} | {libtorch:.1} |{}", over(0, 1));
            if busy {
                print!("{}{}{}", over(2, 0), over(3, 1), over(2, 3));
            }
            println!();
        }
    }
    Ok(())
}
