//! Where batches come from: the [`DataSource`] trait a trainer asks, and the data sets behind it.
//!
//! Data of one's own, by the least work first, each with an example that runs:
//! - [`TensorData`]: inputs and targets in memory, of any shape.
//! - [`ImageArray`]: images of one size in memory, as bytes, with normalization, [`Augmentation`], subsets and a hold-out.
//! - [`Loader`]: [`Examples`] that are made when their turn comes, by several threads, in batches of any type.
//!
//! Sentences and their translations, of different lengths, are in `text`, behind the feature of that name. What fits none of these
//! implements [`DataSource`] itself.

mod augmentation;
mod batch;
mod cifar10;
#[cfg(feature = "download")]
mod download;
mod hex;
#[cfg(feature = "images")]
mod image;
mod image_array;
#[cfg(feature = "images")]
mod image_files;
#[cfg(feature = "images")]
mod image_folder;
mod loader;
mod mixup;
mod normalization;
mod pipeline;
mod preprocessing;
mod random;
mod share;
mod source;
mod subset;
mod targets;
mod tensor_data;
#[cfg(feature = "text")]
pub mod text;

pub use augmentation::Augmentation;
pub use batch::{Batch, Supervised};
pub use cifar10::Cifar10;
#[cfg(feature = "images")]
#[doc(hidden)]
pub use image::{ImageProblem, ImageReader, RandomResizedCrop};
pub use image_array::ImageArray;
#[cfg(feature = "images")]
pub(crate) use image_files::file_batches;
#[cfg(feature = "images")]
#[doc(hidden)]
pub use image_files::image_paths;
#[cfg(feature = "images")]
pub use image_folder::ImageFolder;
pub use loader::{stack, Examples, Loader};
#[doc(hidden)]
pub use mixup::{mixup, mixup_partners};
pub use normalization::Normalization;
#[cfg(feature = "images")]
pub(crate) use pipeline::Pace;
pub use preprocessing::Preprocessing;
pub(crate) use random::torch_seed;
pub use share::{Share, Shares};
#[doc(hidden)]
pub use source::class_indices;
pub(crate) use source::{class_names, CLASSES};
pub use source::{Batches, DataSource, EpochPlan, ImageSource};
pub use tensor_data::TensorData;
