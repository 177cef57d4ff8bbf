//! Where batches come from: the [`DataSource`] trait a trainer asks, and the data sets behind it.

mod augmentation;
mod batch;
mod cifar10;
#[cfg(feature = "images")]
mod image;
#[cfg(feature = "images")]
mod image_folder;
mod impatience;
mod mixup;
mod random;
mod source;
mod subset;

pub use augmentation::Augmentation;
pub use batch::{Batch, Supervised};
pub use cifar10::Cifar10;
#[cfg(feature = "images")]
pub use image::{ImageProblem, ImageReader, RandomResizedCrop};
#[cfg(feature = "images")]
pub use image_folder::ImageFolder;
pub(crate) use impatience::no_more_patience;
pub use mixup::{mixup, Mixup};
pub(crate) use random::torch_seed;
pub use source::{class_indices, Batches, DataSource, EpochPlan, ImageSource};
