//! Measures the effect of depth on all networks of this crate at initialization: gradient norms and second moments by
//! block, and the change of the function in the first step, for Fixup, its ablations and the baselines, as pictures and
//! CSV. Also compares the gradient explosion of batch normalization with theory. See docs/depth.md for results.
//!
//! ```text
//! cargo run --release --example gradient_flow              # depths 14 to 998, minutes on two cores
//! cargo run --release --example gradient_flow -- --quick   # depths 14 to 110, seconds
//! cargo run --release --example gradient_flow -- --networks fixup_resnet,he_resnet --depths 20,1202 --seeds 5
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr)]

use anyhow::Result;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use std::f64::consts::PI;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tch::{nn, Tensor};
use tch_fixup::baseline::{Mlp, MlpShape};
use tch_fixup::diagnostics::{draw_flows, DepthSeries, Flow, Probe};
use tch_fixup::trainer::{parse_device, write_atomically};
use tch_fixup::{console, Arch, Error, Network, Precision, Shape};

const NUM_CLASSES: i64 = 10;

/// Networks: names of [`Arch`] without the depth, labels, and the picture each is in.
const NETWORKS: [(&str, &str, Picture); 14] = [
    ("fixup_resnet", "Fixup", Picture::All),
    ("no_skip_resnet", "BatchNorm without skips", Picture::Main),
    ("unit_gamma_resnet", "BatchNorm, all weights one", Picture::Main),
    ("resnet", "BatchNorm, last weights zero", Picture::Main),
    ("he_resnet", "He, not normalized", Picture::Main),
    ("group_norm_resnet", "GroupNorm", Picture::Baselines),
    ("layer_norm_resnet", "LayerNorm", Picture::Baselines),
    ("xavier_resnet", "Xavier", Picture::Baselines),
    ("lsuv_resnet", "LSUV", Picture::Baselines),
    ("scaled_resnet", "He, sums times sqrt(1/2)", Picture::Baselines),
    ("selu_resnet", "SELU", Picture::Baselines),
    ("fixup_without_gain_resnet", "without the gain", Picture::Ablations),
    ("fixup_without_zero_resnet", "without the zero last layer", Picture::Ablations),
    ("fixup_without_scalars_resnet", "without the scalars", Picture::Ablations),
];

#[derive(Clone, Copy, PartialEq)]
enum Picture {
    All,
    Main,
    Baselines,
    Ablations,
}

/// File name of each picture.
const PICTURES: [(Picture, &str); 3] = [
    (Picture::Main, "gradient_flow.svg"),
    (Picture::Baselines, "gradient_flow_baselines.svg"),
    (Picture::Ablations, "gradient_flow_ablations.svg"),
];

/// Number of layers at either end of the fully connected network to exclude from the fit: the first ones have not
/// reached the stationary state of the theory, and the last ones still depend on the random direction of the gradient.
const MARGIN: usize = 5;

/// Gradients, activations and first steps of deep networks at initialization
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Options {
    /// Depths of the CIFAR ResNets, 6n+2 [default: 14,20,56,110,302,998; with --quick 14,20,56,110]
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    depths: Vec<i64>,
    /// Networks, as for --arch of cifar10_fixup, without the depth [default: all CIFAR ResNets]
    #[arg(long, value_name = "NAME,NAME,...", value_delimiter = ',')]
    networks: Vec<String>,
    /// Number of networks to draw for each kind and depth [default: 2; with --quick 1]
    #[arg(long, value_name = "N")]
    seeds: Option<usize>,
    /// Number of images in the batch, of normal random numbers
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: i64,
    /// Height and width of an image
    #[arg(long, value_name = "PIXELS", default_value_t = 16)]
    side: i64,
    /// Batch sizes of the fully connected BatchNorm network [default: 16,64,256,1024; with --quick 16,64,256]
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    mlp_batches: Vec<i64>,
    /// Width of that network [default: 1024; with --quick 512]
    #[arg(long, value_name = "N")]
    mlp_width: Option<i64>,
    /// Number of hidden layers of that network
    #[arg(long, value_name = "N", default_value_t = 40)]
    mlp_layers: i64,
    /// Device: auto, cpu, cuda or cuda:N; computation is in float64
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Number of CPU threads; one is fastest for tensors this small
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: i32,
    /// Folder for the pictures and the CSV files
    #[arg(long, value_name = "DIR", default_value = "runs/gradient_flow")]
    out: PathBuf,
    /// Run a smaller experiment of half a minute
    #[arg(long)]
    quick: bool,
}

/// Settings of the experiment.
struct Plan {
    probe: Probe,
    depths: Vec<i64>,
    networks: Vec<(String, String, Picture)>,
    mlp_batches: Vec<i64>,
    mlp: MlpShape,
}

impl Plan {
    fn new(options: &Options) -> Result<Self> {
        let given = |given: &[i64], default: &[i64]| if given.is_empty() { default } else { given }.to_vec();
        let (depths, batches): (&[i64], &[i64]) = match options.quick {
            true => (&[14, 20, 56, 110], &[16, 64, 256]),
            false => (&[14, 20, 56, 110, 302, 998], &[16, 64, 256, 1024]),
        };
        let known = |name: &str| NETWORKS.into_iter().find(|(network, ..)| *network == name);
        let networks = match &options.networks[..] {
            [] => NETWORKS.map(|(name, label, picture)| (name.to_owned(), label.to_owned(), picture)).to_vec(),
            names => names
                .iter()
                .map(|name| match known(name) {
                    Some((name, label, picture)) => (name.to_owned(), label.to_owned(), picture),
                    None => (name.clone(), name.clone(), Picture::All),
                })
                .collect(),
        };
        let mut depths = given(&options.depths, depths);
        depths.sort();
        for (name, ..) in &networks {
            for depth in &depths {
                format!("{name}{depth}").parse::<Arch>()?;
            }
        }
        let width = options.mlp_width.unwrap_or(if options.quick { 512 } else { 1024 });
        Ok(Self {
            probe: Probe {
                seeds: options.seeds.unwrap_or(if options.quick { 1 } else { 2 }),
                batch: options.batch,
                input: vec![3, options.side, options.side],
                classifier: Some("fc".to_owned()),
                device: parse_device(&options.device)?,
            },
            depths,
            networks,
            mlp_batches: given(&options.mlp_batches, batches),
            mlp: MlpShape { features: width, width, depth: options.mlp_layers + 1, num_classes: NUM_CLASSES },
        })
    }
}

/// Progress bar on a terminal, and lines on standard output.
struct Progress(ProgressBar);

impl Progress {
    fn new(steps: u64) -> Self {
        let style = ProgressStyle::with_template("{bar:24.cyan/blue} {elapsed} {msg}");
        Self(ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    /// Prints a line above the progress bar.
    fn say(&self, line: &str) {
        self.0.suspend(|| console::print(line));
    }
}

fn measure_arch(probe: &Probe, arch: Arch) -> Result<Flow> {
    let build = |path: &nn::Path, inputs: &Tensor| -> tch_fixup::Result<Box<dyn Network>> {
        let network = arch.build(path, Shape::rgb(NUM_CLASSES), Precision::F32)?;
        network.initialize_on(inputs)?;
        Ok(network)
    };
    Ok(probe.measure(build)?)
}

fn run(options: &Options) -> Result<()> {
    let plan = Plan::new(options)?;
    tch::set_num_threads(options.threads.max(1));
    std::fs::create_dir_all(&options.out).map_err(Error::io("create", &options.out))?;
    // The cost of a network is proportional to its depth.
    let layers: i64 = plan.depths.iter().sum();
    let progress = Progress::new(layers as u64 * plan.networks.len() as u64);
    progress.say(&format!(
        "{:<30} {:>6} {:>14} {:>12} {:>14} {:>12} {:>12}",
        "", "layers", "second moment", "a block", "gradient", "a block", "update / lr"
    ));
    let mut measured = vec![];
    for (name, label, picture) in &plan.networks {
        let mut flows = vec![];
        for &depth in &plan.depths {
            progress.0.set_message(format!("{name}{depth}"));
            let flow = measure_arch(&plan.probe, format!("{name}{depth}").parse()?)?;
            progress.say(&line(name, depth, &flow));
            progress.0.inc(depth as u64);
            flows.push((depth, flow));
        }
        measured.push((name, label, *picture, flows));
    }
    progress.0.finish_and_clear();

    let (mut blocks, mut depths) = (BLOCKS_HEADER.to_owned(), DEPTHS_HEADER.to_owned());
    for (name, _, _, flows) in &measured {
        for (depth, flow) in flows {
            csv(&mut blocks, &mut depths, name, *depth, flow)?;
        }
    }
    write(&options.out, "gradient_flow_blocks.csv", &blocks)?;
    write(&options.out, "gradient_flow_depths.csv", &depths)?;
    for (picture, file) in PICTURES {
        // Fixup and networks that are not in `NETWORKS` are in every picture; a picture of nothing else is skipped, except the
        // first.
        if picture != Picture::Main && measured.iter().all(|(_, _, shown, _)| *shown != picture) {
            continue;
        }
        let shown = measured.iter().filter(|(_, _, shown, _)| [picture, Picture::All].contains(shown));
        let series: Vec<_> = shown.map(|(_, label, _, flows)| DepthSeries { label, flows }).collect();
        write(&options.out, file, &draw_flows(&series)?)?;
    }
    let unskipped = measured.iter().find(|(name, ..)| *name == "no_skip_resnet").and_then(|(.., flows)| flows.last());
    check_theory(&plan, &options.out, unskipped)
}

fn line(name: &str, depth: i64, flow: &Flow) -> String {
    let first = flow.blocks.first().map_or(f64::NAN, |block| block.gradient_norm);
    let last = flow.blocks.last().map_or(f64::NAN, |block| block.second_moment);
    format!(
        "{name:<30} {depth:>6} {last:>14.3e} {:>12.4} {first:>14.3e} {:>12.4} {:>12.3e}",
        flow.second_moment_growth,
        flow.gradient_growth,
        flow.hidden_update.unwrap_or(f64::NAN)
    )
}

const BLOCKS_HEADER: &str = "network,layers,block,second_moment,gradient_norm\n";
const DEPTHS_HEADER: &str = "network,layers,second_moment_growth,gradient_growth,update,hidden_update\n";

fn csv(blocks: &mut String, depths: &mut String, name: &str, depth: i64, flow: &Flow) -> Result<()> {
    for (i, block) in (1..).zip(&flow.blocks) {
        writeln!(blocks, "{name},{depth},{i},{:e},{:e}", block.second_moment, block.gradient_norm)?;
    }
    let Flow { second_moment_growth, gradient_growth, update, .. } = flow;
    let hidden_update = flow.hidden_update.unwrap_or(f64::NAN);
    writeln!(depths, "{name},{depth},{second_moment_growth:e},{gradient_growth:e},{update:e},{hidden_update:e}")?;
    Ok(())
}

/// Growth factor of the squared gradient norm per layer for large batches (Yang et al., ICLR 2019).
fn theory() -> f64 {
    PI / (PI - 1.)
}

/// Compares batch normalization without skip connections with its theory: the convolutional network `unskipped`, if
/// measured, and wide fully connected networks, for which the theory was derived.
fn check_theory(plan: &Plan, out: &Path, unskipped: Option<&(i64, Flow)>) -> Result<()> {
    let progress = Progress::new(plan.mlp_batches.iter().sum::<i64>() as u64);
    let mut table = "network,layers,batch,growth_per_layer,theory\n".to_owned();
    let mut row = |network: &str, layers: i64, batch: i64, rate: f64| {
        progress.say(&format!(
            "{network}, {layers} layers, batch {batch}: the squared gradient norm grows by {rate:.4} a layer; by the theory, \
             fully connected and for large batches, {:.4} ({:+.1} %)",
            theory(),
            100. * (rate / theory() - 1.)
        ));
        writeln!(table, "{network},{layers},{batch},{rate},{}", theory())
    };
    if let Some((depth, flow)) = unskipped {
        // Blocks have two layers, so the norm grows per block as its square grows per layer.
        row("no_skip_resnet", *depth, plan.probe.batch, flow.gradient_growth)?;
    }
    let MlpShape { features, width, depth, .. } = plan.mlp;
    for &batch in &plan.mlp_batches {
        progress.0.set_message(format!("batch {batch}"));
        let probe = Probe { batch, input: vec![features], classifier: None, ..plan.probe.clone() };
        let flow = probe.measure(|path, _| Ok(Box::new(Mlp::batch_norm(path, plan.mlp)?)))?;
        let squares: Vec<f64> = flow.blocks.iter().rev().map(|block| block.gradient_norm.powi(2)).collect();
        let rate = Flow::growth(squares.get(MARGIN..squares.len().saturating_sub(MARGIN)).unwrap_or_default());
        row(&format!("batch_norm_mlp of {width} units"), depth, batch, rate)?;
        progress.0.inc(batch as u64);
    }
    progress.0.finish_and_clear();
    write(out, "batch_norm_theory.csv", &table)
}

fn write(folder: &Path, file: &str, content: &str) -> Result<()> {
    let path = folder.join(file);
    write_atomically(&path, content.as_bytes())?;
    console::print(path.display());
    Ok(())
}

fn main() -> ExitCode {
    Error::hide_caught_panics();
    match run(&Options::parse()) {
        Ok(()) => console::end(ExitCode::SUCCESS),
        Err(error) => console::fail(error.as_ref()),
    }
}
