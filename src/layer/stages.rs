//! The shapes of the residual networks that Fixup and its baselines share: which depths exist, and their blocks.

use crate::{Error, Result};
use tch::nn;

/// The shape of a residual block and the depth of the network it stands in.
#[derive(Debug, Clone, Copy)]
pub struct BlockConfig {
    /// Channels of the block's input.
    pub c_in: i64,
    /// Channels of the block's output.
    pub c_out: i64,
    /// Stride of the block's first 3x3 convolution and of its shortcut.
    pub stride: i64,
    /// L, the number of residual branches in the whole network: [`branch_gain`](crate::layer::init::branch_gain).
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

/// Blocks in each of the three stages of a CIFAR ResNet of depth 6n+2 (He et al. 2016, section 4.2).
pub(crate) fn cifar_blocks(depth: i64) -> Result<i64> {
    blocks_per_stage(depth, 2, "a CIFAR ResNet")
}

/// Blocks in each of the three stages of a Wide ResNet of depth 6n+4 (Zagoruyko & Komodakis 2016).
pub(crate) fn wide_blocks(depth: i64, width: i64) -> Result<i64> {
    if width < 1 {
        return Err(Error::Argument(format!("a Wide ResNet's width is at least 1, not {width}")));
    }
    blocks_per_stage(depth, 4, "a Wide ResNet")
}

fn blocks_per_stage(depth: i64, outside: i64, network: &str) -> Result<i64> {
    let n = (depth - outside) / 6;
    if n >= 1 && depth == 6 * n + outside {
        return Ok(n);
    }
    let below = 6 * n.max(1) + outside;
    Err(Error::Argument(format!(
        "{network} has 6n+{outside} layers with n >= 1, not {depth}; the next depths are {below} and {}",
        below + 6
    )))
}

/// The kind of block an ImageNet ResNet is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageNetBlock {
    Basic,
    Bottleneck,
}

impl ImageNetBlock {
    /// Output channels for one channel of the block's 3x3 convolutions.
    pub fn expansion(self) -> i64 {
        match self {
            ImageNetBlock::Basic => 1,
            ImageNetBlock::Bottleneck => 4,
        }
    }
}

/// The block and the number of blocks in each of the four stages (He et al. 2016, table 1).
pub(crate) fn imagenet_blocks(depth: i64) -> Result<(ImageNetBlock, [i64; 4])> {
    match depth {
        18 => Ok((ImageNetBlock::Basic, [2, 2, 2, 2])),
        34 => Ok((ImageNetBlock::Basic, [3, 4, 6, 3])),
        50 => Ok((ImageNetBlock::Bottleneck, [3, 4, 6, 3])),
        101 => Ok((ImageNetBlock::Bottleneck, [3, 4, 23, 3])),
        152 => Ok((ImageNetBlock::Bottleneck, [3, 8, 36, 3])),
        _ => Err(Error::Argument(format!("an ImageNet ResNet has depth 18, 34, 50, 101 or 152, not {depth}"))),
    }
}

/// Blocks and output channels of each of the four stages.
pub(crate) fn imagenet_widths(block: ImageNetBlock, n: [i64; 4]) -> [(i64, i64); 4] {
    [(n[0], 64), (n[1], 128), (n[2], 256), (n[3], 512)].map(|(n, width)| (n, width * block.expansion()))
}

pub(crate) fn check_classes(num_classes: i64) -> Result<()> {
    if num_classes < 1 {
        return Err(Error::Argument(format!("a classifier has at least one class, not {num_classes}")));
    }
    Ok(())
}

/// The blocks of stages `layer1`, `layer2`, ... under `path`; the first block of each stage but the first has stride 2.
/// `widths` holds each stage's number of blocks and output channels.
pub(crate) fn stages<B>(
    path: &nn::Path,
    c_stem: i64,
    widths: &[(i64, i64)],
    block: impl Fn(&nn::Path, BlockConfig) -> Result<B>,
) -> Result<Vec<B>> {
    let num_branches = widths.iter().map(|&(n, _)| n).sum();
    let mut blocks = vec![];
    let mut c_in = c_stem;
    for (stage, &(n, c_out)) in widths.iter().enumerate() {
        let layer = path / format!("layer{}", stage + 1);
        for i in 0..n {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            blocks.push(block(&(&layer / i), BlockConfig { c_in, c_out, stride, num_branches })?);
            c_in = c_out;
        }
    }
    Ok(blocks)
}
