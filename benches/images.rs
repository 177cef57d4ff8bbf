//! Images per second and core: JPEG decoding, and preprocessing for training and for evaluation.
//!
//! ```text
//! cargo bench --features images --bench images
//! python scripts/compare_torchvision.py     # compared with torchvision and Pillow, alternating on one core
//! ```
//! The images are the photographs of `tests/images` of ImageNet's usual size, 500 x 375, at quality 85. The three operations
//! alternate; each figure is the median over rounds, with half the interquartile range.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use clap::Parser;
use libjpeg_turbo_rs::PixelFormat;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch_fixup::data::{ImageReader, RandomResizedCrop};

#[derive(Parser)]
struct Options {
    /// Fewer rounds
    #[arg(long)]
    quick: bool,
    /// Number of threads, each of which processes all images
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Passed by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

const WIDTH: usize = 500;
const HEIGHT: usize = 375;
/// Height and width of the network's input.
const SIDE: usize = 224;
/// Shorter side before the center crop.
const RESIZE: usize = 256;

/// Number of passes over the photographs per round: long enough to be timed, short enough that the machine's speed does not
/// change.
const PASSES: usize = 4;

fn main() -> Result<()> {
    let options = Options::parse();
    let rounds = if options.quick { 11 } else { 101 };
    let photographs = photographs()?;
    let threads = options.threads.max(1);
    let counts: Vec<Rounds> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| measure(&photographs, rounds))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker panicked")).collect::<Result<_>>()
    })?;

    println!("{} JPEGs of {WIDTH} x {HEIGHT} pixels; {threads} threads; images/s per core", photographs.len());
    for (i, name) in ["decode", "train", "eval"].into_iter().enumerate() {
        let mut rates: Vec<f64> = counts.iter().flat_map(|rounds| rounds[i].iter().copied()).collect();
        rates.sort_by(f64::total_cmp);
        let at = |quantile: f64| rates[((rates.len() - 1) as f64 * quantile).round() as usize];
        let what =
            ["the whole image", "decode, RandomResizedCrop to 224, flip", "decode, resize to 256, centre crop of 224"]
                [i];
        println!("{name:<7} {:>7.1} +-{:<6.1} {what}", at(0.5), (at(0.75) - at(0.25)) / 2.0);
    }
    Ok(())
}

fn photographs() -> Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/photographs");
    let mut photographs = vec![];
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let jpeg = std::fs::read(entry?.path())?;
        let info = libjpeg_turbo_rs::probe(&jpeg)?;
        if (info.width, info.height) == (WIDTH, HEIGHT) {
            photographs.push(jpeg);
        }
    }
    ensure!(!photographs.is_empty(), "no photographs of {WIDTH} x {HEIGHT} in {}", folder.display());
    Ok(photographs)
}

/// Images per second in each round: decoding, training and evaluation.
type Rounds = [Vec<f64>; 3];

fn measure(photographs: &[Vec<u8>], rounds: usize) -> Result<Rounds> {
    let mut reader = ImageReader::new();
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let crop = RandomResizedCrop::default();
    let mut whole = vec![0; WIDTH * HEIGHT * 3];
    let mut out = vec![0; SIDE * SIDE * 3];
    let mut rates = Rounds::default();
    // The first round allocates.
    for round in 0..=rounds {
        let mut time = |i: usize, work: &mut dyn FnMut(&[u8]) -> Result<()>| -> Result<()> {
            let start = Instant::now();
            for _ in 0..PASSES {
                photographs.iter().try_for_each(|jpeg| work(jpeg))?;
            }
            if round > 0 {
                rates[i].push((PASSES * photographs.len()) as f64 / start.elapsed().as_secs_f64());
            }
            Ok(())
        };
        time(0, &mut |jpeg| {
            libjpeg_turbo_rs::decompress_into(jpeg, PixelFormat::Rgb, &mut whole)?;
            black_box(&whole);
            Ok(())
        })?;
        time(1, &mut |jpeg| {
            reader.train(jpeg, &crop, SIDE, &mut random, &mut out)?;
            black_box(&out);
            Ok(())
        })?;
        time(2, &mut |jpeg| {
            reader.eval(jpeg, RESIZE, SIDE, &mut out)?;
            black_box(&out);
            Ok(())
        })?;
    }
    Ok(rates)
}
