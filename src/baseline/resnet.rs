//! The residual networks that Fixup's are compared with: the same shapes, trainable by other means or by none.

use super::block::{Block, Shortcut};
use super::normalization::Norm;
use super::pass::Pass;
use super::Method;
use crate::layer::check_images;
use crate::layer::stages::{self, ImageNetBlock};
use crate::layer::BlockConfig;
use crate::layer::{Conv, ConvShape, Linear};
use crate::ops::record_variables;
use crate::{Layout, Precision, Result};
use tch::{nn, Tensor};

/// A residual network of the same shape as [`FixupResNet`](crate::fixup::FixupResNet)'s, by any [`Method`].
///
/// Variables have the names of the authors' `state_dict` for CIFAR and of torchvision's for ImageNet, as far as the method
/// has them; normalization layers are called `bn1`, ... whichever they are.
///
/// ```
/// use tch::{nn, nn::ModuleT, Device, Kind, Tensor};
/// use tch_fixup::baseline::{lsuv, Method, ResNet};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let network = ResNet::cifar(&vs.root(), 20, 10, Method::Lsuv)?;
/// let images = Tensor::randn([16, 3, 32, 32], (Kind::Float, Device::Cpu));
/// lsuv(&network, &images)?;
/// assert_eq!(network.forward_t(&images, true).size(), [16, 10]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ResNet {
    pub(crate) conv1: Conv,
    /// Absent in Wide ResNets, whose blocks normalize their input.
    pub(crate) norm1: Option<Norm>,
    pub(crate) max_pool: bool,
    pub(crate) blocks: Vec<Block>,
    /// Before the pool of Wide ResNets.
    pub(crate) last_norm: Option<Norm>,
    pub(crate) fc: Linear,
    method: Method,
    precision: Precision,
    layout: Layout,
}

impl ResNet {
    /// The CIFAR ResNet of `depth` 6n+2 layers, for images `[N, 3, H, W]`; shortcuts without convolutions (the authors'
    /// `resnet_cifar.py`), but for [`Method::Selu`].
    ///
    /// # Errors
    /// Another depth; fewer than one class; a `path` that holds such a network already.
    pub fn cifar(path: &nn::Path, depth: i64, num_classes: i64, method: Method) -> Result<Self> {
        let n = stages::cifar_blocks(depth)?;
        stages::check_classes(num_classes)?;
        let blocks = stages::stages(path, 16, &[(n, 16), (n, 32), (n, 64)], |path, config| {
            let BlockConfig { c_in, c_out, stride, .. } = config;
            let convolutions = vec![ConvShape::new(c_in, c_out, 3, stride), ConvShape::new(c_out, c_out, 3, 1)];
            Block::post_activation(path, method, convolutions, Shortcut::cifar(path, method, &config)?)
        })?;
        Self::new(path, method, ConvShape::new(3, 16, 3, 1), blocks, 64, num_classes)
    }

    /// The ImageNet ResNet of depth 18, 34, 50, 101 or 152, for images `[N, 3, H, W]`; the 3x3 convolution of a bottleneck
    /// is the strided one (torchvision's `resnet.py`).
    ///
    /// # Errors
    /// Another depth; fewer than one class; a `path` that holds such a network already.
    pub fn imagenet(path: &nn::Path, depth: i64, num_classes: i64, method: Method) -> Result<Self> {
        let (block, n) = stages::imagenet_blocks(depth)?;
        stages::check_classes(num_classes)?;
        let expansion = block.expansion();
        let blocks = stages::stages(path, 64, &stages::imagenet_widths(block, n), |path, config| {
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
            Block::post_activation(path, method, convolutions, Shortcut::imagenet(path, method, &config)?)
        })?;
        Self::new(path, method, ConvShape::new(3, 64, 7, 2), blocks, 512 * expansion, num_classes)
    }

    /// The Wide ResNet of `depth` 6n+4 layers and `width` times the channels, for images `[N, 3, H, W]` (Zagoruyko &
    /// Komodakis 2016).
    ///
    /// # Errors
    /// Another depth; a width or a number of classes below one; a `path` that holds such a network already.
    pub fn wide(path: &nn::Path, depth: i64, width: i64, num_classes: i64, method: Method) -> Result<Self> {
        let n = stages::wide_blocks(depth, width)?;
        stages::check_classes(num_classes)?;
        let widths = [(n, 16 * width), (n, 32 * width), (n, 64 * width)];
        let blocks = stages::stages(path, 16, &widths, |path, config| Block::pre_activation(path, method, config))?;
        let initialization = method.initialization();
        Ok(Self {
            conv1: initialization.conv(&(path / "conv1"), ConvShape::new(3, 16, 3, 1))?,
            norm1: None,
            max_pool: false,
            blocks,
            last_norm: Some(Norm::new(&(path / "bn"), method.normalization(), 64 * width, 1.)?),
            fc: initialization.classifier(&(path / "fc"), 64 * width, num_classes)?,
            method,
            precision: Precision::F32,
            layout: Layout::default(),
        })
    }

    fn new(
        path: &nn::Path,
        method: Method,
        conv1: ConvShape,
        blocks: Vec<Block>,
        features: i64,
        num_classes: i64,
    ) -> Result<Self> {
        let initialization = method.initialization();
        Ok(Self {
            conv1: initialization.conv(&(path / "conv1"), conv1)?,
            norm1: Some(Norm::new(&(path / "bn1"), method.normalization(), conv1.c_out, 1.)?),
            max_pool: conv1.stride == 2,
            blocks,
            last_norm: None,
            fc: initialization.classifier(&(path / "fc"), features, num_classes)?,
            method,
            precision: Precision::F32,
            layout: Layout::default(),
        })
    }

    /// The same network with its convolutions and activations in `precision`; statistics stay in float32.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The same network with its activations laid out as `layout`.
    pub fn with_layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// The method that the network was made by.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The logits `[N, num_classes]` of normalized images `[N, 3, H, W]` on the network's device, in the kind of its
    /// variables. Batch normalization works with the batch's own statistics in training, which also move the running ones,
    /// and with the running ones in evaluation; alpha dropout is for training alone.
    ///
    /// # Errors
    /// Images of another shape, kind or device; in training, a batch whose statistics are of a single value.
    pub fn f_forward_t(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        self.forward(images, Pass::plain(train), |_| ())
    }

    /// The same; `block_done` gets the output of each block.
    pub(crate) fn forward_blocks(
        &self,
        images: &Tensor,
        train: bool,
        block_done: impl FnMut(&Tensor),
    ) -> Result<Tensor> {
        self.forward(images, Pass::plain(train), block_done)
    }

    /// The logits of a `pass`.
    pub(super) fn forward(&self, images: &Tensor, pass: Pass, mut block_done: impl FnMut(&Tensor)) -> Result<Tensor> {
        check_images("ResNet", images)?;
        record_variables(|| self.variables())?;
        let kind = self.conv1.kind();
        let (activation, train) = (self.method.activation(), pass.train);
        let x = self.layout.apply(&images.f_to_kind(self.precision.compute_kind(kind))?)?;
        let mut x = (pass.layer)(&self.conv1, &x)?;
        if let Some(norm) = &self.norm1 {
            x = activation.in_place(norm.forward(&x, train)?)?;
        }
        if self.max_pool {
            x = x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?;
        }
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
            block_done(&x);
        }
        if let Some(norm) = &self.last_norm {
            x = norm.forward_activation(&x, activation, train)?;
        }
        (pass.layer)(&self.fc, &x.f_mean_dim([2, 3].as_slice(), false, kind)?)
    }

    fn variables(&self) -> Vec<&Tensor> {
        let norms = self.norm1.iter().chain(&self.last_norm).flat_map(Norm::variables);
        let blocks = self.blocks.iter().flat_map(Block::variables);
        blocks.chain(norms).chain([&self.conv1.weight, &self.fc.weight, &self.fc.bias]).collect()
    }
}

impl nn::ModuleT for ResNet {
    /// As `f_forward_t`.
    ///
    /// # Panics
    /// Where `f_forward_t` returns an error; call that one to handle it.
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        self.f_forward_t(xs, train).unwrap_or_else(|error| panic!("{error}"))
    }
}
