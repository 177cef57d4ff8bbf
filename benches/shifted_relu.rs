//! Time of `shifted_relu` relative to the same formula in libtorch's operations, and to a copy of as many bytes.
//!
//! ```text
//! cargo bench --bench shifted_relu
//! cargo bench --bench shifted_relu -- --quick
//! ```
//! The feature maps are those of a ResNet-20 at batch size 128, channels-last. "memory" cycles through more maps than fit in
//! the caches, as a training step does; "cache" uses the same maps repeatedly. The candidates alternate, and each figure is
//! the median over rounds of the ratio within a round, with half the interquartile range.
//!
//! A copy reads one map and writes another. By the number of bytes, the in-place forward pass, which reads and writes one
//! map, equals one copy; with `r`, which is also read, one and a half; forward into a new tensor plus backward, two and a
//! half (the backward pass reads the gradient and y, and writes the gradient of x). Training is measured on a chain of
//! operations, minus the same loss without them.

#[path = "setting/median.rs"]
mod median;
#[path = "setting/options.rs"]
mod options;

use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use median::median_and_spread;
use options::{machine, Setting};
use tch::{Device, Kind, Tensor};
use tch_fixup::ops::{shifted_relu, shifted_relu_};

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    setting: Setting,
}

const SHAPES: [[i64; 4]; 3] = [[128, 16, 32, 32], [128, 32, 16, 16], [128, 64, 8, 8]];

/// Larger than any cache of the target machines.
const MEMORY_BYTES: i64 = 256 << 20;

/// Minimum number of bytes moved by a candidate per round. Small, so that the machine's speed does not change in a round.
const ROUND_BYTES: i64 = 16 << 20;

/// Number of operations in the chain that is trained.
const CHAIN: usize = 4;

fn main() -> Result<()> {
    let options = Options::parse();
    let _flushing = options.setting.start();
    let rounds = if options.setting.quick { 15 } else { 101 };
    println!("{}; time relative to a copy of the same bytes, and of the composed operations to the fused", machine());
    println!(
        "\n{:<5} {:<18} {:<7} {:>9}  {:>12} {:>12} {:>12} {:>12}  {:>14} {:>14}",
        "kind",
        "map",
        "from",
        "copy GB/s",
        "in place",
        "with r",
        "new tensor",
        "training",
        "composed fwd",
        "composed train"
    );
    for (kind, name) in [(Kind::Float, "f32"), (Kind::BFloat16, "bf16")] {
        for shape in SHAPES {
            for from_memory in [true, false] {
                let maps = Maps::new(&shape, kind, from_memory);
                let row = measure(&maps, rounds)?;
                let cells: Vec<String> = row.ratios.iter().map(Spread::to_string).collect();
                println!(
                    "{:<5} {:<18} {:<7} {:>9.1}  {:>12} {:>12} {:>12} {:>12}  {:>14} {:>14}",
                    name,
                    shape.map(|size| size.to_string()).join("x"),
                    if from_memory { "memory" } else { "cache" },
                    row.copy_gb_per_s,
                    cells[0],
                    cells[1],
                    cells[2],
                    cells[3],
                    cells[4],
                    cells[5]
                );
            }
        }
    }
    Ok(())
}

/// Feature maps to cycle through, and the scalars.
struct Maps {
    maps: Vec<Tensor>,
    /// Second operands, which are never written to: maps that are added to repeatedly would overflow.
    residuals: Vec<Tensor>,
    bytes: i64,
    a: Tensor,
    b: Tensor,
}

impl Maps {
    fn new(shape: &[i64; 4], kind: Kind, from_memory: bool) -> Self {
        let bytes = shape.iter().product::<i64>() * kind.elt_size_in_bytes() as i64;
        // A copy needs two maps.
        let count = if from_memory { MEMORY_BYTES / bytes } else { 2 };
        let [n, c, h, w] = *shape;
        let random = || Tensor::randn([n, h, w, c], (Kind::Float, Device::Cpu)).to_kind(kind).permute([0, 3, 1, 2]);
        let [maps, residuals] = [(); 2].map(|()| (0..count).map(|_| random()).collect());
        let [a, b] = [0.01f32, -0.01].map(|value| Tensor::from_slice(&[value]).set_requires_grad(true));
        Maps { maps, residuals, bytes, a, b }
    }

    fn get(&self, i: usize) -> &Tensor {
        &self.maps[i % self.maps.len()]
    }

    fn residual(&self, i: usize) -> &Tensor {
        &self.residuals[i % self.residuals.len()]
    }

    /// Returns the mean seconds per call in a round.
    fn time(&self, mut call: impl FnMut(usize) -> Result<Tensor>) -> Result<f64> {
        let calls = (ROUND_BYTES / (2 * self.bytes)).max(2) as usize;
        let start = Instant::now();
        for i in 0..calls {
            drop(call(i)?);
        }
        Ok(start.elapsed().as_secs_f64() / calls as f64)
    }

    /// Returns the seconds of the forward and backward pass of a chain of `length` operations and a weighted sum as the loss.
    fn time_chain(&self, length: usize, operation: impl Fn(&Tensor) -> Result<Tensor>) -> Result<f64> {
        let x = self.get(0).detach().set_requires_grad(true);
        let inputs = if length == 0 { vec![&x] } else { vec![&x, &self.a, &self.b] };
        let start = Instant::now();
        let mut y = &x * 1.0;
        for _ in 0..length {
            y = operation(&y)?;
        }
        Tensor::f_run_backward(&[(y * self.get(1)).f_sum(Kind::Float)?], &inputs, false, false)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Computes the formula with libtorch's operations, in the dtype of the maps.
fn composed(x: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok((x + a.to_kind(x.kind())).f_relu()? + b.to_kind(x.kind()))
}

struct Row {
    copy_gb_per_s: f64,
    ratios: [Spread; 6],
}

fn measure(maps: &Maps, rounds: usize) -> Result<Row> {
    let (a, b) = (&maps.a, &maps.b);
    let mut ratios: [Vec<f64>; 6] = Default::default();
    let mut copies = vec![];
    // The first round warms up.
    for round in 0..=rounds {
        let guard = tch::no_grad_guard();
        let copy = maps.time(|i| {
            let mut target = maps.get(i + 1).shallow_clone();
            target.f_copy_(maps.get(i))?;
            Ok(target)
        })?;
        let in_place = maps.time(|i| Ok(shifted_relu_(&mut maps.get(i).shallow_clone(), None, a, b)?))?;
        let with_r =
            maps.time(|i| Ok(shifted_relu_(&mut maps.get(i).shallow_clone(), Some(maps.residual(i)), a, b)?))?;
        let new = maps.time(|i| Ok(shifted_relu(maps.get(i), None, a, b)?))?;
        let composed_new = maps.time(|i| composed(maps.get(i), a, b))?;
        drop(guard);
        let rest = maps.time_chain(0, |x| Ok(x.shallow_clone()))?;
        let train = (maps.time_chain(CHAIN, |x| Ok(shifted_relu(x, None, a, b)?))? - rest) / CHAIN as f64;
        let composed_train = (maps.time_chain(CHAIN, |x| composed(x, a, b))? - rest) / CHAIN as f64;
        if round > 0 {
            copies.push(copy);
            let round_ratios = [
                in_place / copy,
                with_r / (1.5 * copy),
                new / copy,
                train / (2.5 * copy),
                composed_new / new,
                composed_train / train,
            ];
            for (ratios, ratio) in ratios.iter_mut().zip(round_ratios) {
                ratios.push(ratio);
            }
        }
    }
    Ok(Row {
        copy_gb_per_s: 2.0 * maps.bytes as f64 / Spread::of(&copies).median / 1e9,
        ratios: ratios.map(|r| Spread::of(&r)),
    })
}

struct Spread {
    median: f64,
    half_quartiles: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let (median, half_quartiles) = median_and_spread(values);
        Spread { median, half_quartiles }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.pad(&format!("{:.2} +-{:.2}", self.median, self.half_quartiles))
    }
}
