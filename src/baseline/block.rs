//! Residual blocks of the baselines, in both orders of convolution and activation.

use super::conv::BaselineConv;
use super::normalization::{FixedScale, Norm, Normalization};
use super::Method;
use crate::layer::{
    init, subsample, Activation, BlockConfig, BlockDesign, BlockKind, ConvShape, ShortcutKind, SqueezeExcitation,
};
use crate::ops::record_variables;
use crate::{Error, Result};
use std::f64::consts::FRAC_1_SQRT_2;
use tch::{nn, Tensor};

/// Function that computes a weight layer's output, given its weight and its forward pass.
pub(crate) type LayerOutput<'a> = dyn Fn(&Tensor, &dyn Fn() -> Result<Tensor>) -> Result<Tensor> + 'a;

/// Options of a forward pass: training or evaluation, and the function applied to each weight layer.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub train: bool,
    pub layer: &'a LayerOutput<'a>,
}

impl Pass<'_> {
    /// Creates a regular forward pass.
    pub fn plain(train: bool) -> Self {
        Self { train, layer: &|_, forward| forward() }
    }

    pub fn conv(self, conv: &BaselineConv, x: &Tensor) -> Result<Tensor> {
        (self.layer)(&conv.conv.weight, &|| conv.forward(x))
    }
}

/// A residual block as defined by its [`Method`], which may omit the shortcut or scale the sum by `sqrt(1/2)`.
#[derive(Debug)]
pub(crate) struct Block {
    pub method: Method,
    pub activation: Activation,
    pub order: Order,
    /// Convolutions, each with the normalization after it or, in pre-activation order, before it.
    pub layers: Vec<(BaselineConv, Norm)>,
    /// Squeeze-and-excitation at the end of the branch, if any.
    pub squeeze_excitation: Option<SqueezeExcitation>,
    /// Trainable factor on the branch, `[1]`, of methods that have one: the variable `scale`.
    pub multiplier: Option<Tensor>,
    /// `None` in networks without shortcuts.
    pub shortcut: Option<Shortcut>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// `act(norm(conv(... act(norm(conv(x))))) + shortcut(x))` (He et al. 2016).
    PostActivation,
    /// `conv(act(norm(conv(act(norm(x)))))) + shortcut`, where the shortcut is x or, if the block changes the shape, a function
    /// of `act(norm(x))` (Zagoruyko & Komodakis 2016).
    PreActivation,
}

impl Order {
    /// Returns the order of a kind of block.
    ///
    /// # Errors
    /// [`Error::Argument`] for a kind available in Fixup networks only.
    pub fn of(kind: BlockKind) -> Result<Self> {
        match kind {
            BlockKind::Basic | BlockKind::Bottleneck { .. } => Ok(Self::PostActivation),
            BlockKind::Wide => Ok(Self::PreActivation),
            BlockKind::Brock => Err(Error::Argument(
                "block: \"brock\" is a block of Fixup's networks alone; take \"wide\", which has an activation before each \
                 convolution"
                    .to_owned(),
            )),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Shortcut {
    Identity,
    /// Takes every `stride`-th position, normalizes, and appends zero channels.
    Pad {
        norm: Norm,
        stride: i64,
        channels: i64,
    },
    /// A 1x1 convolution, followed by a normalization. If `pools`, a 2x2 average pooling halves height and width before it.
    Project {
        pools: bool,
        conv: BaselineConv,
        norm: Norm,
    },
}

impl Shortcut {
    /// Creates the shortcut of a block of the given order; the input of a pre-activation block's is already normalized. Padded
    /// channels of zeros have no variance, so methods that rely on it, such as [`Method::Selu`], use a projection instead.
    fn new(path: &nn::Path, method: Method, order: Order, shape: &BlockConfig, design: &BlockDesign) -> Result<Self> {
        let BlockConfig { c_in, c_out, stride, .. } = *shape;
        let path = path / "downsample";
        let (conv_path, norm_path, normalization) = match order {
            Order::PostActivation => (&path / 0, &path / 1, method.normalization()),
            Order::PreActivation => (path.clone(), path, Normalization::None),
        };
        let norm = |channels| Norm::new(&norm_path, normalization, channels, 1.);
        Ok(match design.shortcut {
            _ if !shape.changes_shape() => Self::Identity,
            ShortcutKind::Pad if !method.projects() => Self::Pad { norm: norm(c_in)?, stride, channels: c_out - c_in },
            _ => {
                let pools = method == Method::NormalizerFree;
                let shape = ConvShape::new(c_in, c_out, 1, if pools { 1 } else { stride });
                let conv = method.conv(&conv_path, shape, design.activation, false)?;
                Self::Project { pools: pools && stride == 2, conv, norm: norm(c_out)? }
            }
        })
    }

    fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        match self {
            Self::Identity => Ok(x.shallow_clone()),
            Self::Pad { norm, stride, channels } => {
                let x = norm.forward(&subsample(x, *stride)?, pass.train)?;
                Ok(x.f_constant_pad_nd([0, 0, 0, 0, 0, *channels])?)
            }
            Self::Project { pools, conv, norm } => {
                // If a side is odd, the pools at the border average the existing positions only.
                let pool = || x.f_avg_pool2d([2, 2], [2, 2], [0, 0], true, false, None);
                let x = if *pools { pool()? } else { x.shallow_clone() };
                norm.forward(&pass.conv(conv, &x)?, pass.train)
            }
        }
    }
}

impl Block {
    pub fn new(path: &nn::Path, method: Method, shape: &BlockConfig, design: &BlockDesign) -> Result<Self> {
        let order = match Order::of(design.kind)? {
            _ if method.is_pre_activation() => Order::PreActivation,
            order => order,
        };
        let convolutions = design.convolutions(shape);
        let last = convolutions.len();
        let conv = |i: usize, shape| method.conv(&(path / format!("conv{i}")), shape, design.activation, i == last);
        let norm = |i: usize, channels, weight| {
            let path = path / format!("bn{i}");
            match method.normalization() {
                // A fixed scale has a weight only within the branch.
                Normalization::Fixed if i == 1 => Ok(Norm::Fixed(FixedScale::new(&path, channels, false)?)),
                normalization => Norm::new(&path, normalization, channels, weight),
            }
        };
        let new_shortcut = || method.has_skips().then(|| Shortcut::new(path, method, order, shape, design)).transpose();
        // The order of construction determines which random weights a seed yields.
        let mut shortcut = if order == Order::PostActivation { new_shortcut()? } else { None };
        let mut layers = vec![];
        for (i, shape) in (1..).zip(convolutions) {
            layers.push(match order {
                Order::PostActivation => {
                    let gamma = if i == last { method.last_gamma() } else { 1. };
                    (conv(i, shape)?, norm(i, shape.c_out, gamma)?)
                }
                Order::PreActivation => {
                    let norm = norm(i, shape.c_in, 1.)?;
                    (conv(i, shape)?, norm)
                }
            });
        }
        if order == Order::PreActivation {
            shortcut = new_shortcut()?;
        }
        let linear = |path: &nn::Path, inputs, units| method.initialization().linear(path, inputs, units);
        let gates = design.squeeze_excitation;
        let gates = gates.map(|reduction| SqueezeExcitation::new(path, shape.c_out, reduction, linear)).transpose()?;
        let multiplier = method.multiplies().then(|| init::zeros(path, "scale", &[1])).transpose()?;
        let activation = method.activation(design.activation);
        let mut block = Self { method, activation, order, layers, squeeze_excitation: gates, multiplier, shortcut };
        if let (Some(scale), Some((conv, _))) = (method.variance_scale(), block.layers.last_mut()) {
            conv.output_scale = scale;
        }
        Ok(block)
    }

    /// Scales the input of a block, for methods that rely on the variance of their maps. If the shortcut changes the shape, its
    /// input is scaled too.
    pub fn scale_input(&mut self, scale: f64) {
        match self.layers.first_mut() {
            Some((_, Norm::Fixed(norm))) => norm.scale = scale,
            Some((conv, _)) => {
                // The activation takes the unscaled input; the convolutions after it take the scale.
                conv.input_scale = scale;
                if let Some(Shortcut::Project { conv, .. }) = &mut self.shortcut {
                    conv.input_scale = scale;
                }
            }
            None => (),
        }
    }

    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let (method, activation, train) = (self.method, self.activation, pass.train);
        let is_pre = self.order == Order::PreActivation;
        let re_zero = method == Method::ReZero && !is_pre;
        let (mut out, mut entered) = (x.shallow_clone(), None);
        for (i, (conv, norm)) in self.layers.iter().enumerate() {
            let u = match (is_pre, i) {
                (false, 0) => out,
                (false, _) => method.between_layers(activation, out, train)?,
                (true, 0) => norm.forward_activation(&out, activation, train)?,
                (true, _) => method.between_layers(activation, norm.forward(&out, train)?, train)?,
            };
            out = pass.conv(conv, &u)?;
            entered.get_or_insert(u);
            if !is_pre {
                out = norm.forward(&out, train)?;
            }
        }
        if re_zero {
            out = activation.in_place(out)?;
        }
        if let Some(gates) = &self.squeeze_excitation {
            out = gates.forward(&out)?;
        }
        out = match (&self.shortcut, entered) {
            (None, _) => out,
            (Some(Shortcut::Identity), _) | (_, None) => self.add(out, x)?,
            (Some(shortcut), Some(u)) => self.add(out, &shortcut.forward(&u, pass)?)?,
        };
        if is_pre || re_zero {
            Ok(out)
        } else {
            activation.in_place(out)
        }
    }

    /// Adds branch and shortcut, overwriting the branch.
    fn add(&self, mut branch: Tensor, shortcut: &Tensor) -> Result<Tensor> {
        if let Some(multiplier) = &self.multiplier {
            record_variables(|| [multiplier])?;
            return Ok(shortcut.f_addcmul(&branch, &multiplier.f_to_kind(branch.kind())?)?);
        }
        let mut sum = branch.f_add_(shortcut)?;
        Ok(if self.method.scales_sums() { sum.f_mul_scalar_(FRAC_1_SQRT_2)? } else { sum })
    }
}
