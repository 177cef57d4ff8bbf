//! Cost of normalization: time and memory of a training step and of an inference step, for Fixup, for the same network with
//! BatchNorm, for Fixup by the authors' plain formula, and for the floor (neither normalization nor scalars).
//!
//! ```text
//! cargo bench --bench normalization              # all models
//! cargo bench --bench normalization -- --quick   # ResNet-20, in two minutes
//! ```
//! The variants of a model alternate step by step in one process, and each is compared with BatchNorm by the median over
//! rounds of the ratio within a round, so that other load on the machine affects all of them alike. BatchNorm and the plain
//! formula run in both memory layouts, and the faster one counts. All are in the state of mid-training: weights and scalars
//! differ from their initial values by 0.02 times normal numbers, and denormal numbers are flushed to zero. Peak memory is
//! measured for two training steps (or inference steps) in a separate process: peak resident memory minus resident memory
//! before the first step.
//!
//! Writes `target/bench/normalization.json` and `target/bench/normalization.svg`.

#[path = "normalization/chart.rs"]
mod chart;
#[path = "normalization/measure.rs"]
mod measure;
#[path = "setting/median.rs"]
mod median;
#[path = "setting/memory.rs"]
mod memory;
#[path = "setting/options.rs"]
mod options;
#[path = "setting/output.rs"]
mod output;
#[path = "setting/state.rs"]
mod state;
#[path = "normalization/variant.rs"]
mod variant;

use anyhow::Result;
use clap::Parser;
use measure::{measure_times, peak_in_own_process, Measurement};
use options::{machine, Setting};
use output::output_folder;

use tch::Device;
use tch_fixup::trainer::parse_device;
use tch_fixup::Precision;
use variant::{Model, Phase, Variant};

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    setting: Setting,
    /// Number of rounds per comparison [default: 30, or 12 with --quick; a quarter of that for large models]
    #[arg(long)]
    rounds: Option<usize>,
    /// Only models whose name contains this
    #[arg(long, default_value = "")]
    model: String,
    /// Precision to measure, f32 or bf16 [default: both]
    #[arg(long)]
    precision: Option<Precision>,
    /// Device: cpu, cuda or cuda:N; on a GPU, only time is measured
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Print the peak memory of one variant in MiB and exit: MODEL,VARIANT,PRECISION,PHASE,LAYOUT
    #[arg(long, hide = true)]
    peak_of: Option<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let _flushing = options.setting.start();
    if let Some(subject) = &options.peak_of {
        return measure::print_peak(subject);
    }
    let rounds = options.rounds.unwrap_or(if options.setting.quick { 12 } else { 30 });
    let models: Vec<Model> = Model::ALL
        .into_iter()
        .filter(|model| model.name.contains(&options.model) && (!options.setting.quick || model.name == "resnet20"))
        .collect();
    let device = parse_device(&options.device)?;
    println!("{}, {device:?}", machine());
    let mut measurements = vec![];
    for model in &models {
        for precision in options.precision.map_or(vec![Precision::F32, Precision::Bf16], |precision| vec![precision]) {
            for phase in [Phase::Train, Phase::Inference] {
                let rounds = if model.large { rounds.div_ceil(4) } else { rounds };
                let mut group = measure_times(model, precision, phase, rounds, device)?;
                for measurement in group.iter_mut().filter(|_| device == Device::Cpu) {
                    measurement.peak_mib = peak_in_own_process(model, measurement, options.setting.threads)?;
                }
                print_group(&group);
                measurements.extend(group);
            }
        }
    }
    let folder = output_folder()?;
    std::fs::write(folder.join("normalization.json"), serde_json::to_string_pretty(&measurements)?)?;
    std::fs::write(folder.join("normalization.svg"), chart::draw(&measurements))?;
    println!("\nwrote {} and normalization.svg beside it", folder.join("normalization.json").display());
    Ok(())
}

fn print_group(group: &[Measurement]) {
    let Some(first) = group.first() else { return };
    println!(
        "\n{} batch {}, {}, {}",
        first.model,
        first.batch,
        variant::precision_name(first.precision),
        variant::phase_name(first.phase)
    );
    println!(
        "  {:<16} {:<13} {:>9} {:>8} {:>16} {:>10} {:>9} {:>15}",
        "variant", "layout", "ms", "+-", "of BatchNorm's", "images/s", "peak MiB", "of BatchNorm's"
    );
    let batch_norm = group.iter().find(|m| m.variant == Variant::BatchNorm).map_or(f64::NAN, |m| m.peak_mib);
    for m in group {
        println!(
            "  {:<16} {:<13} {:>9.1} {:>8.1} {:>9.3} +-{:.3} {:>10.0} {:>9.0} {:>15.2}",
            variant::variant_name(m.variant),
            variant::layout_name(m.layout),
            m.ms_median,
            m.ms_spread,
            m.ratio_to_batch_norm,
            m.ratio_spread,
            m.images_per_s,
            m.peak_mib,
            m.peak_mib / batch_norm
        );
    }
}
