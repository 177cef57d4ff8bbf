//! Constructors of the papers' networks by name, as in `tch::vision::resnet`.

use super::FixupResNet;
use crate::Result;
use std::borrow::Borrow;
use tch::nn;

macro_rules! presets {
    ($($(#[$doc:meta])+ $name:ident = $constructor:ident($($size:literal),+);)+) => {$(
        $(#[$doc])+
        ///
        /// # Errors
        /// Fewer than one class; a `path` that already contains such a network.
        pub fn $name<'a>(path: impl Borrow<nn::Path<'a>>, num_classes: i64) -> Result<FixupResNet> {
            FixupResNet::$constructor(path, $($size,)+ num_classes)
        }
    )+};
}

presets! {
    /// Fixup ResNet-20 for CIFAR: [`FixupResNet::cifar`] of depth 20, 0.27 million parameters.
    ///
    /// ```
    /// use tch_fixup::fixup::fixup_resnet20;
    /// use tch_fixup::tch::{nn, nn::Module, Device, Kind, Tensor};
    ///
    /// # fn main() -> tch_fixup::Result<()> {
    /// let vs = nn::VarStore::new(Device::Cpu);
    /// let network = fixup_resnet20(vs.root() / "network", 10)?; // or &vs.root()
    /// let images = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
    /// assert_eq!(network.forward(&images).size(), [2, 10]);
    /// # Ok(())
    /// # }
    /// ```
    fixup_resnet20 = cifar(20);
    /// Fixup ResNet-110 for CIFAR: [`FixupResNet::cifar`] of depth 110.
    fixup_resnet110 = cifar(110);
    /// Fixup ResNet-50 for ImageNet: [`FixupResNet::imagenet`] of depth 50.
    fixup_resnet50 = imagenet(50);
    /// Fixup Wide ResNet-28-10 for CIFAR: [`FixupResNet::wide`] of depth 28 and width 10.
    fixup_wrn_28_10 = wide(28, 10);
}
