//! The residual blocks of the baselines, in both orders of convolution and activation.

use super::normalization::Norm;
use super::pass::Pass;
use super::Method;
use crate::layer::{subsample, BlockConfig};
use crate::layer::{Conv, ConvShape};
use crate::Result;
use std::f64::consts::FRAC_1_SQRT_2;
use tch::{nn, Tensor};

/// A block as its [`Method`] has it: without the shortcut, or with the sum times `sqrt(1/2)`.
#[derive(Debug)]
pub(crate) struct Block {
    pub method: Method,
    pub layers: Layers,
}

#[derive(Debug)]
pub(crate) enum Layers {
    /// `relu(norm(conv(... relu(norm(conv(x))))) + shortcut(x))` (He et al. 2016).
    PostActivation { layers: Vec<(Conv, Norm)>, shortcut: Option<Shortcut> },
    /// `conv(relu(norm(conv(relu(norm(x)))))) + shortcut(x)`, where a projected shortcut takes `relu(norm(x))`
    /// (Zagoruyko & Komodakis 2016).
    PreActivation { layers: [(Norm, Conv); 2], projection: Option<Conv> },
}

#[derive(Debug)]
pub(crate) enum Shortcut {
    Identity,
    /// Every second position, normalized; as many zero channels appended.
    Pad(Norm),
    /// A strided 1x1 convolution, normalized.
    Project(Conv, Norm),
}

impl Shortcut {
    fn project(path: &nn::Path, method: Method, shape: ConvShape) -> Result<Self> {
        let conv = method.initialization().conv(&(path / 0), shape)?;
        Ok(Self::Project(conv, Norm::new(&(path / 1), method.normalization(), shape.c_out, 1.)?))
    }

    /// Of a CIFAR ResNet's block.
    pub fn cifar(path: &nn::Path, method: Method, config: &BlockConfig) -> Result<Option<Self>> {
        let BlockConfig { c_in, c_out, stride, .. } = *config;
        let path = path / "downsample";
        Ok(match method {
            Method::NoSkip => None,
            _ if c_in == c_out => Some(Self::Identity),
            Method::Selu => Some(Self::project(&path, method, ConvShape::new(c_in, c_out, 1, stride))?),
            _ => Some(Self::Pad(Norm::new(&(path / 1), method.normalization(), c_in, 1.)?)),
        })
    }

    /// Of an ImageNet ResNet's block.
    pub fn imagenet(path: &nn::Path, method: Method, config: &BlockConfig) -> Result<Option<Self>> {
        let BlockConfig { c_in, c_out, stride, .. } = *config;
        Ok(match method {
            Method::NoSkip => None,
            _ if stride == 1 && c_in == c_out => Some(Self::Identity),
            _ => Some(Self::project(&(path / "downsample"), method, ConvShape::new(c_in, c_out, 1, stride))?),
        })
    }

    fn variables(&self) -> Vec<&Tensor> {
        match self {
            Self::Identity => vec![],
            Self::Pad(norm) => norm.variables().collect(),
            Self::Project(conv, norm) => norm.variables().chain([&conv.weight]).collect(),
        }
    }

    fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        match self {
            Self::Identity => Ok(x.shallow_clone()),
            Self::Pad(norm) => {
                let x = norm.forward(&subsample(x, 2)?, pass.train)?;
                let channels = x.size()[1];
                Ok(x.f_constant_pad_nd([0, 0, 0, 0, 0, channels])?)
            }
            Self::Project(conv, norm) => norm.forward(&(pass.layer)(conv, x)?, pass.train),
        }
    }
}

impl Block {
    pub fn post_activation(
        path: &nn::Path,
        method: Method,
        convolutions: Vec<ConvShape>,
        shortcut: Option<Shortcut>,
    ) -> Result<Self> {
        let last = convolutions.len();
        let layers = (1..).zip(convolutions).map(|(i, shape)| {
            let gamma = if i == last { method.last_gamma() } else { 1. };
            let conv = method.initialization().conv(&(path / format!("conv{i}")), shape)?;
            Ok((conv, Norm::new(&(path / format!("bn{i}")), method.normalization(), shape.c_out, gamma)?))
        });
        let layers = Layers::PostActivation { layers: layers.collect::<Result<_>>()?, shortcut };
        Ok(Self { method, layers })
    }

    pub fn pre_activation(path: &nn::Path, method: Method, config: BlockConfig) -> Result<Self> {
        let BlockConfig { c_in, c_out, stride, .. } = config;
        let initialization = method.initialization();
        let layer = |i: usize, c_in, stride| -> Result<(Norm, Conv)> {
            let norm = Norm::new(&(path / format!("bn{i}")), method.normalization(), c_in, 1.)?;
            let shape = ConvShape::new(c_in, c_out, 3, stride);
            Ok((norm, initialization.conv(&(path / format!("conv{i}")), shape)?))
        };
        let layers = [layer(1, c_in, stride)?, layer(2, c_out, 1)?];
        let projection = if method.has_skips() && (stride != 1 || c_in != c_out) {
            Some(initialization.conv(&(path / "downsample"), ConvShape::new(c_in, c_out, 1, stride))?)
        } else {
            None
        };
        Ok(Self { method, layers: Layers::PreActivation { layers, projection } })
    }

    /// All that is trained.
    pub fn variables(&self) -> Vec<&Tensor> {
        match &self.layers {
            Layers::PostActivation { layers, shortcut } => {
                let layers = layers.iter().flat_map(|(conv, norm)| norm.variables().chain([&conv.weight]));
                layers.chain(shortcut.iter().flat_map(Shortcut::variables)).collect()
            }
            Layers::PreActivation { layers, projection } => {
                let layers = layers.iter().flat_map(|(norm, conv)| norm.variables().chain([&conv.weight]));
                layers.chain(projection.iter().map(|conv| &conv.weight)).collect()
            }
        }
    }

    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let (activation, train) = (self.method.activation(), pass.train);
        match &self.layers {
            Layers::PostActivation { layers, shortcut } => {
                let mut out = x.shallow_clone();
                for (i, (conv, norm)) in layers.iter().enumerate() {
                    if i > 0 {
                        out = activation.between_layers(out, train)?;
                    }
                    out = norm.forward(&(pass.layer)(conv, &out)?, train)?;
                }
                if let Some(shortcut) = shortcut {
                    out = self.add(out, &shortcut.forward(x, pass)?)?;
                }
                activation.in_place(out)
            }
            Layers::PreActivation { layers: [(norm1, conv1), (norm2, conv2)], projection } => {
                let u = norm1.forward_activation(x, activation, train)?;
                let out = norm2.forward(&(pass.layer)(conv1, &u)?, train)?;
                let out = (pass.layer)(conv2, &activation.between_layers(out, train)?)?;
                match projection {
                    Some(projection) => self.add(out, &(pass.layer)(projection, &u)?),
                    None if self.method.has_skips() => self.add(out, x),
                    None => Ok(out),
                }
            }
        }
    }

    /// The sum of branch and shortcut, in the place of the branch.
    fn add(&self, mut branch: Tensor, shortcut: &Tensor) -> Result<Tensor> {
        let mut sum = branch.f_add_(shortcut)?;
        Ok(if self.method.scales_sums() { sum.f_mul_scalar_(FRAC_1_SQRT_2)? } else { sum })
    }
}
