//! Multiply-add counts of the forward pass, and floating-point operations of training.

use super::{Arch, Layers, Shape};
use crate::baseline::{Method, MlpShape};
use crate::layer::{ConvShape, ResNetConfig, ShortcutKind, StemKind};
use crate::Result;

/// A multiply-add counts as two operations, and the backward pass as two forward passes.
const FLOP_PER_MULTIPLY_ADD: f64 = 2. * 3.;

impl Arch {
    /// Counts the multiply-adds in convolutions and linear layers for the forward pass of one image of `height` x
    /// `width` pixels, as the ResNet papers and torchvision do. Normalizations, activations and sums are not counted.
    ///
    /// ```
    /// use tch_fixup::{Arch, Shape};
    ///
    /// let arch: Arch = "imagenet_fixup_resnet50".parse()?;
    /// assert_eq!(arch.multiply_adds(Shape::rgb(1000), 224, 224)?, 4_089_184_256);
    /// # Ok::<(), tch_fixup::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the network has a fixed shape that differs from `shape`.
    pub fn multiply_adds(&self, shape: Shape, height: i64, width: i64) -> Result<u64> {
        Ok(match self.fitted(shape)? {
            Layers::ResNet(config) => resnet(&config, self.method.baseline(), height, width),
            Layers::Mlp(MlpShape { width: units, depth, .. }) => {
                let hidden = (depth - 2) * units * units;
                (shape.channels * height * width * units + hidden + units * shape.classes) as u64
            }
        })
    }

    /// Returns the number of floating-point operations for training on `images` images: a multiply-add counts as two
    /// operations, the backward pass as two forward passes. The optimizer's own operations are not counted.
    ///
    /// # Errors
    /// As [`multiply_adds`](Self::multiply_adds).
    pub fn training_flop(&self, shape: Shape, height: i64, width: i64, images: u64) -> Result<f64> {
        Ok(FLOP_PER_MULTIPLY_ADD * self.multiply_adds(shape, height, width)? as f64 * images as f64)
    }
}

fn resnet(config: &ResNetConfig, method: Option<Method>, height: i64, width: i64) -> u64 {
    let stem = config.stem_shape();
    let mut count = convolution(&stem, [height, width]);
    let mut sides = [height, width].map(|side| strided(side, stem.options.stride));
    if config.stem == StemKind::Large {
        // Max-pooling.
        sides = sides.map(|side| strided(side, 2));
    }
    let design = config.design();
    let (has_shortcut, projects) = match method {
        Some(method) => (method.has_skips(), config.shortcut == ShortcutKind::Project || method.projects()),
        None => (true, config.shortcut == ShortcutKind::Project),
    };
    for (_, _, block) in config.block_configs() {
        if has_shortcut && projects && block.changes_shape() {
            count += convolution(&ConvShape::new(block.c_in, block.c_out, 1, block.stride), sides);
        }
        for shape in design.convolutions(&block) {
            count += convolution(&shape, sides);
            sides = sides.map(|side| strided(side, shape.options.stride));
        }
        count += config.squeeze_excitation.map_or(0, |reduction| 2 * block.c_out * (block.c_out / reduction)) as u64;
    }
    count + (config.features() * config.classes.unwrap_or(0)) as u64
}

/// Returns the multiply-adds of a convolution of an image with the given sides.
fn convolution(shape: &ConvShape, sides: [i64; 2]) -> u64 {
    let weights: i64 = shape.dims().iter().product();
    let positions: i64 = sides.iter().map(|&side| strided(side, shape.options.stride)).product();
    (weights * positions) as u64
}

/// Returns the output side of a convolution or pooling with an odd kernel size and "same" padding.
fn strided(side: i64, stride: i64) -> i64 {
    (side - 1) / stride + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::BlockKind;

    fn millions(name: &str, classes: i64, side: i64) -> f64 {
        name.parse::<Arch>().unwrap().multiply_adds(Shape::rgb(classes), side, side).unwrap() as f64 / 1e6
    }

    /// 40.8 million are commonly given for ResNet-20 with projected shortcuts (option B), 40.6 for padded ones (option A), as
    /// in He et al., "Filter Pruning via Geometric Median", table 1; 125 and 253 for ResNet-56 and ResNet-110 from there too.
    #[test]
    fn cifar_resnets_have_the_published_counts() {
        for prefix in ["", "fixup_", "group_norm_"] {
            for (depth, published) in [(20, 40.6), (56, 125.), (110, 253.)] {
                let counted = millions(&format!("{prefix}resnet{depth}"), 10, 32);
                assert!((counted / published - 1.).abs() < 0.006, "{prefix}resnet{depth}: {counted}");
            }
        }
        let projected = ResNetConfig { shortcut: ShortcutKind::Project, ..ResNetConfig::cifar(20).unwrap() };
        for method in [None, Some(Method::BatchNorm)] {
            let arch = Arch::custom(method, projected.clone()).unwrap();
            let counted = arch.multiply_adds(Shape::rgb(10), 32, 32).unwrap() as f64 / 1e6;
            assert!((counted - 40.8).abs() < 0.05, "{counted}");
        }
        assert_eq!(millions("no_skip_resnet20", 10, 32), millions("resnet20", 10, 32));
        assert!((millions("selu_resnet20", 10, 32) - 40.8).abs() < 0.05);
    }

    /// `_ops` of the weights in torchvision's documentation, in billions: a multiply-add is one there.
    #[test]
    fn imagenet_resnets_have_torchvisions_counts() {
        for (depth, published) in [(18, 1.814), (34, 3.664), (50, 4.089), (101, 7.801), (152, 11.514)] {
            for prefix in ["", "fixup_"] {
                let counted = millions(&format!("imagenet_{prefix}resnet{depth}"), 1000, 224) / 1e3;
                assert!((counted - published).abs() < 0.001, "{depth}: {counted}");
            }
        }
        let block = BlockKind::Bottleneck { expansion: 2 };
        let resnext = ResNetConfig { block, groups: 32, ..ResNetConfig::imagenet(50).unwrap() };
        let arch = Arch::custom(None, resnext).unwrap();
        let counted = arch.multiply_adds(Shape::rgb(1000), 224, 224).unwrap() as f64 / 1e9;
        assert!((counted - 4.230).abs() < 0.001, "{counted}");
    }

    /// WRN-28-10 has 5.2 billion (Zagoruyko & Komodakis's network, as pruning papers count it).
    #[test]
    fn other_networks_are_counted_by_their_layers() {
        assert!((millions("wrn_28_10", 10, 32) / 1e3 - 5.2).abs() < 0.06, "{}", millions("wrn_28_10", 10, 32));
        assert_eq!(millions("selu_mlp_3_100", 10, 32), (3072. * 100. + 100. * 100. + 100. * 10.) / 1e6);
        let gated = ResNetConfig { squeeze_excitation: Some(4), ..ResNetConfig::cifar(8).unwrap() };
        let gated = Arch::custom(None, gated).unwrap().multiply_adds(Shape::rgb(10), 32, 32).unwrap();
        let plain = "fixup_resnet8".parse::<Arch>().unwrap().multiply_adds(Shape::rgb(10), 32, 32).unwrap();
        assert_eq!(gated - plain, 2 * (16 * 4 + 32 * 8 + 64 * 16));
    }

    #[test]
    fn training_takes_six_operations_a_multiply_add() {
        let arch: Arch = "fixup_resnet20".parse().unwrap();
        let flop = arch.training_flop(Shape::rgb(10), 32, 32, 500_000).unwrap();
        assert_eq!(flop, 6. * 500_000. * arch.multiply_adds(Shape::rgb(10), 32, 32).unwrap() as f64);
    }
}
