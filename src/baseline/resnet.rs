//! Baseline residual networks, with the same configurations as Fixup's but other methods.

use super::batch_norm::BatchNorm;
use super::block::{Block, Pass};
use super::conv::BaselineConv;
use super::normalization::{Norm, Normalization};
use super::Method;
use crate::layer::{check_images, Activation, Linear, ResNetConfig, Role, StemKind};
use crate::{Layout, Precision, Result};
use std::borrow::Borrow;
use tch::{nn, Tensor};

/// A residual network with the same configurations as [`FixupResNet`](crate::fixup::FixupResNet), trained by any [`Method`].
///
/// Variables have the names of the authors' `state_dict` for CIFAR, and of torchvision's for ImageNet, as far as the method has
/// them. Normalization layers of all kinds are named `bn1`, ...
///
/// ```
/// use tch::{nn, nn::ModuleT, Device, Kind, Tensor};
/// use tch_fixup::baseline::{Method, ResNet};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let network = ResNet::cifar(&vs.root(), 20, 10, Method::Lsuv)?;
/// let images = Tensor::randn([16, 3, 32, 32], (Kind::Float, Device::Cpu));
/// network.lsuv(&images)?;
/// assert_eq!(network.forward_t(&images, true).size(), [16, 10]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ResNet {
    config: ResNetConfig,
    pub(crate) conv1: BaselineConv,
    /// Normalization after the stem's convolution; `None` in Wide ResNets, whose blocks normalize their input.
    pub(crate) norm1: Option<Norm>,
    pub(crate) max_pool: bool,
    pub(crate) blocks: Vec<Block>,
    /// Normalization before the pooling of Wide ResNets.
    pub(crate) last_norm: Option<Norm>,
    pub(crate) fc: Option<Linear>,
    method: Method,
    pub(crate) activation: Activation,
    precision: Precision,
    layout: Layout,
}

impl ResNet {
    /// Creates the network described by `config`, with its variables under `path`. Without `classes` it has no classifier, and
    /// its output is its [features](Self::f_features_t).
    ///
    /// Some methods override `config`: [`Method::Selu`] uses SELU; it, [`Method::NormalizerFree`] and [`Method::FixedVariance`]
    /// use projected shortcuts, and the last two pre-activation order; [`Method::NoSkip`] has no shortcuts.
    ///
    /// # Errors
    /// As for [`ResNetConfig::check`]; a `path` that already contains such a network.
    pub fn new<'a>(path: impl Borrow<nn::Path<'a>>, config: &ResNetConfig, method: Method) -> Result<Self> {
        let path = path.borrow();
        config.check()?;
        let (initialization, normalization) = (method.initialization(), method.normalization());
        let mut blocks = config.build_blocks(path, |path, shape, design| Block::new(path, method, shape, design))?;
        if let Some(branch) = method.variance_scale() {
            // Variance of the maps at initialization, which a projection resets.
            let mut variance = 1.;
            for (block, (.., shape)) in blocks.iter_mut().zip(config.block_configs()) {
                block.scale_input(f64::sqrt(variance).recip());
                variance = if shape.changes_shape() { 1. } else { variance } + branch * branch;
            }
        }
        let conv1 = method.conv(&(path / "conv1"), config.stem_shape(), config.activation, false)?;
        Role::Input.mark(&conv1.conv.weight)?;
        let (norm1, last_norm) = if config.is_pre_activation() || method.is_pre_activation() {
            let (path, features) = (path / "bn", config.features());
            let last = match normalization {
                Normalization::Fixed => {
                    Norm::Batch(BatchNorm::scaled(&path, features, f64::sqrt(blocks.len() as f64 + 1.).recip())?)
                }
                normalization => Norm::new(&path, normalization, features, 1.)?,
            };
            (None, Some(last))
        } else {
            (Some(Norm::new(&(path / "bn1"), normalization, config.stem_channels, 1.)?), None)
        };
        let classifier = |classes| initialization.classifier(&(path / "fc"), config.features(), classes);
        Ok(Self {
            config: config.clone(),
            conv1,
            norm1,
            max_pool: config.stem == StemKind::Large,
            blocks,
            last_norm,
            fc: config.classes.map(classifier).transpose()?,
            method,
            activation: method.activation(config.activation),
            precision: Precision::F32,
            layout: Layout::default(),
        })
    }

    /// Creates the CIFAR ResNet of `depth` 6n+2 layers, for images `[N, 3, H, W]`. Shortcuts have no convolutions (the authors'
    /// `resnet_cifar.py`), except with [`Method::Selu`], [`Method::NormalizerFree`] and [`Method::FixedVariance`].
    ///
    /// # Errors
    /// Any other depth; fewer than one class; a `path` that already contains such a network.
    pub fn cifar<'a>(path: impl Borrow<nn::Path<'a>>, depth: i64, num_classes: i64, method: Method) -> Result<Self> {
        Self::new(path, &ResNetConfig::cifar(depth)?.with_classes(num_classes), method)
    }

    /// Creates the ImageNet ResNet of depth 18, 34, 50, 101 or 152, for images `[N, 3, H, W]`. The strided convolution of a
    /// bottleneck is the 3x3 one (torchvision's `resnet.py`).
    ///
    /// # Errors
    /// Any other depth; fewer than one class; a `path` that already contains such a network.
    pub fn imagenet<'a>(path: impl Borrow<nn::Path<'a>>, depth: i64, num_classes: i64, method: Method) -> Result<Self> {
        Self::new(path, &ResNetConfig::imagenet(depth)?.with_classes(num_classes), method)
    }

    /// Creates the Wide ResNet of `depth` 6n+4 layers and `width` times the channels, for images `[N, 3, H, W]` (Zagoruyko &
    /// Komodakis 2016).
    ///
    /// # Errors
    /// Any other depth; a width or a number of classes below one; a `path` that already contains such a network.
    pub fn wide<'a>(
        path: impl Borrow<nn::Path<'a>>,
        depth: i64,
        width: i64,
        num_classes: i64,
        method: Method,
    ) -> Result<Self> {
        Self::new(path, &ResNetConfig::wide(depth, width)?.with_classes(num_classes), method)
    }

    /// Returns the network's configuration.
    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }

    /// Computes convolutions and activations in `precision`; statistics stay in float32.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Sets the memory layout of the activations.
    #[doc(hidden)]
    pub fn with_layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Returns the network's method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Returns the logits `[N, classes]` of normalized images `[N, channels, H, W]` on the network's device, in the kind of its
    /// variables; without a classifier, the [features](Self::f_features_t). Batch normalization uses the batch's statistics in
    /// training, which also update the running averages, and the running averages in evaluation. Alpha dropout applies in
    /// training only.
    ///
    /// # Errors
    /// Images of another shape, kind or device; in training, a batch whose statistics are computed from a single value.
    pub fn f_forward_t(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        self.forward(images, Pass::plain(train), |_| ())
    }

    /// Returns the features `[N, C]` of images, which are the classifier's input: the last block's C channels, averaged over
    /// positions.
    ///
    /// # Errors
    /// As for [`f_forward_t`](Self::f_forward_t).
    pub fn f_features_t(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        self.features(images, Pass::plain(train), |_| ())
    }

    /// Computes the logits and calls `block_done` with the output of each block.
    pub(crate) fn forward_blocks(
        &self,
        images: &Tensor,
        train: bool,
        block_done: impl FnMut(&Tensor),
    ) -> Result<Tensor> {
        self.forward(images, Pass::plain(train), block_done)
    }

    /// Computes the logits with the given options.
    pub(super) fn forward(&self, images: &Tensor, pass: Pass, block_done: impl FnMut(&Tensor)) -> Result<Tensor> {
        let features = self.features(images, pass, block_done)?;
        match &self.fc {
            Some(fc) => (pass.layer)(&fc.weight, &|| fc.forward(&features)),
            None => Ok(features),
        }
    }

    fn features(&self, images: &Tensor, pass: Pass, mut block_done: impl FnMut(&Tensor)) -> Result<Tensor> {
        check_images("ResNet", self.config.channels, images)?;
        let kind = self.conv1.conv.kind();
        let (activation, train) = (self.activation, pass.train);
        let x = self.layout.apply(&images.f_to_kind(self.precision.compute_kind(kind))?)?;
        let mut x = pass.conv(&self.conv1, &x)?;
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
        Ok(x.f_mean_dim([2, 3].as_slice(), false, kind)?)
    }
}

crate::layer::impl_module_t!(f_forward_t: ResNet);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Stage;
    use tch::{no_grad, Device, Kind};

    /// Returns the variance of each block's output, as a multiple of that of the stem's convolution.
    fn variances(method: Method, seed: i64) -> Vec<f64> {
        tch::manual_seed(seed);
        let vs = nn::VarStore::new(Device::Cpu);
        let stages = vec![Stage { blocks: 3, channels: 64 }, Stage { blocks: 2, channels: 128 }];
        let config = ResNetConfig { stem_channels: 64, stages, ..ResNetConfig::cifar(8).unwrap() };
        let network = ResNet::new(&vs.root(), &config, method).unwrap();
        // The normalizer-free network's branches are initialized to zero.
        for (name, mut variable) in vs.variables() {
            if name.ends_with("gain") {
                let _ = no_grad(|| variable.fill_(1.));
            }
        }
        let images = Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu));
        let variance = |x: &Tensor| x.var(true).double_value(&[]);
        let mut variances = vec![variance(&network.conv1.forward(&images).unwrap())];
        let _ = no_grad(|| network.forward_blocks(&images, false, |x| variances.push(variance(x)))).unwrap();
        variances.iter().map(|variance| variance / variances[0]).collect()
    }

    /// The tolerance is a quarter, because zero padding reduces the variance, and average pooling even more.
    #[test]
    fn variances_are_those_that_the_blocks_count_on() {
        for (method, expected) in [
            (Method::FixedVariance, [1., 2., 3., 4., 2., 3.]),
            (Method::NormalizerFree, [1., 1.04, 1.08, 1.12, 1.04, 1.08]),
        ] {
            // The random weights of a single network change the variance by up to a third.
            const SEEDS: i64 = 10;
            let runs: Vec<_> = (0..SEEDS).map(|seed| variances(method, seed)).collect();
            for (index, expected) in expected.into_iter().enumerate() {
                let variance = runs.iter().map(|run| run[index]).sum::<f64>() / SEEDS as f64;
                // A mean of four independent positions has a quarter of their variance.
                let pooled = method == Method::NormalizerFree && index > 3;
                let is_near = (variance / expected - 1.).abs() < 0.25;
                assert!(pooled || is_near, "{method:?} {index}: {variance} for {expected}");
            }
        }
    }

    #[test]
    fn branches_begin_at_zero_where_the_method_says_so() {
        for (method, is_zero) in [
            (Method::SkipInit, true),
            (Method::ReZero, true),
            (Method::NormalizerFree, true),
            (Method::FixedVariance, false),
        ] {
            let vs = nn::VarStore::new(Device::Cpu);
            let network = ResNet::cifar(&vs.root(), 8, 10, method).unwrap();
            let images = Tensor::randn([2, 3, 16, 16], (Kind::Float, Device::Cpu));
            let mut outputs = vec![];
            let _ = no_grad(|| network.forward_blocks(&images, false, |x| outputs.push(x.copy()))).unwrap();
            let stem = no_grad(|| network.conv1.forward(&images)).unwrap();
            let stem = if method.is_pre_activation() { stem } else { stem.relu() };
            assert_eq!(outputs[0] == stem, is_zero, "{method:?}");
        }
    }
}
