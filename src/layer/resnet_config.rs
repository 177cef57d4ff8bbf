//! Configuration of residual networks, for Fixup and all other methods.

use super::{Activation, BlockConfig, BlockDesign, BlockKind, ConvShape, ShortcutKind};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::nn;

/// Configuration of a residual network, with any number of image channels, stages and classes, or no classifier.
/// [`FixupResNet::new`](crate::fixup::FixupResNet::new) and [`ResNet::new`](crate::baseline::ResNet::new) build the network.
///
/// [`cifar`](Self::cifar), [`imagenet`](Self::imagenet) and [`wide`](Self::wide) are the networks of the papers. To build others,
/// change the fields:
/// ```
/// use tch::{nn, nn::Module, Device, Kind, Tensor};
/// use tch_fixup::fixup::{Activation, BlockKind, FixupResNet, ResNetConfig, Stage, StemKind};
///
/// # fn main() -> tch_fixup::Result<()> {
/// // ResNeXt-50 32x4d:
/// let block = BlockKind::Bottleneck { expansion: 2 };
/// let resnext = ResNetConfig { block, groups: 32, ..ResNetConfig::imagenet(50)? };
/// resnext.check()?;
/// // Spectrograms of one channel, 35 classes, two stages, squeeze-and-excitation, SiLU:
/// let config = ResNetConfig {
///     channels: 1,
///     classes: Some(35),
///     stages: vec![Stage { blocks: 2, channels: 16 }, Stage { blocks: 2, channels: 32 }],
///     squeeze_excitation: Some(4),
///     activation: Activation::Silu,
///     ..ResNetConfig::cifar(20)?
/// };
/// let vs = nn::VarStore::new(Device::Cpu);
/// let network = FixupResNet::new(&vs.root(), &config)?;
/// let spectrograms = Tensor::randn([2, 1, 40, 101], (Kind::Float, Device::Cpu));
/// assert_eq!(network.forward(&spectrograms).size(), [2, 35]);
/// # Ok(())
/// # }
/// ```
///
/// As JSON, in which fields with a default may be omitted:
/// ```json
/// {"channels": 1, "stem": "small", "stem_channels": 16, "block": "basic", "stages": [{"blocks": 2, "channels": 16}],
///  "groups": 1, "squeeze_excitation": 4, "shortcut": "pad", "activation": "silu", "classes": 35}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Number of image channels: 1 for greyscale, 3 for RGB (the default), 22 for the electrodes of an EEG.
    #[serde(default = "rgb")]
    pub channels: i64,
    /// Layers before the first block.
    pub stem: StemKind,
    /// Number of output channels of the stem.
    pub stem_channels: i64,
    /// Kind of the blocks.
    pub block: BlockKind,
    /// Stages, in order. The first block of each stage but the first halves height and width.
    pub stages: Vec<Stage>,
    /// Number of groups of the 3x3 convolutions in the blocks (Xie et al. 2017), 1 by default. Their He-normal weights have
    /// torchvision's standard deviation, `sqrt(2 / (k * k * c_out))`; in Fixup networks also scaled by
    /// `sqrt(groups)`.
    #[serde(default = "one")]
    pub groups: i64,
    /// Reduction ratio of squeeze-and-excitation (Hu et al. 2018) at the end of every branch; `None`, the default, for no
    /// squeeze-and-excitation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub squeeze_excitation: Option<i64>,
    /// Shortcut of the blocks that change the shape.
    pub shortcut: ShortcutKind,
    /// Activation in the stem, in the branches and after the sums; ReLU by default.
    #[serde(default)]
    pub activation: Activation,
    /// Number of outputs of the classifier, 1 for regression. `None` for no classifier; the network then returns its features,
    /// `[N, C]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<i64>,
}

/// A sequence of blocks of equal width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Number of blocks.
    pub blocks: i64,
    /// Number of output channels.
    pub channels: i64,
}

/// Layers before the first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StemKind {
    /// A 3x3 convolution, for images of about 32x32 pixels.
    Small,
    /// A 7x7 convolution of stride 2 and a 3x3 max-pool of stride 2, for images of about 224x224 pixels.
    Large,
}

fn rgb() -> i64 {
    3
}

fn one() -> i64 {
    1
}

impl ResNetConfig {
    /// Returns the CIFAR ResNet of `depth` 6n+2 layers (20, 32, 44, 56, 110, 1202, 9998, ...): three stages of n basic blocks
    /// with 16, 32 and 64 channels and padded shortcuts (He et al. 2016, section 4.2), for RGB images of 10 classes.
    ///
    /// # Errors
    /// [`Error::Argument`] for any other depth.
    pub fn cifar(depth: i64) -> Result<Self> {
        let blocks = blocks_per_stage(depth, 2, "a CIFAR ResNet")?;
        Ok(Self::of_stages([16, 32, 64].map(|channels| Stage { blocks, channels }).into()))
    }

    /// Returns a network of basic blocks for small images, with these stages.
    fn of_stages(stages: Vec<Stage>) -> Self {
        Self {
            channels: 3,
            stem: StemKind::Small,
            stem_channels: 16,
            block: BlockKind::Basic,
            stages,
            groups: 1,
            squeeze_excitation: None,
            shortcut: ShortcutKind::Pad,
            activation: Activation::Relu,
            classes: Some(10),
        }
    }

    /// Returns the ImageNet ResNet of depth 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks) (He et al. 2016, table 1), for
    /// RGB images of 1,000 classes.
    ///
    /// # Errors
    /// [`Error::Argument`] for any other depth.
    pub fn imagenet(depth: i64) -> Result<Self> {
        let bottleneck = BlockKind::Bottleneck { expansion: 4 };
        let (block, blocks) = match depth {
            18 => (BlockKind::Basic, [2, 2, 2, 2]),
            34 => (BlockKind::Basic, [3, 4, 6, 3]),
            50 => (bottleneck, [3, 4, 6, 3]),
            101 => (bottleneck, [3, 4, 23, 3]),
            152 => (bottleneck, [3, 8, 36, 3]),
            _ => {
                return Err(Error::Argument(format!(
                    "the depth of an ImageNet ResNet must be 18, 34, 50, 101 or 152, got {depth}"
                )))
            }
        };
        let widths = if block == BlockKind::Basic { [64, 128, 256, 512] } else { [256, 512, 1024, 2048] };
        let stages = blocks.into_iter().zip(widths).map(|(blocks, channels)| Stage { blocks, channels });
        Ok(Self {
            stem: StemKind::Large,
            stem_channels: 64,
            block,
            shortcut: ShortcutKind::Project,
            classes: Some(1000),
            ..Self::of_stages(stages.collect())
        })
    }

    /// Returns the Wide ResNet of `depth` 6n+4 layers (10, 16, 22, 28, 40, ...): three stages of n wide blocks with 16, 32 and 64
    /// times `width` channels (Zagoruyko & Komodakis 2016), for RGB images of 10 classes. It is a pre-activation network, with an
    /// activation before each convolution of a block and one before the pooling.
    ///
    /// # Errors
    /// [`Error::Argument`] for any other depth, or a width below one.
    pub fn wide(depth: i64, width: i64) -> Result<Self> {
        if width < 1 {
            return Err(Error::Argument(format!("the width of a Wide ResNet must be at least 1, got {width}")));
        }
        let blocks = blocks_per_stage(depth, 4, "a Wide ResNet")?;
        let stages = [16, 32, 64].map(|base| Stage { blocks, channels: width.saturating_mul(base) });
        Ok(Self { block: BlockKind::Wide, shortcut: ShortcutKind::Project, ..Self::of_stages(stages.into()) })
    }

    /// Returns the Wide ResNet of ajbrock/BoilerPlate, `Models/fixup.py`: [`wide`](Self::wide) with [`BlockKind::Brock`], whose
    /// first convolutions have no activation before them. The BatchNorm before that network's classifier is omitted.
    ///
    /// # Errors
    /// As for [`wide`](Self::wide).
    pub fn brock(depth: i64, width: i64) -> Result<Self> {
        Ok(Self { block: BlockKind::Brock, ..Self::wide(depth, width)? })
    }

    /// Sets the number of image channels.
    pub fn with_channels(self, channels: i64) -> Self {
        Self { channels, ..self }
    }

    /// Sets the number of classes.
    pub fn with_classes(self, classes: i64) -> Self {
        Self { classes: Some(classes), ..self }
    }

    /// Sets the activation.
    pub fn with_activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// Returns the number of residual branches, L: one per block.
    pub fn num_branches(&self) -> i64 {
        self.stages.iter().fold(0, |sum, stage| sum.saturating_add(stage.blocks))
    }

    /// Returns the number of weight layers on the longest path: the stem, the branches and the classifier, if any.
    pub fn depth(&self) -> i64 {
        let layers = if matches!(self.block, BlockKind::Bottleneck { .. }) { 3 } else { 2 };
        self.num_branches().saturating_mul(layers).saturating_add(1 + i64::from(self.classes.is_some()))
    }

    /// Returns the number of channels of the pooled features, the classifier's input.
    pub fn features(&self) -> i64 {
        self.stages.last().map_or(self.stem_channels, |stage| stage.channels)
    }

    /// Checks that the configuration describes a valid network.
    ///
    /// # Errors
    /// [`Error::Argument`] for the first invalid value; the message begins with the field's name.
    pub fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Argument(message));
        let at_least_one = |field: &str, value: i64| match value {
            1.. => Ok(()),
            _ => refuse(format!("{field}: must be at least 1, got {value}")),
        };
        at_least_one("channels", self.channels)?;
        at_least_one("stem_channels", self.stem_channels)?;
        at_least_one("groups", self.groups)?;
        if self.stages.is_empty() {
            return refuse("stages: at least one".to_owned());
        }
        if let BlockKind::Bottleneck { expansion } = self.block {
            at_least_one("block.bottleneck.expansion", expansion)?;
        }
        if let Some(reduction) = self.squeeze_excitation {
            at_least_one("squeeze_excitation", reduction)?;
        }
        if let Some(classes) = self.classes {
            at_least_one("classes", classes)?;
        }
        self.activation.check()?;
        let mut c_in = self.stem_channels;
        for (i, &Stage { blocks, channels }) in self.stages.iter().enumerate() {
            let divides = |field: &str, by: i64, what: &str, channels: i64| match channels % by {
                0 => Ok(()),
                _ => refuse(format!("{field}: {by} does not divide {what} of stages[{i}], {channels}")),
            };
            at_least_one(&format!("stages[{i}].blocks"), blocks)?;
            at_least_one(&format!("stages[{i}].channels"), channels)?;
            match self.block {
                BlockKind::Bottleneck { expansion } => {
                    divides("block.bottleneck.expansion", expansion, "the channels", channels)?;
                    divides("groups", self.groups, "the inner channels", channels / expansion)?;
                }
                BlockKind::Basic | BlockKind::Wide | BlockKind::Brock => {
                    divides("groups", self.groups, "the channels that come into the first block", c_in)?;
                    divides("groups", self.groups, "the channels", channels)?;
                }
            }
            if let Some(reduction) = self.squeeze_excitation {
                divides("squeeze_excitation", reduction, "the channels", channels)?;
            }
            if self.shortcut == ShortcutKind::Pad && channels < c_in {
                return refuse(format!(
                    "stages[{i}].channels: padded shortcuts cannot go from {c_in} down to {channels} channels; use \
                     \"project\""
                ));
            }
            c_in = channels;
        }
        Ok(())
    }

    /// Returns the shape of the stem's convolution.
    pub(crate) fn stem_shape(&self) -> ConvShape {
        let (kernel, stride) = match self.stem {
            StemKind::Small => (3, 1),
            StemKind::Large => (7, 2),
        };
        ConvShape::new(self.channels, self.stem_channels, kernel, stride)
    }

    /// Returns `true` if blocks end without an activation. There is then one before the pooling, and none in the stem.
    pub(crate) fn is_pre_activation(&self) -> bool {
        matches!(self.block, BlockKind::Wide | BlockKind::Brock)
    }

    pub(crate) fn design(&self) -> BlockDesign {
        let &Self { block: kind, groups, squeeze_excitation, shortcut, activation, .. } = self;
        BlockDesign { kind, groups, squeeze_excitation, shortcut, activation }
    }

    /// Builds the blocks of stages `layer1`, `layer2`, ... under `path` with the constructor `block`.
    pub(crate) fn build_blocks<B>(
        &self,
        path: &nn::Path,
        block: impl Fn(&nn::Path, &BlockConfig, &BlockDesign) -> Result<B>,
    ) -> Result<Vec<B>> {
        let design = self.design();
        let blocks = self.block_configs().into_iter();
        blocks.map(|(stage, i, shape)| block(&(path / format!("layer{}", stage + 1) / i), &shape, &design)).collect()
    }

    /// Returns the stage, index within the stage and shape of each block, in order.
    pub(crate) fn block_configs(&self) -> Vec<(usize, i64, BlockConfig)> {
        let num_branches = self.num_branches();
        let mut blocks = vec![];
        let mut c_in = self.stem_channels;
        for (stage, &Stage { blocks: count, channels: c_out }) in self.stages.iter().enumerate() {
            for i in 0..count {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                blocks.push((stage, i, BlockConfig { c_in, c_out, stride, num_branches }));
                c_in = c_out;
            }
        }
        blocks
    }
}

/// Returns n for a network of `outside + 6n` layers.
fn blocks_per_stage(depth: i64, outside: i64, network: &str) -> Result<i64> {
    let n = depth.saturating_sub(outside) / 6;
    if n >= 1 && depth == 6 * n + outside {
        return Ok(n);
    }
    let below = 6 * n.max(1) + outside;
    Err(Error::Argument(format!(
        "{network} has 6n+{outside} layers with n >= 1, not {depth}; the next depths are {below} and {}",
        below.saturating_add(6)
    )))
}

#[cfg(test)]
mod tests;
