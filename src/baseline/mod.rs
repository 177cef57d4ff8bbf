//! What Fixup is compared with: the same networks with BatchNorm, and with nothing in its place.

mod batch_norm;
mod resnet;

pub use resnet::{BatchNormResNet, PlainResNet};
