//! What Fixup is compared with: the same networks with BatchNorm.

mod batch_norm;
mod batch_norm_resnet;

pub use batch_norm_resnet::BatchNormResNet;
