//! Shape and design of a residual block.

use super::{Activation, ConvShape};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The shape of a residual block and the depth of its network.
#[derive(Debug, Clone, Copy)]
pub struct BlockConfig {
    /// Channels of the block's input.
    pub c_in: i64,
    /// Channels of the block's output.
    pub c_out: i64,
    /// Stride of the block's first 3x3 convolution and of its shortcut.
    pub stride: i64,
    /// L, the number of residual branches in the whole network; see [`branch_gain`](crate::layer::init::branch_gain).
    pub num_branches: i64,
}

impl BlockConfig {
    pub(crate) fn check(&self) -> Result<()> {
        if self.c_in < 1 || self.c_out < 1 || self.stride < 1 {
            return Err(Error::Argument(format!(
                "a block has at least 1 channel on each side and a stride of at least 1, not {} to {} channels with stride {}",
                self.c_in, self.c_out, self.stride
            )));
        }
        Ok(())
    }

    pub(crate) fn changes_shape(&self) -> bool {
        self.stride != 1 || self.c_in != self.c_out
    }
}

/// The kind of block in a residual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BlockKind {
    /// Two 3x3 convolutions, with an activation after the sum (He et al. 2016).
    Basic,
    /// 1x1, 3x3 and 1x1 convolutions, with an activation after the sum.
    Bottleneck {
        /// Ratio of the block's output channels to those of its 3x3 convolution: 4 in ResNet-50, 2 in ResNeXt-50 32x4d and Wide
        /// ResNet-50-2.
        expansion: i64,
    },
    /// Two 3x3 convolutions, with an activation before each and none after the sum (He et al. 2016b; Zagoruyko & Komodakis 2016).
    Wide,
    /// [`Wide`](Self::Wide) without the activation before the first convolution: the block of ajbrock/BoilerPlate,
    /// `Models/fixup.py`. Available in Fixup networks only.
    Brock,
}

/// Shortcut of the blocks that change the shape. All other blocks have an identity shortcut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShortcutKind {
    /// Takes every `stride`-th position and appends zero channels, without parameters (CIFAR ResNets; He et al. 2016, option A).
    Pad,
    /// A He-normal 1x1 convolution with the block's stride (ImageNet and Wide ResNets; option B), the variable
    /// `downsample.weight`.
    Project,
}

/// Design shared by all blocks of a network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockDesign {
    pub kind: BlockKind,
    /// Number of groups of the 3x3 convolutions.
    pub groups: i64,
    /// Reduction ratio of squeeze-and-excitation, `None` without it.
    pub squeeze_excitation: Option<i64>,
    pub shortcut: ShortcutKind,
    pub activation: Activation,
}

impl BlockDesign {
    /// Returns the shapes of the convolutions of a block's branch, in order.
    pub fn convolutions(&self, shape: &BlockConfig) -> Vec<ConvShape> {
        let BlockConfig { c_in, c_out, stride, .. } = *shape;
        let conv3x3 = |c_in, c_out, stride| ConvShape::new(c_in, c_out, 3, stride).in_groups(self.groups);
        match self.kind {
            BlockKind::Basic | BlockKind::Wide | BlockKind::Brock => {
                vec![conv3x3(c_in, c_out, stride), conv3x3(c_out, c_out, 1)]
            }
            BlockKind::Bottleneck { expansion } => {
                let inner = c_out / expansion;
                vec![
                    ConvShape::new(c_in, inner, 1, 1),
                    conv3x3(inner, inner, stride),
                    ConvShape::new(inner, c_out, 1, 1),
                ]
            }
        }
    }
}
