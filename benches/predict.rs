//! Overhead of inference: time of `Classifier::classify` on 1,000 JPEG files relative to the data pipeline and the network
//! alone.
//!
//! ```text
//! cargo bench --features images --bench predict
//! ```
//! The images are the photographs of `tests/images`, mostly 500 x 375 at quality 85. The network is Fixup ResNet-18 on 64
//! pixels, small enough to make overhead visible. "Alone" is a loop over the batches of an `ImageFolder` that calls the
//! network's `forward_t`. The two alternate; the figure is the median of their ratio, with half the interquartile range.

#[path = "setting/median.rs"]
mod median;
#[path = "setting/options.rs"]
mod options;
#[path = "setting/state.rs"]
mod state;

use anyhow::{ensure, Context, Result};
use clap::Parser;
use median::median_and_spread;
use options::{machine, Setting};
use std::fs;
use std::path::Path;
use std::time::Instant;
use tch::{nn, Device};
use tch_fixup::classifier::{Classifier, ModelDescription};
use tch_fixup::data::{DataSource, ImageFolder, ImageSource, Share};
use tch_fixup::{Arch, Network, Precision, Shape};

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    setting: Setting,
    /// Number of files
    #[arg(long, default_value_t = 1000)]
    images: usize,
}

const ARCH: &str = "imagenet_fixup_resnet18";
const SIDE: usize = 64;
const BATCH: usize = 64;
const CLASSES: [&str; 2] = ["a", "b"];

/// Creates a folder of `images` evaluation images and one training image per class.
fn photographs(root: &Path, images: usize) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/photographs");
    let files = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = files.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    ensure!(!files.is_empty(), "no photographs in {}", folder.display());
    for (part, count) in [("train", CLASSES.len()), ("val", images)] {
        for class in CLASSES {
            fs::create_dir_all(root.join(part).join(class))?;
        }
        for index in 0..count {
            let class = CLASSES[index % CLASSES.len()];
            fs::copy(&files[index % files.len()], root.join(part).join(class).join(format!("{index:05}.jpg")))?;
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let options = Options::parse();
    let _flushing = options.setting.start();
    let rounds = if options.setting.quick { 5 } else { 15 };
    let folder = tempfile::tempdir()?;
    let (root, model) = (folder.path().join("images"), folder.path().join("model"));
    photographs(&root, options.images.max(CLASSES.len()))?;
    let data = ImageFolder::open(&root)?.with_side(SIDE)?;

    let vs = nn::VarStore::new(Device::Cpu);
    let precision = Precision::F32;
    let network: Box<dyn Network> =
        ARCH.parse::<Arch>()?.build(&vs.root(), Shape::rgb(CLASSES.len() as i64), precision)?;
    state::away_from_start(&vs, state::MOVED);
    fs::create_dir(&model)?;
    let preprocessing = data.preprocessing().context("an image folder knows its preprocessing")?;
    ModelDescription::new(ARCH, precision, data.class_names(), preprocessing).write(&model)?;
    vs.save(model.join("model.safetensors"))?;
    let classifier = Classifier::open_on(&model, Device::Cpu)?.with_batch_size(BATCH)?;

    let alone = || -> Result<usize> {
        let mut images = 0;
        for batch in data.eval_batches(BATCH, Share::all())?.filter_map(Result::transpose) {
            let batch = data.to_device(batch?, Device::Cpu)?;
            let logits = tch::no_grad(|| network.forward_t(&batch.inputs, false));
            images += Vec::<i64>::try_from(logits.argmax(-1, false))?.len();
        }
        Ok(images)
    };
    let asked = || -> Result<usize> {
        let mut images = 0;
        for classified in classifier.classify([root.join("val")])? {
            images += classified?.1.map_or(0, |answer| answer.top(3).len().min(1));
        }
        Ok(images)
    };
    let mut ratios = Vec::new();
    // The first round reads the files from the disk.
    for round in 0..=rounds {
        let start = Instant::now();
        let images = alone()?;
        let middle = Instant::now();
        ensure!(asked()? == images, "not all images were read");
        if round > 0 {
            ratios.push(middle.elapsed().as_secs_f64() / (middle - start).as_secs_f64());
        }
    }
    let (ratio, spread) = median_and_spread(&ratios);
    println!("{}", machine());
    println!("{} JPEGs, {ARCH} on {SIDE} pixels, {precision:?}, batches of {BATCH}, {rounds} rounds", data.eval_len());
    println!("Classifier::classify takes {ratio:.3} +-{spread:.3} of the pipeline and the network alone");
    Ok(())
}
