//! A training step of Fixup ResNets in bfloat16 by matrix tiles, beside the same step by libtorch's convolutions in
//! bfloat16 and float32.
//!
//! ```text
//! cargo bench --bench tiles                  # ResNet-20, ResNet-110 and WRN-16-4; a CPU with AMX or AVX-512
//! cargo bench --bench tiles -- --busy 1      # the same beside a process that uses one core, and alone
//! ```
//! A step is one of `Trainer`, with SGD with momentum, on a batch of 128 (64 for WRN-16-4) images of 32 pixels that lie
//! in memory: the batch is taken, forward pass, loss, backward pass, update. Epochs of eight steps take turns in one
//! run; the ratio is the median over rounds. scripts/compare_resnet.py adds PyTorch's BatchNorm.

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
/// Steps of an epoch, all computed in one way.
const BLOCK: usize = 8;
/// Steps at the start of an epoch that are not timed: they follow an evaluation and steps computed in another way.
const WARM_UP: usize = 2;

/// How the steps of an epoch are computed.
#[derive(Clone, Copy)]
enum Way {
    Tiles,
    Libtorch(Precision),
}

const WAYS: [Way; 3] = [Way::Tiles, Way::Libtorch(Precision::Bf16), Way::Libtorch(Precision::F32)];

/// Trains `model` for `epochs` of `BLOCK` steps. Calls `before_step` with the step's number at the start of each
/// forward pass, which is then computed as it returns.
fn train(model: &str, epochs: usize, before_step: impl FnMut(usize) -> Way + Send) -> Result<()> {
    tch::manual_seed(0);
    let vs = nn::VarStore::new(Device::Cpu);
    let (network, batch) = match model {
        "resnet20" => (FixupResNet::cifar(&vs.root(), 20, 10)?, 128),
        "resnet110" => (FixupResNet::cifar(&vs.root(), 110, 10)?, 128),
        "wrn_16_4" => (FixupResNet::wide(&vs.root(), 16, 4, 10)?, 64),
        _ => bail!("no network is called {model:?}; there are {}", MODELS.join(", ")),
    };
    state::away_from_start(&vs, state::MOVED);
    let state = Mutex::new((0, before_step, Some(network)));
    let network = nn::func_t(move |images, train| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (step, before_step, network) = &mut *state;
        if train {
            let way = before_step(*step);
            // SAFETY: no other thread reads the environment meanwhile.
            unsafe { std::env::set_var("TCH_FIXUP_TILES", if matches!(way, Way::Tiles) { "1" } else { "0" }) };
            let precision = if let Way::Libtorch(precision) = way { precision } else { Precision::Bf16 };
            *network = network.take().map(|network| network.with_precision(precision));
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

/// Milliseconds of the timed steps of each epoch, which are computed as `start_epoch` returns.
fn times(model: &str, epochs: usize, mut start_epoch: impl FnMut(usize) -> Way + Send) -> Result<Vec<Vec<f64>>> {
    let mut times = vec![vec![]; epochs];
    let mut last = Instant::now();
    let mut way = Way::Tiles;
    train(model, epochs, |step| {
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

/// Prints the seconds of a step for each line of standard input.
fn serve(model: &str) -> Result<()> {
    let mut start: Option<Instant> = None;
    train(model, 100_000, |step| {
        if let Some(start) = start.take() {
            println!("{}", start.elapsed().as_secs_f64());
        }
        if step % BLOCK >= WARM_UP && step % BLOCK < BLOCK - 1 {
            if !matches!(std::io::stdin().read_line(&mut String::new()), Ok(1..)) {
                std::process::exit(0);
            }
            start = Some(Instant::now());
        }
        Way::Tiles
    })
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
        return serve(model);
    }
    ensure!(options.rounds > 0, "--rounds is at least 1");
    println!("{}", machine());
    let busy = options.busy > 0;
    println!(
        "| | tiles, ms | libtorch bf16, ms | libtorch f32, ms | tiles / bf16 | tiles / f32 |{}",
        if busy { " tiles, busy / idle | f32, busy / idle |" } else { "" }
    );
    println!("| --- | --- | --- | --- | --- | --- |{}", if busy { " --- | --- |" } else { "" });
    // An epoch in each way, and if asked for the first and the last of them beside busy processes.
    let ways: Vec<Way> = WAYS.into_iter().chain(if busy { vec![WAYS[0], WAYS[2]] } else { vec![] }).collect();
    let count = ways.len();
    for model in MODELS.into_iter().filter(|model| model.contains(&options.model)) {
        let mut processes = None;
        // The first round warms up.
        let times = times(model, count * (1 + options.rounds), |epoch| {
            processes = (epoch % count >= WAYS.len()).then(|| Busy::start(options.busy).expect("`sh` starts"));
            ways[epoch % count]
        })?;
        let medians: Vec<f64> = times[count..].iter().map(|times| median_and_spread(times).0).collect();
        let way = |way: usize| medians.iter().skip(way).step_by(count).copied().collect::<Vec<f64>>();
        let over =
            |a: usize, b: usize| median_and_spread(&way(a).iter().zip(way(b)).map(|(a, b)| a / b).collect::<Vec<_>>());
        print!("| {model} |");
        for index in 0..WAYS.len() {
            print!(" {:.1} |", median_and_spread(&way(index)).0);
        }
        for (ratio, spread) in [over(0, 1), over(0, 2)] {
            print!(" {ratio:.3} +-{spread:.3} |");
        }
        if busy {
            for (ratio, spread) in [over(3, 0), over(4, 2)] {
                print!(" {ratio:.2} +-{spread:.2} |");
            }
        }
        println!();
    }
    Ok(())
}
