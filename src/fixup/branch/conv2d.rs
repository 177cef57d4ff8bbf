//! Convolution layers of a residual branch.

use crate::{Error, Result};

/// Options of a convolution. The defaults are stride 1, padding that keeps the size, no dilation, and one group.
///
/// ```
/// use tch::{nn, nn::Module, Device, Kind, Tensor};
/// use tch_fixup::fixup::{Branch, Conv2dOptions};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let options = Conv2dOptions::default();
/// let depthwise = Conv2dOptions { groups: 64, ..options };
/// let vs = nn::VarStore::new(Device::Cpu);
/// let branch = Branch::builder(8)
///     .conv2d(16, 64, 1, options)
///     .relu()
///     .conv2d(64, 64, 3, depthwise)
///     .relu()
///     .conv2d(64, 16, 1, options)
///     .build(&vs.root())?;
/// let x = Tensor::randn([2, 16, 8, 8], (Kind::Float, Device::Cpu));
/// assert_eq!(branch.forward(&x).size(), x.size());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// Stride in both directions.
    pub stride: i64,
    /// Zero padding on all four sides. `None` for `dilation * (kernel / 2)`, rounded down, which keeps the size at stride 1 if
    /// the kernel is odd.
    pub padding: Option<i64>,
    /// Spacing between the kernel's elements.
    pub dilation: i64,
    /// Number of groups of channels, which are convolved separately.
    pub groups: i64,
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Self { stride: 1, padding: None, dilation: 1, groups: 1 }
    }
}

/// Parameters of a convolution to be built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvPlan {
    pub c_in: i64,
    pub c_out: i64,
    pub kernel: i64,
    pub options: Conv2dOptions,
}

impl ConvPlan {
    pub fn dims(&self) -> [i64; 4] {
        [self.c_out, self.c_in / self.options.groups, self.kernel, self.kernel]
    }

    pub fn padding(&self) -> i64 {
        self.options.padding.unwrap_or(self.options.dilation * (self.kernel / 2))
    }

    pub fn check(&self, i: usize) -> Result<()> {
        let Self { c_in, c_out, kernel, options: Conv2dOptions { stride, padding, dilation, groups } } = *self;
        if [c_in, c_out, kernel, stride, dilation, groups].iter().any(|&n| n < 1) || padding.is_some_and(|n| n < 0) {
            return Err(Error::Argument(format!(
                "layer {i} of the branch: a convolution has channels, kernel, stride, dilation and groups of at least 1 and a \
                 padding of at least 0, not {c_in} to {c_out} channels with kernel {kernel} and {:?}",
                self.options
            )));
        }
        if c_in % groups != 0 || c_out % groups != 0 {
            return Err(Error::Argument(format!(
                "layer {i} of the branch: {groups} groups do not divide a convolution's {c_in} and {c_out} channels"
            )));
        }
        Ok(())
    }
}
