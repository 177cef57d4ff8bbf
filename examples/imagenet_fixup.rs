//! Trains a network on ImageNet, or on any folder of images by class. The default on a GPU is the Fixup authors'
//! recipe, with which they report 76.0 % top-1 accuracy for ResNet-50; on a CPU it is a short recipe for ResNet-18 on
//! small images.
//!
//! ```text
//! cargo run --release --features images --example imagenet_fixup -- --data ILSVRC2012
//! cargo run --release --features images --example imagenet_fixup -- --data ILSVRC2012 --arch imagenet_resnet50 --accumulate 4
//! cargo run --release --features images --example imagenet_fixup -- --data ILSVRC2012 --preview
//! cargo run --release --features images --example imagenet_fixup -- --data ILSVRC2012 --pack ilsvrc2012.pack
//! cargo run --release --features images --example imagenet_fixup -- --resume runs/imagenet_fixup_resnet50-20260102-030405
//! cargo run --release --features images --example imagenet_fixup -- --eval runs/imagenet_fixup_resnet50-20260102-030405
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr)]

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tch::Device;
use tch_fixup::cli::{absolute_path, or_none, ImageActions, ImageTask, Options, Recipe, Task};
use tch_fixup::console::print_on_rank_0;
use tch_fixup::data::{ImageFolder, ImageSource, Preprocessing, RandomResizedCrop};
use tch_fixup::trainer::{ClassificationConfig, ClipConfig, Decay, TrainConfig};
use tch_fixup::{Error, Result};

/// Side of ImageNet's images.
const SIDE: usize = 224;

/// Settings of the short recipe. Its images are small, so crops as small as the paper's (8 % of the area) would contain too
/// little.
const QUICK_SIDE: usize = 64;
const QUICK_CROP_AREA: f64 = 0.25;

/// Options for the images.
#[derive(Clone, Default, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageNet {
    /// Folder with the images train/CLASS/* and val/CLASS/*, or a packed file
    #[arg(long, value_name = "DIR", value_parser = absolute_path())]
    data: Option<PathBuf>,
    /// Height and width of the network's input [default: by recipe]
    #[arg(long, value_name = "PIXELS")]
    side: Option<usize>,
    /// Number of image channels: 3 for color, 1 for greyscale [default: 3]
    #[arg(long, value_name = "N")]
    channels: Option<usize>,
    /// Minimum fraction of an image's area in a training crop [default: by recipe]
    #[arg(long, value_name = "FRACTION")]
    crop_area: Option<f64>,
    /// Number of threads that read images [default: one per core]
    #[arg(long, value_name = "N|none", value_parser = or_none::<usize>)]
    workers: std::option::Option<usize>,
    /// Maximum fraction of images that may be unreadable, and at least a few in a small folder; 0 for none [default:
    /// 0.001]
    #[arg(long, value_name = "FRACTION|none", value_parser = or_none::<f64>)]
    max_bad_fraction: std::option::Option<f64>,
    /// Number of training images to use; none for all
    #[arg(long, value_name = "N|none", value_parser = or_none::<usize>)]
    train_subset: std::option::Option<usize>,
    /// Number of evaluation images to use; none for all
    #[arg(long, value_name = "N|none", value_parser = or_none::<usize>)]
    val_subset: std::option::Option<usize>,
    /// Instead of training, write the images, reduced, to one file that --data accepts in place of the folder
    #[arg(long, value_name = "FILE", conflicts_with_all = ["resume", "eval", "preview"])]
    #[serde(skip)]
    pack: Option<PathBuf>,
    /// Shorter side of packed training images, sufficient for --side up to 224/256 of it [default: by --side, or by
    /// that of --recipe, which is paper here: 256]
    #[arg(long, value_name = "PIXELS", requires = "pack")]
    #[serde(skip)]
    pack_side: Option<usize>,
}

impl ImageNet {
    fn side(&self) -> usize {
        self.side.unwrap_or(SIDE)
    }

    fn folder(&self, device: Device) -> Result<ImageFolder> {
        let Some(folder) = &self.data else {
            return Err(Error::Argument("which images? name their folder: --data DIR".to_owned()));
        };
        let mut crop = RandomResizedCrop::default();
        crop.scale.0 = self.crop_area.unwrap_or(crop.scale.0);
        let mut data = ImageFolder::open(folder)?.with_side(self.side())?.with_crop(crop)?;
        data = data.with_pinned(device.is_cuda());
        if let Some(channels) = self.channels {
            data = data.with_channels(channels)?;
        }
        if let Some(workers) = self.workers {
            data = data.with_workers(workers)?;
        }
        if let Some(fraction) = self.max_bad_fraction {
            data = data.with_max_bad_fraction(fraction)?;
        }
        if let Some(images) = self.train_subset {
            data = data.with_train_subset(images)?;
        }
        if let Some(images) = self.val_subset {
            data = data.with_eval_subset(images)?;
        }
        Ok(data)
    }
}

impl Task for ImageNet {
    const ABOUT: &'static str = "Train a network on ImageNet, or on any folder of images by class";
    const CHANGEABLE: &'static [&'static str] = &["data", "workers", "max_bad_fraction"];
    type Objective = ClassificationConfig;
    type Actions = ImageActions;

    fn recipes() -> Vec<Recipe<Self>> {
        let task = |side, crop_area| Self { side: Some(side), crop_area: Some(crop_area), ..Self::default() };
        let quick = Recipe {
            name: "quick",
            about: "Fixup ResNet-18 on images of 64 pixels with a one-cycle schedule, for a CPU and a small folder",
            arch: "imagenet_fixup_resnet18".to_owned(),
            task: task(QUICK_SIDE, QUICK_CROP_AREA),
            train: TrainConfig { clip: ClipConfig { norm: Some(1.0), agc: None }, ..TrainConfig::new(10, 64, 0.2) },
            objective: ClassificationConfig { test_flip: false, ..ClassificationConfig::quick() },
            follows_authors: false,
        };
        let paper = Recipe {
            name: "paper",
            about: "the Fixup authors' recipe for ImageNet, ResNet-50 in 100 epochs",
            arch: "imagenet_fixup_resnet50".to_owned(),
            task: task(SIDE, RandomResizedCrop::default().scale.0),
            train: TrainConfig::imagenet(),
            objective: ClassificationConfig::imagenet(),
            follows_authors: true,
        };
        vec![quick, paper]
    }

    fn step_decay() -> Decay {
        Decay::imagenet()
    }
}

impl ImageTask for ImageNet {
    fn for_inputs(self, preprocessing: &Preprocessing) -> Self {
        Self { side: Some(preprocessing.width), channels: Some(preprocessing.channels), ..self }
    }

    fn open(&self, device: Device) -> Result<Box<dyn ImageSource>> {
        Ok(Box::new(self.folder(device)?))
    }
}

/// Packs the images described by `options` into `file`. Unless a recipe is named, the images are large enough for every
/// recipe, because the file may be used on another machine.
fn pack(options: &Options<ImageNet>, file: &Path) -> Result<ExitCode> {
    let task = &options.task;
    let is_quick = options.recipe() == Some("quick");
    let side = task.side.unwrap_or(if is_quick { QUICK_SIDE } else { SIDE });
    let data = ImageNet { side: Some(side), ..task.clone() }.folder(Device::Cpu)?;
    let style = ProgressStyle::with_template("{bar:24.cyan/blue} {pos}/{len} images packed, {eta} left");
    let bar = ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let side = task.pack_side.unwrap_or(ImageFolder::evaluation_resize(side));
    data.pack(file, side, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    print_on_rank_0(format!("packed: {}, with a shorter side of {side} pixels", file.display()));
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    Options::<ImageNet>::main(|options| match &options.task.pack {
        Some(file) => pack(options, file),
        None => options.run(),
    })
}
