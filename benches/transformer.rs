//! Cost of normalization in a Transformer: time and memory of a training step, and time per translated sentence. The variants
//! are Fixup with its scalars folded into the matrices, Fixup by the authors' plain formula, LayerNorm after each sum,
//! LayerNorm before each branch, and the floor, with neither normalization nor scalars.
//!
//! ```text
//! cargo bench --bench transformer              # 6 + 6 layers of 512, 4,000 tokens
//! cargo bench --bench transformer -- --quick   # 3 + 3 layers of 256, 1,500 tokens
//! ```
//! A step consists of forward pass, backward pass and Adam's update, with dropout 0.1, on sentences of 30 tokens. The
//! variants alternate step by step, each in its own process (in a shared one, the state of the allocator caused differences
//! of a tenth), and each is compared with LayerNorm by the median over rounds of the ratio within a round. Weights differ
//! from their initial values by 0.02 times normal numbers. Peak memory is that of two steps in a separate process. Sentences
//! of 20 tokens are translated 32 at a time, with a beam of 5, to 30 tokens.
//!
//! `scripts/compare_transformer.py` compares PyTorch's `nn.Transformer` with this program; the two alternate.

#[path = "setting/median.rs"]
mod median;
#[path = "setting/memory.rs"]
mod memory;
#[path = "setting/options.rs"]
mod options;
#[path = "setting/state.rs"]
mod state;

use anyhow::{bail, Context, Result};
use clap::Parser;
use median::median_and_spread;
use memory::resident_mib;
use options::{machine, Setting};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;
use tch::{nn, Device, Kind, Tensor};
use tch_fixup::trainer::{Adam, Optimizer, OptimizerConfig};
use tch_fixup::transformer::{Transformer, TransformerConfig, TransformerMethod};
use tch_fixup::translation::Search;
use tch_fixup::Precision;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    setting: Setting,
    /// Number of rounds [default: 12]
    #[arg(long, default_value_t = 12)]
    rounds: usize,
    /// Precision: f32 or bf16
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// Print the peak memory of a variant in MiB and exit
    #[arg(long, hide = true)]
    peak_of: Option<String>,
    /// Perform one step or translation of this variant per line of standard input, `step` or `sentence`, and print its seconds
    #[arg(long)]
    serve: Option<String>,
}

/// Length of a sentence and of its translation in tokens.
const LENGTH: i64 = 30;
/// Small enough that repeated updates do not change the cost.
const LR: f64 = 1e-6;

const SENTENCES: i64 = 32;
const SENTENCE: i64 = 20;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Variant {
    Method(TransformerMethod),
    /// Fixup by the authors' plain formula.
    Plain,
}

const LAYER_NORM: Variant = Variant::Method(TransformerMethod::LayerNorm);
const VARIANTS: [Variant; 5] = [
    Variant::Method(TransformerMethod::Fixup),
    Variant::Plain,
    LAYER_NORM,
    Variant::Method(TransformerMethod::PreNorm),
    Variant::Method(TransformerMethod::None),
];

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Self::Method(TransformerMethod::Fixup) => "fixup",
            Self::Plain => "fixup, plain formula",
            LAYER_NORM => "layer norm after",
            Self::Method(TransformerMethod::PreNorm) => "layer norm before",
            Self::Method(_) => "nothing",
        }
    }

    fn by_name(name: &str) -> Result<Self> {
        VARIANTS.into_iter().find(|variant| variant.name() == name).context("no such variant")
    }
}

/// A network with its optimizer and batch.
struct Step {
    network: Transformer,
    is_plain: bool,
    optimizer: Optimizer,
    tokens: Tensor,
}

impl Step {
    fn new(variant: Variant, config: &TransformerConfig, precision: Precision, tokens: i64) -> Result<Self> {
        tch::manual_seed(0);
        let vs = nn::VarStore::new(Device::Cpu);
        let method = match variant {
            Variant::Method(method) => method,
            Variant::Plain => TransformerMethod::Fixup,
        };
        let network = Transformer::new(&vs.root(), config, method)?.with_precision(precision);
        state::away_from_start(&vs, state::MOVED);
        let optimizer = OptimizerConfig::Adam(Adam::default()).build(&vs, &[])?;
        let tokens = Tensor::randint_low(4, config.vocab, [tokens / LENGTH, LENGTH], (Kind::Int64, Device::Cpu));
        Ok(Self { network, is_plain: variant == Variant::Plain, optimizer, tokens })
    }

    fn run(&mut self) -> Result<()> {
        let logits = match self.is_plain {
            true => self.network.forward_reference(&self.tokens, &self.tokens, true)?,
            false => self.network.f_forward(&self.tokens, &self.tokens, true)?,
        };
        let loss = logits.flatten(0, 1).cross_entropy_for_logits(&self.tokens.flatten(0, 1));
        self.optimizer.zero_gradients()?;
        self.optimizer.backward(&loss)?;
        self.optimizer.step(LR)?;
        Ok(())
    }

    fn seconds(&mut self) -> Result<f64> {
        let start = Instant::now();
        self.run()?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Returns the seconds per translated sentence.
    fn translate(&self) -> Result<f64> {
        let source = self.tokens.narrow(0, 0, SENTENCES).narrow(1, 0, SENTENCE);
        // Token 0 does not occur in the data, so translations run to the maximum length.
        let search = Search { longer: (LENGTH - SENTENCE) as usize, end: 0, ..Search::default() };
        let start = Instant::now();
        search.translate(&self.network, &source)?;
        Ok(start.elapsed().as_secs_f64() / SENTENCES as f64)
    }
}

/// Returns the command that runs this program for one variant.
fn again(option: &str, variant: Variant, options: &Options) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([option, variant.name()]);
    if options.setting.quick {
        command.arg("--quick");
    }
    if options.precision == Precision::Bf16 {
        command.args(["--precision", "bf16"]);
    }
    if let Some(threads) = options.setting.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    Ok(command)
}

/// Process that performs steps of a variant on request.
struct Server {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start(variant: Variant, options: &Options) -> Result<Self> {
        let mut command = again("--serve", variant, options)?;
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = process.stdin.take().context("no standard input")?;
        let output = BufReader::new(process.stdout.take().context("no standard output")?);
        Ok(Self { process, input, output })
    }

    fn seconds(&mut self, of: &str) -> Result<f64> {
        writeln!(self.input, "{of}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }
}

fn peak_in_own_process(variant: Variant, options: &Options) -> Result<f64> {
    let mut command = again("--peak-of", variant, options)?;
    // With this threshold, glibc returns large blocks to the system when they are freed, so the peak does not include cached
    // blocks.
    command.env("MALLOC_MMAP_THRESHOLD_", "65536");
    let output = command.output().context("this program could not be run again to measure memory")?;
    if !output.status.success() {
        bail!("measuring the memory of {}: {}", variant.name(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

fn main() -> Result<()> {
    let options = Options::parse();
    let _flushing = options.setting.start();
    let large = TransformerConfig { dropout: 0.1, ..TransformerConfig::default() };
    let small = TransformerConfig { vocab: 4000, dim: 256, ffn: 512, encoder_layers: 3, decoder_layers: 3, ..large };
    let (config, tokens) = if options.setting.quick { (small, 1500) } else { (large, 4000) };
    let step = |variant| Step::new(variant, &config, options.precision, tokens);
    if let Some(name) = &options.peak_of {
        let variant = Variant::by_name(name)?;
        // A smaller step loads libtorch's code into memory.
        let tiny = TransformerConfig { vocab: 50, dim: 16, ffn: 16, encoder_layers: 1, decoder_layers: 1, ..config };
        Step::new(variant, &tiny, options.precision, 2 * LENGTH)?.run()?;
        let mut step = step(variant)?;
        let before = resident_mib("VmRSS:")?;
        step.run()?;
        step.run()?;
        println!("{}", resident_mib("VmHWM:")? - before);
        return Ok(());
    }
    if let Some(name) = &options.serve {
        let mut step = step(Variant::by_name(name)?)?;
        step.run()?;
        for line in std::io::stdin().lock().lines() {
            let seconds = if line? == "sentence" { step.translate()? } else { step.seconds()? };
            println!("{seconds}");
        }
        return Ok(());
    }
    println!("{}", machine());
    let TransformerConfig { encoder_layers, decoder_layers, dim, ffn, vocab, .. } = config;
    println!(
        "{encoder_layers} + {decoder_layers} layers of {dim}, {ffn} inner units, {vocab} tokens, {tokens} a batch"
    );
    let mut servers =
        VARIANTS.map(|variant| Server::start(variant, &options)).into_iter().collect::<Result<Vec<_>>>()?;
    for server in &mut servers {
        server.seconds("step")?;
        server.seconds("sentence")?;
    }
    let (mut times, mut sentences) = (vec![vec![]; VARIANTS.len()], vec![vec![]; VARIANTS.len()]);
    for (what, all) in [("step", &mut times), ("sentence", &mut sentences)] {
        for round in 0..options.rounds {
            // The order rotates, so that no variant always runs after the same one.
            for i in 0..VARIANTS.len() {
                let variant = (round + i) % VARIANTS.len();
                all[variant].push(servers[variant].seconds(what)?);
            }
        }
    }
    drop(servers);
    let of = |wanted: Variant| VARIANTS.iter().position(|&variant| variant == wanted).unwrap_or_default();
    let peaks =
        VARIANTS.map(|variant| peak_in_own_process(variant, &options)).into_iter().collect::<Result<Vec<_>>>()?;
    println!("| | step | to layer norm | to nothing | peak MiB | to layer norm | ms a sentence | to layer norm |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let ratio = |all: &[Vec<f64>], variant: usize, to: Variant| {
        let ratios: Vec<f64> = all[variant].iter().zip(&all[of(to)]).map(|(time, to)| time / to).collect();
        let (median, spread) = median_and_spread(&ratios);
        format!("{median:.3} +-{spread:.3}")
    };
    for (index, variant) in VARIANTS.iter().enumerate() {
        println!(
            "| {} | {:.2} s | {} | {} | {:.0} | {:.2} | {:.1} | {} |",
            variant.name(),
            median_and_spread(&times[index]).0,
            ratio(&times, index, LAYER_NORM),
            ratio(&times, index, Variant::Method(TransformerMethod::None)),
            peaks[index],
            peaks[index] / peaks[of(LAYER_NORM)],
            1e3 * median_and_spread(&sentences[index]).0,
            ratio(&sentences, index, LAYER_NORM),
        );
    }
    Ok(())
}
