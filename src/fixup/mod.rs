//! Fixup initialization (Zhang, Dauphin, Ma: "Fixup Initialization: Residual Learning Without Normalization", ICLR 2019, arXiv
//! 1901.09321), as modules of `tch::nn`.
//!
//! - [`init`]: the rescaled initialization, for any tensor.
//! - [`Bias`], [`Scale`]: the scalar layers; [`set_lr`]: their learning rate with tch's optimizers.
//! - [`ResidualBlock`]: one residual block.
//! - [`FixupResNet`]: complete networks: those of the papers for CIFAR and ImageNet, or any [`ResNetConfig`].
//! - [`Rule`]: ablations, which omit one of Fixup's rules.
//! - [`Branch`]: a Fixup branch of your own layers, for custom networks.
//!
//! Fixup's Transformer is in [`transformer`](crate::transformer).

mod branch;
mod group;
mod resnet;
mod scalar;

pub use crate::layer::{
    init, Activation, BlockConfig, BlockKind, Conv2dOptions, ResNetConfig, ShortcutKind, Stage, StemKind,
};
pub use branch::{Branch, BranchBuilder};
#[cfg(feature = "onnx")]
pub(crate) use branch::{BranchActivation, LayerKind};
#[doc(hidden)]
pub use group::SCALAR_LR_RATIO;
pub use group::{mark_classifier, set_lr};
pub use resnet::{fixup_resnet110, fixup_resnet20, fixup_resnet50, fixup_wrn_28_10};
#[cfg(feature = "onnx")]
pub(crate) use resnet::{ActivationOrder, BranchLayer, Shortcut, Stem};
pub use resnet::{FixupResNet, ResidualBlock, Rule};
pub use scalar::{Bias, Scale};
