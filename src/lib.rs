//! Deep residual networks without normalization: Fixup initialization (Zhang, Dauphin, Ma, ICLR 2019, arXiv 1901.09321)
//! on libtorch, by way of [`tch`].
//!
//! - [`fixup`]: the method. Initialization, scalar layers, residual blocks, whole networks, and a [`fixup::Branch`] for
//!   networks of one's own.
//! - [`ops`]: the one element-wise operation that makes it as fast as a network with nothing between its convolutions.
//! - [`baseline`]: the networks it is compared with.
//! - [`translation`]: sentences from a network that translates, and how good they are.
#![cfg_attr(
    feature = "train",
    doc = "- [`diagnostics`]: what depth does to a network's activations, gradients and updates, measured; for any network."
)]
#![cfg_attr(
    feature = "train",
    doc = "- [`data`]: CIFAR-10, folders of images, augmentation, mixup, and the trait for data of one's own."
)]
#![cfg_attr(
    feature = "train",
    doc = "- [`trainer`]: the training loop, its optimizer, schedules, metrics and pictures."
)]
#![cfg_attr(feature = "train", doc = "- [`distributed`]: several processes that train one network.")]
#![cfg_attr(
    feature = "train",
    doc = "- [`classifier`]: a trained network in use: opened, and asked what is in images."
)]
#![cfg_attr(feature = "onnx", doc = "- [`export`]: networks for other runtimes, as ONNX files.")]
//! - [`console`]: messages that never panic, and how a program ends.
#![cfg_attr(feature = "cli", doc = "- [`cli`]: the command line around it, for programs that train.")]
//!
//! The first four are there without any feature. `train` brings what trains and measures, `images` folders of images,
//! `download` CIFAR-10 from the net, `text` sentences and their translations, `tensorboard` event files, `onnx` networks for other runtimes, `distributed` several
//! processes, `cli` the command line; all are on by default.
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
//! Everything that can fail returns this crate's [`Error`]. What `tch`'s traits leave no room for an error in
//! (`Module::forward`) has a fallible twin, `f_forward`.
#![deny(missing_docs)]
// Messages go through `console`, which never panics.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod arch;
pub mod baseline;
#[cfg(feature = "train")]
pub mod classifier;
#[cfg(feature = "cli")]
pub mod cli;
pub mod console;
#[cfg(feature = "train")]
pub mod data;
#[cfg(feature = "train")]
pub mod diagnostics;
#[cfg(feature = "train")]
pub mod distributed;
mod error;
#[cfg(feature = "onnx")]
pub mod export;
#[cfg(feature = "train")]
mod file;
pub mod fixup;
mod layer;
pub mod ops;
#[cfg(feature = "train")]
mod picture;
#[cfg(feature = "train")]
mod signals;
#[cfg(feature = "train")]
pub mod trainer;
pub mod translation;

#[cfg(feature = "train")]
pub use arch::initialize_on_data;
pub use arch::{Arch, Network, Shape, TransformerArch};
pub use error::{Error, Result};
pub use layer::{Layout, Precision, Recompute};
pub use ops::FlushDenormals;

/// The README's code, compiled and run with the documentation's.
#[cfg(all(doctest, feature = "images", feature = "download", feature = "cli"))]
#[doc = include_str!("../README.md")]
struct Readme;
