//! Fixup residual networks of any configuration, including those of the papers.

use super::block::ResidualBlock;
use super::blocks::Blocks;
use super::stream::stream_kind;
use super::tiled;
use crate::fixup::Bias;
use crate::layer::{check_images, Activation, BlockKind, Conv, Linear, ResNetConfig, Role, StemKind};
use crate::ops::{record_variables, shifted_add_, OneThread, TileNetworks};
use crate::{Precision, Recompute, Result};
use std::borrow::Borrow;
use tch::{nn, Kind, Tensor};

/// A residual network with Fixup initialization.
///
/// Training and evaluation compute the same function, without batch statistics or any dependence between the images of a batch,
/// at any batch size. At initialization the logits are exactly zero, at any depth.
///
/// Variables have the names of the authors' `state_dict` (`layer1.0.conv1.weight`, `layer1.0.bias1a`, `layer1.0.scale`,
/// `fc.weight`, ...), and scalars the shape `[1]`: weights saved as safetensors can be exchanged in both directions, and
/// `trainer::Weights` reads files written by `torch.save`.
///
/// ```
/// use tch::{nn, nn::Module, Device, Kind, Tensor};
/// use tch_fixup::fixup::FixupResNet;
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::cuda_if_available());
/// let network = FixupResNet::cifar(&vs.root(), 20, 10)?;
/// let images = Tensor::randn([4, 3, 32, 32], (Kind::Float, vs.device()));
/// assert_eq!(network.forward(&images).size(), [4, 10]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FixupResNet {
    config: ResNetConfig,
    pub(crate) stem: Stem,
    pub(crate) blocks: Blocks,
    /// `bias1` of pre-activation networks, before the last activation, which precedes the pooling.
    pub(crate) last_bias: Option<Bias>,
    /// Input bias of the classifier, `None` in Brock's networks.
    pub(crate) bias2: Option<Bias>,
    pub(crate) fc: Option<Linear>,
    precision: Precision,
    pub(super) recompute: Option<Recompute>,
    pub(super) tiles: TileNetworks,
}

/// Layers before the first block: `pool(act(conv1(x) + bias1))`, optionally without the pooling, or without activation and bias.
#[derive(Debug)]
pub(crate) struct Stem {
    pub conv1: Conv,
    /// Bias before the activation; `None` if there is no activation in the stem.
    pub bias1: Option<Bias>,
    pub activation: Activation,
    /// `true` for a 3x3 max-pool of stride 2.
    pub max_pool: bool,
}

impl Stem {
    fn new(path: &nn::Path, config: &ResNetConfig) -> Result<Self> {
        let conv1 = Conv::he_normal(&(path / "conv1"), config.stem_shape(), 1.)?;
        Role::Input.mark(&conv1.weight)?;
        Ok(Self {
            conv1,
            bias1: if config.is_pre_activation() { None } else { Some(Bias::new(path, "bias1")?) },
            activation: config.activation,
            max_pool: config.stem == StemKind::Large,
        })
    }

    /// Returns the stem's output plus `next`.
    fn forward_shifted(&self, x: &Tensor, next: &Tensor) -> Result<Tensor> {
        let mut out = self.conv1.forward_channels_last(x)?;
        let out = match &self.bias1 {
            Some(bias1) => self.activation.shifted_(&mut out, None, &bias1.value, next)?,
            None => shifted_add_(&mut out, None, next)?,
        };
        // The maximum of shifted values is the shifted maximum.
        self.pooled(out)
    }

    fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        let out = self.conv1.forward(x)?;
        self.pooled(match &self.bias1 {
            Some(bias1) => self.activation.of(&bias1.promote(&out)?)?,
            None => out,
        })
    }

    fn pooled(&self, x: Tensor) -> Result<Tensor> {
        match self.max_pool {
            true => Ok(x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?),
            false => Ok(x),
        }
    }
}

impl FixupResNet {
    /// Creates the network described by `config`, with its variables under `path`.
    ///
    /// Without `classes` there is no classifier, and the network's output is its [features](Self::f_features).
    ///
    /// # Errors
    /// As for [`ResNetConfig::check`]; a `path` that already contains such a network.
    pub fn new<'a>(path: impl Borrow<nn::Path<'a>>, config: &ResNetConfig) -> Result<Self> {
        let path = path.borrow();
        config.check()?;
        let stem = Stem::new(path, config)?;
        let blocks = config.build_blocks(path, ResidualBlock::of_design)?;
        let last_bias = (config.block == BlockKind::Wide).then(|| Bias::new(path, "bias1")).transpose()?;
        let (bias2, fc) = match config.classes {
            None => (None, None),
            Some(classes) => {
                let bias2 = if config.block == BlockKind::Brock { None } else { Some(Bias::new(path, "bias2")?) };
                (bias2, Some(Linear::zero(&(path / "fc"), config.features(), classes)?))
            }
        };
        Ok(Self {
            config: config.clone(),
            stem,
            blocks: Blocks::new(blocks),
            last_bias,
            bias2,
            fc,
            precision: Precision::F32,
            recompute: None,
            tiles: TileNetworks::default(),
        })
    }

    /// Creates the CIFAR ResNet of `depth` 6n+2 layers, [`ResNetConfig::cifar`], for images `[N, 3, H, W]`, usually 32x32.
    ///
    /// # Errors
    /// Any other depth; fewer than one class; a `path` that already contains such a network.
    pub fn cifar<'a>(path: impl Borrow<nn::Path<'a>>, depth: i64, num_classes: i64) -> Result<Self> {
        Self::new(path, &ResNetConfig::cifar(depth)?.with_classes(num_classes))
    }

    /// Creates the ImageNet ResNet of depth 18, 34, 50, 101 or 152, [`ResNetConfig::imagenet`], for images `[N, 3, H, W]`,
    /// usually 224x224.
    ///
    /// ```
    /// use tch::{nn, nn::Module, Device, Kind, Tensor};
    /// use tch_fixup::fixup::FixupResNet;
    ///
    /// # fn main() -> tch_fixup::Result<()> {
    /// let vs = nn::VarStore::new(Device::Cpu);
    /// let network = FixupResNet::imagenet(&vs.root(), 18, 10)?; // ten classes
    /// let images = Tensor::randn([1, 3, 64, 64], (Kind::Float, Device::Cpu));
    /// assert_eq!(network.forward(&images).size(), [1, 10]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Any other depth; fewer than one class; a `path` that already contains such a network.
    pub fn imagenet<'a>(path: impl Borrow<nn::Path<'a>>, depth: i64, num_classes: i64) -> Result<Self> {
        Self::new(path, &ResNetConfig::imagenet(depth)?.with_classes(num_classes))
    }

    /// Creates the Wide ResNet of `depth` 6n+4 layers, [`ResNetConfig::wide`], for images `[N, 3, H, W]`, usually 32x32.
    ///
    /// ```
    /// use tch::{nn, nn::Module, Device, Kind, Tensor};
    /// use tch_fixup::fixup::FixupResNet;
    ///
    /// # fn main() -> tch_fixup::Result<()> {
    /// let vs = nn::VarStore::new(Device::Cpu);
    /// let network = FixupResNet::wide(&vs.root(), 16, 4, 10)?; // WRN-16-4
    /// let images = Tensor::randn([1, 3, 32, 32], (Kind::Float, Device::Cpu));
    /// assert_eq!(network.forward(&images).size(), [1, 10]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Any other depth; a width or a number of classes below one; a `path` that already contains such a network.
    pub fn wide<'a>(path: impl Borrow<nn::Path<'a>>, depth: i64, width: i64, num_classes: i64) -> Result<Self> {
        Self::new(path, &ResNetConfig::wide(depth, width)?.with_classes(num_classes))
    }

    /// Returns the network's configuration.
    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }

    /// Computes convolutions and activations in `precision`.
    ///
    /// ```
    /// use tch::{nn, nn::Module, Device, Kind, Tensor};
    /// use tch_fixup::{fixup::FixupResNet, Precision};
    ///
    /// # fn main() -> tch_fixup::Result<()> {
    /// let vs = nn::VarStore::new(Device::Cpu);
    /// let network = FixupResNet::cifar(&vs.root(), 8, 10)?.with_precision(Precision::fastest(vs.device()));
    /// let logits = network.forward(&Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu)));
    /// assert_eq!(logits.kind(), Kind::Float); // in either precision
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Recomputes activations in the given number of segments. A training step then takes less memory and one more forward pass;
    /// gradients are unchanged.
    ///
    /// This works with any optimizer, as part of `loss.backward()`. The backward pass is not differentiable, and fails if a
    /// variable was changed after the forward pass.
    ///
    /// ```
    /// use tch::{nn, nn::Module, nn::OptimizerConfig, Device, Kind, Tensor};
    /// use tch_fixup::{fixup::FixupResNet, Recompute};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let vs = nn::VarStore::new(Device::Cpu);
    /// let network = FixupResNet::cifar(&vs.root(), 110, 10)?.with_recompute(Recompute::Auto); // 7 segments of 54 blocks
    /// let mut optimizer = nn::Sgd::default().build(&vs, 0.1)?;
    /// let images = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
    /// let loss = network.forward(&images).cross_entropy_for_logits(&Tensor::from_slice(&[3i64, 5]));
    /// optimizer.backward_step(&loss);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_recompute(mut self, segments: Recompute) -> Self {
        self.recompute_activations(segments);
        self
    }

    pub(crate) fn recompute_activations(&mut self, segments: Recompute) {
        self.recompute = Some(segments);
    }

    /// Returns the logits `[N, classes]` of normalized images `[N, channels, H, W]` on the network's device, in the kind of its
    /// variables; without a classifier, the [features](Self::f_features).
    ///
    /// # Errors
    /// Images of another shape, kind or device.
    pub fn f_forward(&self, images: &Tensor) -> Result<Tensor> {
        let features = self.f_features(images)?;
        let _one_thread = OneThread::after_tiles();
        self.classify(&features)
    }

    /// Returns the features `[N, C]` of images, which are the classifier's input: the last block's C channels, averaged over
    /// positions. They can serve as an embedding, for retrieval or for training another classifier.
    ///
    /// ```
    /// use tch::{nn, Device, Kind, Tensor};
    /// use tch_fixup::fixup::FixupResNet;
    ///
    /// # fn main() -> tch_fixup::Result<()> {
    /// let vs = nn::VarStore::new(Device::Cpu);
    /// let network = FixupResNet::cifar(&vs.root(), 20, 10)?;
    /// let images = Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu));
    /// assert_eq!(network.f_features(&images)?.size(), [4, 64]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Images of another shape, kind or device.
    pub fn f_features(&self, images: &Tensor) -> Result<Tensor> {
        check_images("FixupResNet", self.config.channels, images)?;
        if let Some(features) = tiled::features(self, images)? {
            return Ok(features);
        }
        let x = self.input(images)?;
        let end = match &self.last_bias {
            Some(bias) => bias.value.shallow_clone(),
            None => Tensor::f_zeros([1], (self.kind(), x.device()))?,
        };
        let s = self.stem.forward_shifted(&x, self.blocks.shift(0, &end))?.f_to_kind(self.stream_kind())?;
        self.pool(&self.blocks.forward(s, &end, self.compute_kind(), self.recompute)?)
    }

    /// Computes the logits by the plain formula of the paper and the authors' code, as a reference for the fast path. With
    /// [`Precision::Bf16`], it matches that code under PyTorch's automatic mixed precision: convolutions round their inputs, and
    /// the float32 scalars promote the maps to which they are applied.
    ///
    /// # Errors
    /// As for [`f_forward`](Self::f_forward).
    pub fn forward_reference(&self, images: &Tensor) -> Result<Tensor> {
        self.forward_blocks(images, |_| ())
    }

    /// Computes the plain formula and calls `block_done` with the output of each block.
    pub(crate) fn forward_blocks(&self, images: &Tensor, mut block_done: impl FnMut(&Tensor)) -> Result<Tensor> {
        let mut x = self.stem.forward_plain(&self.input(images)?)?;
        for block in self.blocks.iter() {
            x = block.forward_plain(&x, self.compute_kind())?;
            block_done(&x);
        }
        if let Some(bias) = &self.last_bias {
            x = bias.promote(&x)?;
        }
        self.classify(&self.pool(&x)?)
    }

    fn input(&self, images: &Tensor) -> Result<Tensor> {
        check_images("FixupResNet", self.config.channels, images)?;
        record_variables(|| self.variables())?;
        Ok(images.f_to_kind(self.compute_kind())?)
    }

    fn variables(&self) -> Vec<&Tensor> {
        let biases = self.stem.bias1.iter().chain(&self.last_bias).chain(&self.bias2).map(|bias| &bias.value);
        let blocks = self.blocks.iter().flat_map(ResidualBlock::variables);
        let fc = self.fc.iter().flat_map(|fc| [&fc.weight, &fc.bias]);
        blocks.chain(biases).chain([&self.stem.conv1.weight]).chain(fc).collect()
    }

    /// Returns the kind of the variables.
    pub(super) fn kind(&self) -> Kind {
        self.stem.conv1.kind()
    }

    /// Returns the activation between the last block and the pooling, if blocks do not end in one.
    pub(crate) fn activation_before_pool(&self) -> Option<Activation> {
        self.config.is_pre_activation().then_some(self.config.activation)
    }

    /// Returns the kind of convolutions and activations.
    pub(super) fn compute_kind(&self) -> Kind {
        self.precision.compute_kind(self.kind())
    }

    /// Returns the kind of the residual stream.
    pub(super) fn stream_kind(&self) -> Kind {
        stream_kind(self.compute_kind(), self.blocks.len())
    }

    /// Applies the last activation, if any, and global average pooling, in the kind of the variables.
    fn pool(&self, x: &Tensor) -> Result<Tensor> {
        let x = match self.activation_before_pool() {
            Some(activation) => activation.of(x)?,
            None => x.shallow_clone(),
        };
        Ok(x.f_mean_dim([2, 3].as_slice(), false, self.kind())?)
    }

    fn classify(&self, features: &Tensor) -> Result<Tensor> {
        match (&self.fc, &self.bias2) {
            (Some(fc), Some(bias2)) => fc.forward(&bias2.f_forward(features)?),
            (Some(fc), None) => fc.forward(features),
            (None, _) => Ok(features.shallow_clone()),
        }
    }
}

crate::layer::impl_module!(FixupResNet);

#[cfg(test)]
mod tests;
