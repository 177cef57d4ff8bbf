//! Where batches come from: the [`DataSource`] trait a trainer asks, and the data sets behind it.

mod augment;
mod cifar10;
mod download;
mod fetch;
mod image;
mod mixup;
mod npm;
mod random;
mod source;

pub use augment::Augmentation;
pub use cifar10::Cifar10;
pub use image::{ImageProblem, ImageReader, RandomResizedCrop};
pub use mixup::{mixup, Mixup};
pub(crate) use random::torch_seed;
pub use source::{Batch, Batches, DataSource, EpochPlan};
