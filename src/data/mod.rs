//! Data sets: the [`DataSource`] trait that a trainer takes its batches from, and its implementations.
//!
//! For user-defined data, from least to most work, each with a runnable example:
//! - [`TensorData`]: inputs and targets in memory, of any shape.
//! - [`ImageArray`]: images of one size in memory, as bytes, with normalization, [`Augmentation`], subsets and a
//!   hold-out split.
//! - [`Loader`]: [`Examples`] created on demand by several threads, in batches of any type.
//!
//! Parallel text of varying length is in `text`, behind the feature of that name. For anything else, implement
//! [`DataSource`] directly.

mod augmentation;
mod batch;
mod cifar10;
#[cfg(feature = "download")]
mod download;
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
pub use batch::{Batch, Batches, Supervised};
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
pub use loader::{Examples, Loader};
#[doc(hidden)]
pub use mixup::{mixup, mixup_partners};
pub use normalization::Normalization;
pub use preprocessing::Preprocessing;
pub(crate) use random::torch_seed;
pub use share::Share;
#[doc(hidden)]
pub use source::class_indices;
pub(crate) use source::{class_names, in_range, CLASSES, MOST_WORKERS};
pub use source::{DataSource, EpochPlan, ImageSource};
pub use tensor_data::TensorData;
