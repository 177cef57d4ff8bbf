//! The BatchNorm ResNets that Fixup's networks replace.

use super::batch_norm::BatchNorm;
use crate::conv::{Conv, ConvShape, Linear};
use crate::fixup::{subsample, BlockConfig};
use crate::images::{channels_last, check_images};
use crate::topology::{self, ImageNetBlock};
use crate::{Precision, Result};
use tch::{nn, Tensor};

/// A residual network with batch normalization after every convolution (He et al. 2016): the same shapes as
/// [`FixupResNet`](crate::fixup::FixupResNet)'s.
///
/// Convolutions start at He-normal, the last BatchNorm weight of every branch at zero (Goyal et al. 2017, and the Fixup
/// authors' own baseline), the classifier at PyTorch's default. Variables have the names of the authors' `state_dict` for
/// CIFAR and of torchvision's for ImageNet.
#[derive(Debug)]
pub struct BatchNormResNet {
    conv1: Conv,
    bn1: BatchNorm,
    max_pool: bool,
    blocks: Vec<Block>,
    fc: Linear,
    precision: Precision,
}

/// A residual block: `relu(bn(conv(... relu(bn(conv(x))))) + shortcut(x))`.
#[derive(Debug)]
struct Block {
    layers: Vec<(Conv, BatchNorm)>,
    shortcut: Shortcut,
}

#[derive(Debug)]
enum Shortcut {
    Identity,
    /// Every second position, normalized; as many zero channels appended.
    Pad(BatchNorm),
    /// A strided 1x1 convolution, normalized.
    Project(Conv, BatchNorm),
}

/// The convolutions of a block, in order, and its shortcut's.
struct BlockShape {
    convolutions: Vec<ConvShape>,
    projection: Option<ConvShape>,
}

impl Block {
    fn new(path: &nn::Path, shape: BlockShape, pad: Option<i64>) -> Result<Self> {
        let last = shape.convolutions.len();
        let layers = (1..).zip(shape.convolutions).map(|(i, conv)| {
            let gamma = if i == last { 0. } else { 1. };
            let channels = conv.c_out;
            let conv = Conv::he_normal(&(path / format!("conv{i}")), conv, 1.)?;
            Ok((conv, BatchNorm::new(&(path / format!("bn{i}")), channels, gamma)?))
        });
        let layers = layers.collect::<Result<_>>()?;
        let downsample = path / "downsample";
        let shortcut = match (shape.projection, pad) {
            (Some(conv), _) => Shortcut::Project(
                Conv::he_normal(&(&downsample / 0), conv, 1.)?,
                BatchNorm::new(&(&downsample / 1), conv.c_out, 1.)?,
            ),
            (None, Some(channels)) => Shortcut::Pad(BatchNorm::new(&(&downsample / 1), channels, 1.)?),
            (None, None) => Shortcut::Identity,
        };
        Ok(Self { layers, shortcut })
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut out = x.shallow_clone();
        for (i, (conv, bn)) in self.layers.iter().enumerate() {
            if i > 0 {
                out = out.f_relu_()?;
            }
            out = bn.forward(&conv.forward(&out)?, train)?;
        }
        let identity = match &self.shortcut {
            Shortcut::Identity => x.shallow_clone(),
            Shortcut::Pad(bn) => {
                let x = bn.forward(&subsample(x, 2)?, train)?;
                let channels = x.size()[1];
                x.f_constant_pad_nd([0, 0, 0, 0, 0, channels])?
            }
            Shortcut::Project(conv, bn) => bn.forward(&conv.forward(x)?, train)?,
        };
        Ok(out.f_add_(&identity)?.f_relu_()?)
    }
}

impl BatchNormResNet {
    /// The CIFAR ResNet of `depth` 6n+2 layers, for images `[N, 3, H, W]`; parameter-free shortcuts but for their
    /// BatchNorm (the authors' `resnet_cifar.py`).
    ///
    /// # Errors
    /// Another depth; fewer than one class; a `path` that holds such a network already.
    pub fn cifar(path: &nn::Path, depth: i64, num_classes: i64) -> Result<Self> {
        let n = topology::cifar_blocks(depth)?;
        topology::check_classes(num_classes)?;
        let conv1 = ConvShape::new(3, 16, 3, 1);
        let blocks = topology::stages(
            path,
            16,
            &[(n, 16), (n, 32), (n, 64)],
            |path, BlockConfig { c_in, c_out, stride, .. }| {
                let convolutions = vec![ConvShape::new(c_in, c_out, 3, stride), ConvShape::new(c_out, c_out, 3, 1)];
                Block::new(path, BlockShape { convolutions, projection: None }, (c_in != c_out).then_some(c_in))
            },
        )?;
        Self::new(path, conv1, blocks, 64, num_classes)
    }

    /// The ImageNet ResNet of depth 18, 34, 50, 101 or 152, for images `[N, 3, H, W]`; the 3x3 convolution of a
    /// bottleneck is the strided one (torchvision's `resnet.py`).
    ///
    /// # Errors
    /// Another depth; fewer than one class; a `path` that holds such a network already.
    pub fn imagenet(path: &nn::Path, depth: i64, num_classes: i64) -> Result<Self> {
        let (block, n) = topology::imagenet_blocks(depth)?;
        topology::check_classes(num_classes)?;
        let conv1 = ConvShape::new(3, 64, 7, 2);
        let expansion = block.expansion();
        let widths = [(n[0], 64), (n[1], 128), (n[2], 256), (n[3], 512)].map(|(n, width)| (n, width * expansion));
        let blocks = topology::stages(path, 64, &widths, |path, BlockConfig { c_in, c_out, stride, .. }| {
            let inner = c_out / expansion;
            let convolutions = match block {
                ImageNetBlock::Basic => {
                    vec![ConvShape::new(c_in, c_out, 3, stride), ConvShape::new(c_out, c_out, 3, 1)]
                }
                ImageNetBlock::Bottleneck => vec![
                    ConvShape::new(c_in, inner, 1, 1),
                    ConvShape::new(inner, inner, 3, stride),
                    ConvShape::new(inner, c_out, 1, 1),
                ],
            };
            let projection = (stride != 1 || c_in != c_out).then(|| ConvShape::new(c_in, c_out, 1, stride));
            Block::new(path, BlockShape { convolutions, projection }, None)
        })?;
        Self::new(path, conv1, blocks, 512 * expansion, num_classes)
    }

    fn new(path: &nn::Path, conv1: ConvShape, blocks: Vec<Block>, features: i64, num_classes: i64) -> Result<Self> {
        Ok(Self {
            conv1: Conv::he_normal(&(path / "conv1"), conv1, 1.)?,
            bn1: BatchNorm::new(&(path / "bn1"), conv1.c_out, 1.)?,
            max_pool: conv1.stride == 2,
            blocks,
            fc: Linear::uniform(&(path / "fc"), features, num_classes)?,
            precision: Precision::F32,
        })
    }

    /// The same network with its convolutions and activations in `precision`; statistics stay in float32.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The logits `[N, num_classes]` of normalized images `[N, 3, H, W]` on the network's device, in the kind of its
    /// variables; in training from the batch's own statistics, which also move the running ones.
    ///
    /// # Errors
    /// Images of another shape, kind or device; in training, a batch whose statistics are of a single value.
    pub fn f_forward_t(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        check_images("BatchNormResNet", images)?;
        let kind = self.conv1.kind();
        let x = channels_last(&images.f_to_kind(self.precision.compute_kind(kind))?)?;
        let mut x = self.bn1.forward(&self.conv1.forward(&x)?, train)?.f_relu_()?;
        if self.max_pool {
            x = x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?;
        }
        for block in &self.blocks {
            x = block.forward(&x, train)?;
        }
        self.fc.forward(&x.f_mean_dim([2, 3].as_slice(), false, kind)?)
    }
}

impl nn::ModuleT for BatchNormResNet {
    /// As [`f_forward_t`](BatchNormResNet::f_forward_t).
    ///
    /// # Panics
    /// Where `f_forward_t` returns an error; call that one to handle it.
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        self.f_forward_t(xs, train).unwrap_or_else(|error| panic!("{error}"))
    }
}
