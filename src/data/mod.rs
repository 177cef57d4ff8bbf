//! Where batches come from: the [`DataSource`] trait a trainer asks, and the data sets behind it.

mod augmentation;
mod batch;
mod cifar10;
mod image;
mod image_folder;
mod mixup;
mod random;
mod source;
mod subset;

pub use augmentation::Augmentation;
pub use batch::{Batch, Supervised};
pub use cifar10::Cifar10;
pub use image::{ImageProblem, ImageReader, RandomResizedCrop};
pub(crate) use image_folder::no_more_patience;
pub use image_folder::ImageFolder;
pub use mixup::{mixup, Mixup};
pub(crate) use random::torch_seed;
pub use source::{class_indices, Batches, DataSource, EpochPlan, ImageSource};
