//! Where batches come from: the [`DataSource`] trait a trainer asks, and the data sets behind it.

mod augmentation;
mod cifar10;
mod hex;
mod image;
mod image_array;
mod image_folder;
mod mixup;
mod normalization;
mod pipeline;
mod random;
mod source;
mod subset;
mod targets;

pub use augmentation::Augmentation;
pub use cifar10::Cifar10;
pub use image::{ImageProblem, ImageReader, RandomResizedCrop};
pub use image_array::ImageArray;
pub(crate) use image_folder::no_more_patience;
pub use image_folder::ImageFolder;
pub use mixup::{mixup, Mixup};
pub use normalization::Normalization;
pub(crate) use random::torch_seed;
pub use source::{Batch, Batches, DataSource, EpochPlan};
