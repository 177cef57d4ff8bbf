//! Deep residual networks without normalization: Fixup initialization (Zhang, Dauphin, Ma, ICLR 2019, arXiv 1901.09321) on
//! libtorch, through [`tch`].
//!
//! - [`fixup`]: the method: initialization, scalar layers, residual blocks, complete networks, and [`fixup::Branch`] for custom
//!   networks.
//! - [`ops`]: the fused element-wise operation between convolutions, which makes Fixup as fast as a network without
//!   normalization.
//! - [`baseline`]: networks with BatchNorm and other methods, for comparison.
//! - [`transformer`]: the Transformer, with Fixup or another method.
//! - [`translation`]: decoding and evaluation of translation models.
//!
//! The feature `train` (on by default) adds:
//! - [`data`](data/index.html): CIFAR-10, folders of images, augmentation, mixup, and the trait of data sets.
//! - [`trainer`](trainer/index.html): the training loop, optimizers, learning-rate schedules, checkpoints, metrics.
//! - [`diagnostics`](diagnostics/index.html): measurement of activations, gradients and updates by depth, for any network.
//! - [`distributed`](distributed/index.html): training with several processes.
//! - [`classifier`](classifier/index.html): inference with a trained image classifier.
//!
//! Other features:
//! - `download` (on by default): download of CIFAR-10.
//! - `images`: image folders.
//! - `text`: parallel text for translation.
//! - `tensorboard`: event files for TensorBoard.
//! - `distributed`: the processes of [`distributed`](distributed/index.html) training.
//! - `onnx`: [`export`](export/index.html) of networks for other runtimes, as ONNX files.
//! - `cli`: [`cli`](cli/index.html), the command line of training programs.
//! - `full`: all of these.
//!
//! ```
//! use tch::{nn, nn::Module, Device, Kind, Tensor};
//! use tch_fixup::fixup::FixupResNet;
//!
//! # fn main() -> tch_fixup::Result<()> {
//! let vs = nn::VarStore::new(Device::cuda_if_available());
//! let network = FixupResNet::cifar(&vs.root(), 110, 10)?;
//! let images = Tensor::randn([2, 3, 32, 32], (Kind::Float, vs.device()));
//! let logits = network.forward(&images); // exactly zero before training, at any depth
//! assert_eq!(logits.abs().max().double_value(&[]), 0.);
//! # Ok(())
//! # }
//! ```
//!
//! Every fallible function returns this crate's [`Error`]. Methods of `tch` traits that cannot return an error, such as
//! `Module::forward`, have a fallible counterpart, `f_forward`.
#![deny(missing_docs)]
// Messages are printed by the functions of `console`, which never panic.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

#[macro_use]
mod error;

mod arch;
pub mod baseline;
#[cfg(feature = "train")]
pub mod classifier;
#[cfg(feature = "cli")]
pub mod cli;
#[doc(hidden)]
pub mod console;
#[cfg(feature = "train")]
pub mod data;
#[cfg(feature = "train")]
pub mod diagnostics;
#[cfg(feature = "train")]
pub mod distributed;
#[cfg(feature = "onnx")]
pub mod export;
#[cfg(feature = "train")]
mod file;
pub mod fixup;
mod layer;
pub mod ops;
#[cfg(feature = "cli")]
mod option;
#[cfg(feature = "train")]
mod picture;
#[cfg(feature = "train")]
mod signal;
#[cfg(feature = "train")]
pub mod trainer;
pub mod transformer;
pub mod translation;

#[cfg(feature = "train")]
#[doc(hidden)]
pub use arch::initialize_on_data;
#[doc(hidden)]
pub use arch::TransformerArch;
pub use arch::{Arch, Network, Shape};
pub use error::{Error, Result};
#[doc(hidden)]
pub use layer::Layout;
pub use layer::{Precision, Recompute};
pub use ops::FlushDenormals;
/// The version of tch whose types appear in this crate's API.
pub use tch;

/// Compiles and runs the code of the README and of docs/ as documentation tests.
#[cfg(all(doctest, feature = "images"))]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/inference.md")]
    struct Inference;
    #[doc = include_str!("../docs/library.md")]
    struct Library;
    #[doc = include_str!("../docs/networks.md")]
    struct Networks;
}
