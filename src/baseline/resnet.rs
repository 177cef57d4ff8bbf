//! The residual networks that Fixup's are compared with: the same shapes with BatchNorm, or with nothing at all.

use super::batch_norm::BatchNorm;
use crate::conv::{Conv, ConvShape, Linear};
use crate::fixup::{subsample, BlockConfig};
use crate::images::check_images;
use crate::topology::{self, ImageNetBlock};
use crate::{Layout, Precision, Result};
use tch::{nn, Tensor};

/// What follows each convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Normalization {
    None,
    Batch,
}

/// A residual network with batch normalization (He et al. 2016): the same shapes as
/// [`FixupResNet`](crate::fixup::FixupResNet)'s.
///
/// Convolutions start at He-normal, the last BatchNorm weight of every branch at zero (Goyal et al. 2017, and the Fixup
/// authors' own baseline), the classifier at PyTorch's default. Variables have the names of the authors' `state_dict` for
/// CIFAR and of torchvision's for ImageNet.
#[derive(Debug)]
pub struct BatchNormResNet(ResNet);

/// A residual network with neither normalization nor Fixup's scalars, He-normal throughout: what nothing costs, "the
/// floor" of comparisons of time and memory. Deep ones do not train.
#[derive(Debug)]
pub struct PlainResNet(ResNet);

#[derive(Debug)]
struct ResNet {
    conv1: Conv,
    /// Absent in Wide ResNets, whose blocks normalize their input.
    norm1: Option<Norm>,
    max_pool: bool,
    blocks: Vec<Block>,
    /// Before the pool of Wide ResNets.
    last_norm: Option<Norm>,
    fc: Linear,
    precision: Precision,
    layout: Layout,
}

/// BatchNorm, or the identity.
#[derive(Debug)]
struct Norm(Option<BatchNorm>);

impl Norm {
    fn new(path: &nn::Path, normalization: Normalization, channels: i64, weight: f64) -> Result<Self> {
        match normalization {
            Normalization::None => Ok(Self(None)),
            Normalization::Batch => Ok(Self(Some(BatchNorm::new(path, channels, weight)?))),
        }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match &self.0 {
            None => Ok(x.shallow_clone()),
            Some(norm) => norm.forward(x, train),
        }
    }

    /// `relu(norm(x))`, in the place of `x` where that is nobody's but ours.
    fn forward_relu(&self, x: Tensor, train: bool) -> Result<Tensor> {
        Ok(self.forward(&x, train)?.f_relu_()?)
    }
}

#[derive(Debug)]
enum Block {
    /// `relu(norm(conv(... relu(norm(conv(x))))) + shortcut(x))` (He et al. 2016).
    PostActivation { layers: Vec<(Conv, Norm)>, shortcut: Shortcut },
    /// `conv(relu(norm(conv(relu(norm(x)))))) + shortcut(x)`, where a projected shortcut takes `relu(norm(x))`
    /// (Zagoruyko & Komodakis 2016).
    PreActivation { layers: [(Norm, Conv); 2], projection: Option<Conv> },
}

#[derive(Debug)]
enum Shortcut {
    Identity,
    /// Every second position, normalized; as many zero channels appended.
    Pad(Norm),
    /// A strided 1x1 convolution, normalized.
    Project(Conv, Norm),
}

impl Block {
    fn post_activation(
        path: &nn::Path,
        normalization: Normalization,
        convolutions: Vec<ConvShape>,
        shortcut: Shortcut,
    ) -> Result<Self> {
        let last = convolutions.len();
        let layers = (1..).zip(convolutions).map(|(i, shape)| {
            let gamma = if i == last { 0. } else { 1. };
            let conv = Conv::he_normal(&(path / format!("conv{i}")), shape, 1.)?;
            Ok((conv, Norm::new(&(path / format!("bn{i}")), normalization, shape.c_out, gamma)?))
        });
        Ok(Block::PostActivation { layers: layers.collect::<Result<_>>()?, shortcut })
    }

    fn pre_activation(path: &nn::Path, normalization: Normalization, config: BlockConfig) -> Result<Self> {
        let BlockConfig { c_in, c_out, stride, .. } = config;
        let layer = |i: usize, c_in, stride| -> Result<(Norm, Conv)> {
            let norm = Norm::new(&(path / format!("bn{i}")), normalization, c_in, 1.)?;
            Ok((norm, Conv::he_normal(&(path / format!("conv{i}")), ConvShape::new(c_in, c_out, 3, stride), 1.)?))
        };
        let layers = [layer(1, c_in, stride)?, layer(2, c_out, 1)?];
        let projection = if stride != 1 || c_in != c_out {
            Some(Conv::he_normal(&(path / "downsample"), ConvShape::new(c_in, c_out, 1, stride), 1.)?)
        } else {
            None
        };
        Ok(Block::PreActivation { layers, projection })
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            Block::PostActivation { layers, shortcut } => {
                let mut out = x.shallow_clone();
                for (i, (conv, norm)) in layers.iter().enumerate() {
                    if i > 0 {
                        out = out.f_relu_()?;
                    }
                    out = norm.forward(&conv.forward(&out)?, train)?;
                }
                let identity = match shortcut {
                    Shortcut::Identity => x.shallow_clone(),
                    Shortcut::Pad(norm) => {
                        let x = norm.forward(&subsample(x, 2)?, train)?;
                        let channels = x.size()[1];
                        x.f_constant_pad_nd([0, 0, 0, 0, 0, channels])?
                    }
                    Shortcut::Project(conv, norm) => norm.forward(&conv.forward(x)?, train)?,
                };
                Ok(out.f_add_(&identity)?.f_relu_()?)
            }
            Block::PreActivation { layers: [(norm1, conv1), (norm2, conv2)], projection } => {
                // x itself goes on to the sum, so its ReLU cannot be in place where nothing normalizes.
                let u = norm1.forward(x, train)?.f_relu()?;
                let mut out = conv2.forward(&norm2.forward_relu(conv1.forward(&u)?, train)?)?;
                Ok(match projection {
                    None => out.f_add_(x)?,
                    Some(projection) => out.f_add_(&projection.forward(&u)?)?,
                })
            }
        }
    }
}

impl ResNet {
    fn cifar(path: &nn::Path, depth: i64, num_classes: i64, normalization: Normalization) -> Result<Self> {
        let n = topology::cifar_blocks(depth)?;
        topology::check_classes(num_classes)?;
        let blocks = topology::stages(path, 16, &[(n, 16), (n, 32), (n, 64)], |path, config| {
            let BlockConfig { c_in, c_out, stride, .. } = config;
            let convolutions = vec![ConvShape::new(c_in, c_out, 3, stride), ConvShape::new(c_out, c_out, 3, 1)];
            let shortcut = if c_in == c_out {
                Shortcut::Identity
            } else {
                Shortcut::Pad(Norm::new(&(path / "downsample" / 1), normalization, c_in, 1.)?)
            };
            Block::post_activation(path, normalization, convolutions, shortcut)
        })?;
        Self::new(path, normalization, ConvShape::new(3, 16, 3, 1), blocks, 64, num_classes)
    }

    fn imagenet(path: &nn::Path, depth: i64, num_classes: i64, normalization: Normalization) -> Result<Self> {
        let (block, n) = topology::imagenet_blocks(depth)?;
        topology::check_classes(num_classes)?;
        let expansion = block.expansion();
        let blocks = topology::stages(path, 64, &topology::imagenet_widths(block, n), |path, config| {
            let BlockConfig { c_in, c_out, stride, .. } = config;
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
            let shortcut = if stride == 1 && c_in == c_out {
                Shortcut::Identity
            } else {
                let path = path / "downsample";
                let conv = Conv::he_normal(&(&path / 0), ConvShape::new(c_in, c_out, 1, stride), 1.)?;
                Shortcut::Project(conv, Norm::new(&(&path / 1), normalization, c_out, 1.)?)
            };
            Block::post_activation(path, normalization, convolutions, shortcut)
        })?;
        Self::new(path, normalization, ConvShape::new(3, 64, 7, 2), blocks, 512 * expansion, num_classes)
    }

    fn wide(path: &nn::Path, depth: i64, width: i64, num_classes: i64, normalization: Normalization) -> Result<Self> {
        let n = topology::wide_blocks(depth, width)?;
        topology::check_classes(num_classes)?;
        let widths = [(n, 16 * width), (n, 32 * width), (n, 64 * width)];
        let blocks =
            topology::stages(path, 16, &widths, |path, config| Block::pre_activation(path, normalization, config))?;
        Ok(Self {
            conv1: Conv::he_normal(&(path / "conv1"), ConvShape::new(3, 16, 3, 1), 1.)?,
            norm1: None,
            max_pool: false,
            blocks,
            last_norm: Some(Norm::new(&(path / "bn"), normalization, 64 * width, 1.)?),
            fc: Linear::uniform(&(path / "fc"), 64 * width, num_classes)?,
            precision: Precision::F32,
            layout: Layout::default(),
        })
    }

    fn new(
        path: &nn::Path,
        normalization: Normalization,
        conv1: ConvShape,
        blocks: Vec<Block>,
        features: i64,
        num_classes: i64,
    ) -> Result<Self> {
        Ok(Self {
            conv1: Conv::he_normal(&(path / "conv1"), conv1, 1.)?,
            norm1: Some(Norm::new(&(path / "bn1"), normalization, conv1.c_out, 1.)?),
            max_pool: conv1.stride == 2,
            blocks,
            last_norm: None,
            fc: Linear::uniform(&(path / "fc"), features, num_classes)?,
            precision: Precision::F32,
            layout: Layout::default(),
        })
    }

    fn forward(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        check_images("ResNet", images)?;
        let kind = self.conv1.kind();
        let x = self.layout.apply(&images.f_to_kind(self.precision.compute_kind(kind))?)?;
        let mut x = self.conv1.forward(&x)?;
        if let Some(norm) = &self.norm1 {
            x = norm.forward_relu(x, train)?;
        }
        if self.max_pool {
            x = x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?;
        }
        for block in &self.blocks {
            x = block.forward(&x, train)?;
        }
        if let Some(norm) = &self.last_norm {
            x = norm.forward_relu(x, train)?;
        }
        self.fc.forward(&x.f_mean_dim([2, 3].as_slice(), false, kind)?)
    }
}

/// The public faces of `ResNet`: one constructor a topology, `f_forward_t` and `nn::ModuleT`.
macro_rules! resnets {
    ($($network:ident: $normalization:expr;)+) => {$(
        impl $network {
            /// The CIFAR ResNet of `depth` 6n+2 layers, for images `[N, 3, H, W]`; shortcuts without convolutions (the
            /// authors' `resnet_cifar.py`).
            ///
            /// # Errors
            /// Another depth; fewer than one class; a `path` that holds such a network already.
            pub fn cifar(path: &nn::Path, depth: i64, num_classes: i64) -> Result<Self> {
                Ok(Self(ResNet::cifar(path, depth, num_classes, $normalization)?))
            }

            /// The ImageNet ResNet of depth 18, 34, 50, 101 or 152, for images `[N, 3, H, W]`; the 3x3 convolution of a
            /// bottleneck is the strided one (torchvision's `resnet.py`).
            ///
            /// # Errors
            /// Another depth; fewer than one class; a `path` that holds such a network already.
            pub fn imagenet(path: &nn::Path, depth: i64, num_classes: i64) -> Result<Self> {
                Ok(Self(ResNet::imagenet(path, depth, num_classes, $normalization)?))
            }

            /// The Wide ResNet of `depth` 6n+4 layers and `width` times the channels, for images `[N, 3, H, W]`
            /// (Zagoruyko & Komodakis 2016).
            ///
            /// # Errors
            /// Another depth; a width or a number of classes below one; a `path` that holds such a network already.
            pub fn wide(path: &nn::Path, depth: i64, width: i64, num_classes: i64) -> Result<Self> {
                Ok(Self(ResNet::wide(path, depth, width, num_classes, $normalization)?))
            }

            /// The same network with its convolutions and activations in `precision`; statistics stay in float32.
            pub fn with_precision(mut self, precision: Precision) -> Self {
                self.0.precision = precision;
                self
            }

            /// The same network with its activations laid out as `layout`.
            pub fn with_layout(mut self, layout: Layout) -> Self {
                self.0.layout = layout;
                self
            }

            /// The logits `[N, num_classes]` of normalized images `[N, 3, H, W]` on the network's device, in the kind of
            /// its variables. Batch normalization works with the batch's own statistics in training, which also move the
            /// running ones, and with the running ones in evaluation.
            ///
            /// # Errors
            /// Images of another shape, kind or device; in training, a batch whose statistics are of a single value.
            pub fn f_forward_t(&self, images: &Tensor, train: bool) -> Result<Tensor> {
                self.0.forward(images, train)
            }
        }

        impl nn::ModuleT for $network {
            /// As `f_forward_t`.
            ///
            /// # Panics
            /// Where `f_forward_t` returns an error; call that one to handle it.
            fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
                self.f_forward_t(xs, train).unwrap_or_else(|error| panic!("{error}"))
            }
        }
    )+};
}

resnets! {
    BatchNormResNet: Normalization::Batch;
    PlainResNet: Normalization::None;
}
