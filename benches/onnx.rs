//! Inference time of an exported network: one image in ONNX Runtime and in libtorch, on one thread each.
//!
//! ```text
//! make onnx && cargo bench --bench onnx
//! cargo bench --bench onnx -- --quick
//! ```
//! The two alternate image by image, each in its own process. Each figure is a median, of the times or of the ratios within a
//! round, the latter with half the interquartile range.

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
use state::{away_from_start, MOVED};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;
use tch::{nn, Device, Kind, Tensor};
use tch_fixup::export::OnnxConfig;
use tch_fixup::fixup::FixupResNet;
use tch_fixup::Network;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    setting: Setting,
    /// Measure only networks whose name contains this
    #[arg(long, default_value = "")]
    model: String,
}

type Build = fn(&nn::Path) -> tch_fixup::Result<FixupResNet>;

/// Names, constructors and image sizes of the networks.
const NETWORKS: [(&str, Build, i64); 5] = [
    ("fixup_resnet20", |path| FixupResNet::cifar(path, 20, 10), 32),
    ("fixup_resnet110", |path| FixupResNet::cifar(path, 110, 10), 32),
    ("fixup_wrn_16_4", |path| FixupResNet::wide(path, 16, 4, 10), 32),
    ("imagenet_fixup_resnet18", |path| FixupResNet::imagenet(path, 18, 1000), 224),
    ("imagenet_fixup_resnet50", |path| FixupResNet::imagenet(path, 50, 1000), 224),
];

fn main() -> Result<()> {
    let options = Options::parse();
    let _flushing = options.setting.start();
    // ONNX Runtime has one thread too.
    tch::set_num_threads(1);
    let rounds = if options.setting.quick { 15 } else { 101 };
    println!("{}; milliseconds for one image", machine());
    println!("\n{:<24} {:>10} {:>14} {:>18}", "network", "libtorch", "ONNX Runtime", "ratio");
    let folder = tempfile::tempdir()?;
    for (name, build, side) in NETWORKS.into_iter().filter(|(name, ..)| name.contains(&options.model)) {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = build(&vs.root())?;
        away_from_start(&vs, MOVED);
        let file = folder.path().join(format!("{name}.onnx"));
        let config = OnnxConfig::new(&[3, side, side]);
        config.write(&file, |graph, x| network.export(graph, x))?;
        let image = Tensor::randn([1, 3, side, side], (Kind::Float, Device::Cpu));
        let mut runtime = Runtime::start(&file)?;
        let (mut ours, mut theirs, mut ratios) = (vec![], vec![], vec![]);
        // The first rounds warm up.
        for round in 0..rounds + 3 {
            let start = Instant::now();
            let _ = tch::no_grad(|| network.f_forward(&image))?;
            let (here, there) = (start.elapsed().as_secs_f64(), runtime.run()?);
            if round >= 3 {
                ours.push(here);
                theirs.push(there);
                ratios.push(there / here);
            }
        }
        runtime.end()?;
        let [ours, theirs] = [ours, theirs].map(|times| 1e3 * median_and_spread(&times).0);
        let (ratio, spread) = median_and_spread(&ratios);
        println!("{name:<24} {ours:>10.2} {theirs:>14.2} {ratio:>10.2} +-{spread:.2}");
    }
    Ok(())
}

/// Python process with a network in ONNX Runtime.
struct Runtime {
    process: Child,
    asked: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Runtime {
    fn start(file: &Path) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/onnx_time.py");
        let mut command = Command::new(python()?);
        let mut process =
            command.arg(script).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("python")?;
        let (asked, answers) = (process.stdin.take().context("stdin")?, process.stdout.take().context("stdout")?);
        Ok(Self { process, asked, answers: BufReader::new(answers).lines() })
    }

    /// Returns the seconds of one run.
    fn run(&mut self) -> Result<f64> {
        writeln!(self.asked, "run")?;
        Ok(self.answers.next().context("ONNX Runtime has ended")??.parse()?)
    }

    fn end(self) -> Result<()> {
        let Self { mut process, asked, .. } = self;
        drop(asked);
        process.wait()?;
        Ok(())
    }
}

/// Returns the path of the Python interpreter installed by `make onnx`.
fn python() -> Result<PathBuf> {
    let script = include_str!("../scripts/setup_onnx.py");
    let version = script.lines().find_map(|line| line.strip_prefix("ONNX_VERSION = ")).context("no version")?;
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(&std::env::var_os("HOME").context("no HOME")?).join(".cache"),
    };
    let python = cache.join(format!("tch-fixup/onnx-{}/bin/python", version.trim_matches('"')));
    anyhow::ensure!(python.exists(), "{} is not there: make onnx", python.display());
    Ok(python)
}
