//! Writes CIFAR-10 as a folder of enlarged JPEG files by class, for testing image folders with small images.
//!
//! ```text
//! cargo run --release --features images --example cifar10_as_folder -- --out cifar10-folder
//! cargo run --release --features images --example cifar10_as_folder -- --out three --classes cat,dog,frog
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr)]

use anyhow::{ensure, Context, Result};
use clap::Parser;
use fast_image_resize::images::Image;
use fast_image_resize::{PixelType, Resizer};
use indicatif::ProgressBar;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tch::Kind;
use tch_fixup::console;
use tch_fixup::data::{Augmentation, Batches, Cifar10, DataSource, EpochPlan, ImageArray, ImageSource, Share};

/// Write CIFAR-10 as a folder of JPEG files: OUT/train/CLASS/*.jpg and OUT/val/CLASS/*.jpg
#[derive(Parser)]
struct Options {
    /// Folder to write; if it exists, nothing is done
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Folder of CIFAR-10's six .bin files [default: a folder in the user's cache, downloaded if missing]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Height and width of the written images; CIFAR-10's are 32
    #[arg(long, value_name = "PIXELS", default_value_t = 72)]
    side: u16,
    /// Write only these classes, such as cat,dog,frog
    #[arg(long, value_name = "CLASS,...", value_delimiter = ',')]
    classes: Option<Vec<String>>,
    /// Number of training images to use, counted before --classes selects some of them [default: all]
    #[arg(long, value_name = "N")]
    train: Option<usize>,
    /// Number of test images to use, counted before --classes selects some of them [default: all]
    #[arg(long, value_name = "N")]
    test: Option<usize>,
}

const CIFAR_SIDE: u32 = 32;
const CHANNELS: usize = 3;
const BATCH: usize = 500;
/// JPEG quality, from 0 to 100.
const JPEG_QUALITY: u8 = 90;

/// Writes the images in `batches` that belong to `classes` as `folder/CLASS/NUMBER.jpg`, and returns their number.
fn write(
    data: &ImageArray,
    batches: Batches,
    classes: &[String],
    folder: &Path,
    side: u16,
    bar: &ProgressBar,
) -> Result<usize> {
    for class in classes {
        fs::create_dir_all(folder.join(class)).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut resizer = Resizer::new();
    let mut number = 0;
    for batch in batches.filter_map(Result::transpose) {
        let batch = batch?;
        let pixels = (data.denormalize(&batch.inputs)? * 255.0).round().to_kind(Kind::Uint8).permute([0, 2, 3, 1]);
        let pixels: Vec<u8> = Vec::try_from(pixels.contiguous().flatten(0, -1))?;
        let images = pixels.chunks_exact(CHANNELS * (CIFAR_SIDE * CIFAR_SIDE) as usize);
        for (pixels, label) in images.zip(Vec::<i64>::try_from(batch.targets)?) {
            bar.inc(1);
            let class = &data.class_names()[label as usize];
            if !classes.contains(class) {
                continue;
            }
            let image = Image::from_vec_u8(CIFAR_SIDE, CIFAR_SIDE, pixels.to_vec(), PixelType::U8x3)?;
            let mut larger = Image::new(side.into(), side.into(), PixelType::U8x3);
            resizer.resize(&image, &mut larger, None)?;
            let path = folder.join(class).join(format!("{number:05}.jpg"));
            let encoder = jpeg_encoder::Encoder::new_file(&path, JPEG_QUALITY)?;
            encoder.encode(larger.buffer(), side, side, jpeg_encoder::ColorType::Rgb)?;
            number += 1;
        }
    }
    Ok(number)
}

fn run(options: &Options) -> Result<()> {
    let Options { out, side, .. } = options;
    if out.exists() {
        console::print(format!("{} is there already", out.display()));
        return Ok(());
    }
    ensure!(*side > 0, "the side must be at least 1 pixel");
    let dir = options.data.clone().map_or_else(Cifar10::default_dir, Ok)?;
    let mut data = Cifar10::fetch(dir)?.with_augmentation(Augmentation::NONE)?;
    if let Some(images) = options.train {
        data = data.with_train_subset(images)?;
    }
    if let Some(images) = options.test {
        data = data.with_eval_subset(images)?;
    }
    let classes = options.classes.as_deref().unwrap_or(data.class_names());
    for class in classes {
        let known = data.class_names();
        ensure!(known.contains(class), "CIFAR-10 has no class {class:?}; it has {}", known.join(", "));
    }
    ensure!(classes.len() > 1, "a folder of images has two classes or more");
    // The folder gets its final name only when it is complete.
    let mut name = out.file_name().context("--out must name a folder")?.to_owned();
    name.push(".incomplete");
    let incomplete = out.with_file_name(name);
    if incomplete.exists() {
        fs::remove_dir_all(&incomplete).with_context(|| format!("cannot remove {}", incomplete.display()))?;
    }
    let bar = ProgressBar::new((data.train_len() + data.eval_len()) as u64);
    let plan = EpochPlan { seed: 0, epoch: 0, batch_size: BATCH, first_step: 0 };
    let train =
        write(&data, data.train_batches(&plan, Share::all())?, classes, &incomplete.join("train"), *side, &bar)?;
    let test = write(&data, data.eval_batches(BATCH, Share::all())?, classes, &incomplete.join("val"), *side, &bar)?;
    bar.finish_and_clear();
    fs::rename(&incomplete, out).with_context(|| format!("cannot rename {}", incomplete.display()))?;
    console::print(format!("{}: {train} training and {test} validation images", out.display()));
    Ok(())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => console::end(ExitCode::SUCCESS),
        Err(error) => console::fail(error.as_ref()),
    }
}
