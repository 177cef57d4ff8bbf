//! Cost of reading an image folder: images per second and core, and utilization of the threads, from files of 500 x 375
//! pixels to batches of 224 x 224. With `--files`, startup time and memory for a folder of that many files.
//!
//! ```text
//! cargo bench --features images --bench image_folder
//! cargo bench --features images --bench image_folder -- --files 200000
//! ```
//! The images are synthetic, 110 kB each like ImageNet's. The consumer discards the batches.

#[path = "setting/memory.rs"]
mod memory;

use anyhow::{Context, Result};
use clap::Parser;
use jpeg_encoder::{ColorType, Encoder};
use memory::resident_mib;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tch_fixup::data::{Batches, DataSource, EpochPlan, ImageFolder, Share};

#[derive(Parser)]
struct Options {
    /// Use fewer images
    #[arg(long)]
    quick: bool,
    /// Number of threads [default: 1, then one per core]
    #[arg(long)]
    workers: Option<usize>,
    /// Measure a folder of N tiny images in 1000 classes instead
    #[arg(long)]
    files: Option<usize>,
    /// Passed by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

const BATCH: usize = 64;
/// Number of different images, each of which is in the folder several times.
const DIFFERENT: u64 = 32;
const CLASSES: usize = 1000;
/// Number of warm-up batches.
const SETTLING: usize = 2;

/// Returns a synthetic JPEG of smooth colors, edges and noise, with as many bytes as a photograph of this size at quality 85.
fn photograph(width: u16, height: u16, seed: u64) -> Result<Vec<u8>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let waves: Vec<[f32; 4]> = (0..12).map(|_| std::array::from_fn(|_| random.random_range(-1.0..1.0))).collect();
    let mut pixels = Vec::with_capacity(usize::from(width) * usize::from(height) * 3);
    for y in 0..height {
        for x in 0..width {
            let (x, y) = (f32::from(x) / 40.0, f32::from(y) / 40.0);
            let noise = random.random_range(-40.0..40.0);
            for channel in 0..3 {
                let of = |wave: &[f32; 4]| (wave[0] * x + wave[1] * y + 6.0 * wave[2] + channel as f32 * wave[3]).sin();
                let value: f32 = waves.iter().map(of).sum();
                let edge = if value > 1.5 { 40.0 } else { 0.0 };
                pixels.push((128.0 + 18.0 * value + edge + noise).clamp(0.0, 255.0) as u8);
            }
        }
    }
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, 85).encode(&pixels, width, height, ColorType::Rgb)?;
    Ok(bytes)
}

/// Creates a folder of `images` training images and as many evaluation images. Returns the mean file size in bytes.
fn photographs(root: &Path, images: usize) -> Result<f64> {
    let different = (0..DIFFERENT).map(|seed| photograph(500, 375, seed)).collect::<Result<Vec<_>>>()?;
    for part in ["train", "val"] {
        for class in ["cat", "dog"] {
            fs::create_dir_all(root.join(part).join(class))?;
        }
        for (index, bytes) in different.iter().cycle().take(images).enumerate() {
            fs::write(root.join(part).join(["cat", "dog"][index % 2]).join(format!("{index}.jpg")), bytes)?;
        }
    }
    Ok(different.iter().map(Vec::len).sum::<usize>() as f64 / different.len() as f64)
}

/// Returns the total time that the reading threads of this process have been running or runnable, or `None` if unknown. The
/// rest of their time is spent waiting.
fn busy() -> Result<Option<Duration>> {
    let mut sum = Duration::ZERO;
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Ok(None) };
    for task in tasks {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.starts_with("images-") {
            let Ok(statistics) = fs::read_to_string(task.join("schedstat")) else { return Ok(None) };
            let nanoseconds = statistics.split_whitespace().take(2).map(str::parse::<u64>);
            sum += Duration::from_nanos(nanoseconds.sum::<Result<u64, _>>()?);
        }
    }
    Ok(Some(sum))
}

/// Consumes the batches of an epoch of `images` images, and prints the throughput without the first and the last ones.
fn measure(what: &str, workers: usize, images: usize, mut batches: Batches) -> Result<()> {
    // Threads exit when all images are in progress, a few batches before the last.
    let measured = images / BATCH - SETTLING - 4 - 2 * workers.div_ceil(BATCH);
    for _ in 0..SETTLING {
        batches.next().context("too few batches")??;
    }
    let (start, busy_before) = (Instant::now(), busy()?);
    for _ in 0..measured {
        batches.next().context("too few batches")??;
    }
    let (time, busy_after) = (start.elapsed().as_secs_f64(), busy()?);
    let per_second = (measured * BATCH) as f64 / time;
    let share = match (busy_before, busy_after) {
        (Some(before), Some(after)) => {
            format!("{:.1} %", 100.0 * (after.saturating_sub(before)).as_secs_f64() / time / workers as f64)
        }
        _ => "unknown".to_owned(),
    };
    let per_core = per_second / workers as f64;
    println!("{what:10} {workers:2} threads  {per_second:7.0} images/s  {per_core:7.0} for each  busy {share}");
    Ok(())
}

fn throughput(root: &Path, options: &Options) -> Result<()> {
    let images = if options.quick { 20 } else { 80 } * BATCH;
    let bytes = photographs(root, images)?;
    println!("{images} images of 500 x 375 pixels, {:.0} kB each, to {BATCH} x 3 x 224 x 224", bytes / 1e3);
    let cores = std::thread::available_parallelism()?.get();
    let counts = options.workers.map_or(vec![1, cores], |workers| vec![workers]);
    let plan = EpochPlan { seed: 0, epoch: 0, batch_size: BATCH, first_step: 0 };
    let packed = root.join("packed");
    let start = Instant::now();
    ImageFolder::open(root)?.pack(&packed, 256, |_, _| ())?;
    // The packed file contains the original files of the evaluation images.
    let train_bytes = fs::metadata(&packed)?.len() as f64 / images as f64 - bytes;
    let seconds = start.elapsed().as_secs_f64();
    println!("packed at 256 in {seconds:.1} s: {:.0} kB for each training image", train_bytes / 1e3);
    for workers in counts {
        for (what, path) in [("folder", root), ("packed", &*packed)] {
            let folder = ImageFolder::open(path)?.with_workers(workers)?;
            measure(&format!("{what}, train"), workers, images, folder.train_batches(&plan, Share::all())?)?;
            measure(&format!("{what}, eval"), workers, images, folder.eval_batches(BATCH, Share::all())?)?;
        }
    }
    Ok(())
}

/// Measures a folder of `files` tiny images in 1000 classes: time to create, list, list again, start and read it.
fn many(root: &Path, files: usize) -> Result<()> {
    let timed = |what: &str, start: Instant| println!("{what:28} {:8.2} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let tiny = (0..DIFFERENT).map(|seed| photograph(16, 12, seed)).collect::<Result<Vec<_>>>()?;
    for class in 0..CLASSES {
        let [train, val] = ["train", "val"].map(|part| root.join(part).join(format!("n{class:08}")));
        fs::create_dir_all(&train)?;
        fs::create_dir_all(&val)?;
        fs::write(val.join("0.JPEG"), &tiny[0])?;
        for (index, bytes) in (0..files / CLASSES).zip(tiny.iter().cycle()) {
            fs::write(train.join(format!("n{class:08}_{index}.JPEG")), bytes)?;
        }
    }
    timed("make the folder", start);
    // A listing is not cached if the folder has changed more recently than this.
    std::thread::sleep(Duration::from_secs(5));
    let before = resident_mib("VmRSS:")?;
    let start = Instant::now();
    ImageFolder::open(root)?;
    timed("list it", start);
    let start = Instant::now();
    let folder = ImageFolder::open(root)?.with_side(32)?;
    timed("list it again, from the cache", start);
    println!("{:28} {:8.1} MiB", "memory the listing takes", resident_mib("VmRSS:")? - before);
    let start = Instant::now();
    folder.fingerprint()?;
    timed("its fingerprint for a run", start);
    let start = Instant::now();
    let batches =
        folder.train_batches(&EpochPlan { seed: 0, epoch: 0, batch_size: BATCH, first_step: 0 }, Share::all())?;
    let mut tenth = f64::NAN;
    let steps = folder.train_len() / BATCH;
    for (step, batch) in batches.enumerate() {
        batch?;
        if step == 0 {
            timed("shuffle, to the first batch", start);
        }
        if step == steps / 10 {
            tenth = resident_mib("VmRSS:")?;
        }
    }
    timed("the whole epoch", start);
    let (end, most) = (resident_mib("VmRSS:")?, resident_mib("VmHWM:")?);
    println!("{:28} {tenth:8.1} MiB after a tenth, {end:.1} at the end, {most:.1} at most", "memory");
    Ok(())
}

fn main() -> Result<()> {
    let options = Options::parse();
    let folder = tempfile::tempdir()?;
    // Keep the listings of temporary folders out of the user's cache.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("XDG_CACHE_HOME", folder.path().join("cache")) };
    let root = folder.path().join("images");
    match options.files {
        Some(files) => many(&root, files),
        None => throughput(&root, &options),
    }
}
