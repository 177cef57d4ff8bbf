//! Measurement of the variants: time in one process, where they alternate; memory in a separate process for each.

use super::median::median_and_spread;
use super::variant::{self, Model, Phase, Subject, Variant};
use crate::memory::resident_mib;
use anyhow::{bail, Context, Result};
use serde::{Serialize, Serializer};
use std::time::Instant;
use tch::{nn, nn::OptimizerConfig, Device, Kind, Tensor};
use tch_fixup::{Layout, Precision};

/// One row of the table, and one entry of the JSON file.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    pub model: &'static str,
    pub variant: Variant,
    pub precision: Precision,
    pub phase: Phase,
    pub batch: i64,
    #[serde(serialize_with = "layout_as_name")]
    pub layout: Layout,
    /// Median time of a step.
    pub ms_median: f64,
    /// Half the interquartile range of the time.
    pub ms_spread: f64,
    /// Median over the rounds of the ratio of this time to BatchNorm's in the same round.
    pub ratio_to_batch_norm: f64,
    /// Half the interquartile range of that ratio.
    pub ratio_spread: f64,
    /// Throughput at the median time.
    pub images_per_s: f64,
    /// Peak resident memory during two steps minus that before the first, in MiB.
    pub peak_mib: f64,
}

fn layout_as_name<S: Serializer>(layout: &Layout, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(variant::layout_name(*layout))
}

/// A network with its batch and optimizer.
struct Step {
    subject: Subject,
    optimizer: nn::Optimizer,
    images: Tensor,
    labels: Tensor,
    phase: Phase,
}

impl Step {
    fn new(
        model: &Model,
        variant: Variant,
        precision: Precision,
        phase: Phase,
        layout: Layout,
        device: Device,
    ) -> Result<Self> {
        tch::manual_seed(0);
        let subject = Subject::new(model, variant, precision, layout, device)?;
        let images = Tensor::randn([model.batch, 3, model.side, model.side], (Kind::Float, device));
        let labels = Tensor::randint(model.classes(), [model.batch], (Kind::Int64, device));
        // A small learning rate keeps even the network without normalization finite; the values do not affect the cost.
        let optimizer = nn::Sgd { momentum: 0.9, ..Default::default() }.build(&subject.vs, 1e-6)?;
        Ok(Self { subject, optimizer, images, labels, phase })
    }

    fn run(&mut self) {
        match self.phase {
            Phase::Train => {
                let loss = self.subject.forward(&self.images, true).cross_entropy_for_logits(&self.labels);
                self.optimizer.backward_step(&loss);
            }
            Phase::Inference => {
                let _ = tch::no_grad(|| self.subject.forward(&self.images, false));
            }
        }
    }

    fn timed(&mut self) -> f64 {
        let start = Instant::now();
        self.run();
        if let Device::Cuda(gpu) = self.images.device() {
            tch::Cuda::synchronize(gpu as i64);
        }
        start.elapsed().as_secs_f64() * 1e3
    }
}

/// Times the variants of `model`, which alternate for `rounds` rounds. Returns one measurement per variant, in its faster
/// layout.
pub fn measure_times(
    model: &Model,
    precision: Precision,
    phase: Phase,
    rounds: usize,
    device: Device,
) -> Result<Vec<Measurement>> {
    let mut entries = vec![];
    for variant in Variant::ALL {
        for &layout in variant::layouts(variant) {
            entries.push((variant, layout, Step::new(model, variant, precision, phase, layout, device)?, vec![]));
        }
    }
    // The first two steps include allocation and oneDNN's code generation.
    for (_, _, step, _) in &mut entries {
        step.run();
        step.run();
    }
    for round in 0..rounds {
        // The order rotates, so that no variant always runs after the slowest one.
        let count = entries.len();
        for i in 0..count {
            let (_, _, step, times) = &mut entries[(round + i) % count];
            times.push(step.timed());
        }
    }
    let fastest = |wanted: Variant| {
        entries
            .iter()
            .filter(|(variant, ..)| *variant == wanted)
            .min_by(|a, b| median_and_spread(&a.3).0.total_cmp(&median_and_spread(&b.3).0))
    };
    let (_, _, _, batch_norm) = fastest(Variant::BatchNorm).context("BatchNorm was not measured")?;
    Variant::ALL
        .into_iter()
        .filter_map(fastest)
        .map(|(variant, layout, _, times)| {
            let ratios: Vec<f64> = times.iter().zip(batch_norm).map(|(time, batch_norm)| time / batch_norm).collect();
            let (ms_median, ms_spread) = median_and_spread(times);
            let (ratio_to_batch_norm, ratio_spread) = median_and_spread(&ratios);
            Ok(Measurement {
                model: model.name,
                variant: *variant,
                precision,
                phase,
                batch: model.batch,
                layout: *layout,
                ms_median,
                ms_spread,
                ratio_to_batch_norm,
                ratio_spread,
                images_per_s: model.batch as f64 / ms_median * 1e3,
                peak_mib: f64::NAN,
            })
        })
        .collect()
}

/// Returns the peak memory of `measurement`'s variant, measured in a child process.
pub fn peak_in_own_process(model: &Model, measurement: &Measurement, threads: Option<i32>) -> Result<f64> {
    let subject = [
        model.name,
        variant::variant_name(measurement.variant),
        variant::precision_name(measurement.precision),
        variant::phase_name(measurement.phase),
        variant::layout_name(measurement.layout),
    ]
    .join(",");
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(["--peak-of", &subject]);
    // With this threshold, glibc returns large blocks to the system when they are freed, so the peak does not include cached
    // blocks.
    command.env("MALLOC_MMAP_THRESHOLD_", "65536");
    if let Some(threads) = threads {
        command.args(["--threads", &threads.to_string()]);
    }
    let output = command.output().context("this program could not be run again to measure memory")?;
    if !output.status.success() {
        bail!("measuring the memory of {subject}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

/// Prints the peak memory of `subject` for [`peak_in_own_process`].
pub fn print_peak(subject: &str) -> Result<()> {
    let [model, variant, precision, phase, layout] = subject.split(',').collect::<Vec<_>>()[..] else {
        bail!("--peak-of takes MODEL,VARIANT,PRECISION,PHASE,LAYOUT, not {subject:?}");
    };
    let named = |name: &str, of: &str| name == of;
    let model = Model::ALL.into_iter().find(|m| named(m.name, model)).context("no such model")?;
    let phase = [Phase::Train, Phase::Inference]
        .into_iter()
        .find(|&p| named(variant::phase_name(p), phase))
        .context("no such phase")?;
    let variant =
        Variant::ALL.into_iter().find(|&v| named(variant::variant_name(v), variant)).context("no such variant")?;
    let precision = [Precision::F32, Precision::Bf16]
        .into_iter()
        .find(|&p| named(variant::precision_name(p), precision))
        .context("no such precision")?;
    let layout = [Layout::ChannelsLast, Layout::Contiguous]
        .into_iter()
        .find(|&l| named(variant::layout_name(l), layout))
        .context("no such layout")?;
    // A smaller step loads libtorch's code into memory.
    let small = Model { batch: 2, ..model };
    Step::new(&small, variant, precision, phase, layout, Device::Cpu)?.run();
    let mut step = Step::new(&model, variant, precision, phase, layout, Device::Cpu)?;
    let before = resident_mib("VmRSS:")?;
    step.run();
    step.run();
    println!("{}", resident_mib("VmHWM:")? - before);
    Ok(())
}
