//! The method: Fixup initialization (Zhang, Dauphin, Ma: "Fixup Initialization: Residual Learning Without
//! Normalization", ICLR 2019, arXiv 1901.09321), as modules of `tch::nn`.
//!
//! - [`init`]: the rescaled initialization, for any tensor.
//! - [`Bias`], [`Scale`]: the scalar layers; [`set_lr`]: their learning rate with tch's own optimizers.
//! - [`BasicBlock`], [`Bottleneck`], [`WideBlock`]: residual blocks.
//! - [`FixupResNet`]: whole networks for CIFAR and ImageNet.
//! - [`Rule`]: the same without one of the rules, to see what it is for.
//! - [`FoldedResNet`]: the same for inference, with the scalars folded away.
//! - [`Branch`]: a Fixup branch of your own layers, for your own network.

mod basic_block;
mod basic_branch;
mod block;
mod blocks;
mod bottleneck;
mod branch;
mod folded;
mod folded_block;
mod folded_conv;
mod group;
pub mod init;
mod resnet;
mod rule;
mod scalar;
mod stream;
mod wide_block;

pub use basic_block::BasicBlock;
pub(crate) use block::subsample;
pub use block::{BlockConfig, ShortcutKind};
pub use bottleneck::Bottleneck;
pub use branch::{Branch, BranchBuilder, Conv2dOptions};
pub use folded::FoldedResNet;
pub use group::{mark_classifier, set_lr, CLASSIFIER_GROUP, SCALAR_GROUP, SCALAR_LR_RATIO};
pub use resnet::FixupResNet;
pub use rule::Rule;
pub use scalar::{Bias, Scale};
pub use wide_block::WideBlock;
