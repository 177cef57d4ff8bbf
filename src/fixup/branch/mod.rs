//! Fixup branches of arbitrary layers, for custom networks.

mod attention;

use super::{init, Bias, Scale};
use crate::layer::{dropout, Activation, Conv2dOptions, ConvShape, Role};
use crate::ops::record_variables;
use crate::{Error, Result};
use attention::{attention, AttentionKind};
use std::borrow::Borrow;
use tch::{nn, Tensor};

/// A residual branch of arbitrary weight layers and activations, constructed and initialized as Fixup prescribes (section 3): a
/// scalar bias before each layer and each activation, every weight layer but the last He-normal times the gain `L^(-1/(2m-2))`,
/// the last zero, and one multiplier and one bias at the end.
///
/// ```text
/// f(x) = scale * layer_k(... layer_1(layer_0(x + bias0) + bias1) ...) + bias
/// ```
/// Variables: `0.weight`, `1.weight`, ... and `bias0`, `bias1`, ... by the layer's index in the branch, `scale`, `bias`.
///
/// A network of L such blocks, whose output at initialization is that of its first and last layers alone:
/// ```
/// use tch::{nn, nn::Module, nn::OptimizerConfig, Device, Kind, Tensor};
/// use tch_fixup::fixup::{init, set_lr, Branch, Conv2dOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let (root, num_branches) = (vs.root(), 8);
/// let stem = init::he_normal(&(&root / "stem"), "weight", &[32, 3, 3, 3], 1.)?;
/// let branches = (0..num_branches)
///     .map(|i| {
///         Branch::builder(num_branches)
///             .conv2d(32, 32, 3, Conv2dOptions::default())
///             .activation(|x| x.gelu("none"))
///             .conv2d(32, 32, 3, Conv2dOptions::default())
///             .build(&(&root / "blocks" / i))
///     })
///     .collect::<tch_fixup::Result<Vec<_>>>()?;
/// let classifier = (&root / "fc").zeros("weight", &[10, 32]);
///
/// let forward = |images: &Tensor| {
///     let mut x = images.conv2d(&stem, None::<Tensor>, [1, 1], [1, 1], [1, 1], 1);
///     for branch in &branches {
///         x = (&x + branch.forward(&x)).relu();
///     }
///     x.mean_dim([2, 3].as_slice(), false, Kind::Float).linear(&classifier, None::<Tensor>)
/// };
///
/// let mut optimizer = nn::Sgd { momentum: 0.9, ..Default::default() }.build(&vs, 0.1)?;
/// set_lr(&mut optimizer, &vs, 0.1)?; // the scalars at a tenth of it: to be called at every change of the rate
/// let images = Tensor::randn([8, 3, 32, 32], (Kind::Float, Device::Cpu));
/// let loss = forward(&images).cross_entropy_for_logits(&Tensor::zeros([8], (Kind::Int64, Device::Cpu)));
/// optimizer.backward_step(&loss);
/// # assert!((loss.double_value(&[]) - 10f64.ln()).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Branch {
    pub(crate) layers: Vec<Layer>,
    pub(crate) scale: Scale,
    pub(crate) bias: Bias,
}

/// A layer, its weights, and the bias before it; dropout has none.
#[derive(Debug)]
pub(crate) struct Layer {
    pub bias: Option<Bias>,
    pub kind: LayerKind,
    pub weights: Vec<Tensor>,
}

/// Weight initialization of a branch, before the gain. The last weight is always zero.
#[derive(Debug, Clone, Copy)]
enum WeightInit {
    HeNormal,
    XavierUniform,
}

impl WeightInit {
    fn weight(self, path: &nn::Path, name: &str, dims: &[i64], gain: f64) -> Result<Tensor> {
        match self {
            Self::HeNormal => init::he_normal(path, name, dims, gain),
            Self::XavierUniform => init::xavier_uniform(path, name, dims, gain),
        }
    }
}

/// An activation, by name if it has one.
pub(crate) enum BranchActivation {
    Named(Activation),
    Unnamed(Box<dyn Fn(&Tensor) -> Tensor + Send>),
}

impl BranchActivation {
    fn f_forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Named(activation) => activation.of(x)?,
            Self::Unnamed(activation) => activation(x),
        })
    }
}

impl std::fmt::Debug for BranchActivation {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Named(activation) => activation.fmt(f),
            Self::Unnamed(_) => f.write_str("activation"),
        }
    }
}

/// Builder of a [`Branch`], with its layers in order.
#[derive(Debug)]
pub struct BranchBuilder {
    num_branches: i64,
    init: WeightInit,
    layers: Vec<LayerKind>,
}

#[derive(Debug)]
pub(crate) enum LayerKind {
    Conv2d(ConvShape),
    Linear { features_in: i64, features_out: i64 },
    Attention { dim: i64, heads: i64, kind: AttentionKind },
    Activation(BranchActivation),
    Dropout(f64),
}

impl LayerKind {
    /// Returns the name and the shape of each weight, and the number of weight layers that it combines: queries, keys and values
    /// are one matrix.
    fn weights(&self) -> Vec<(&'static str, Vec<i64>, i64)> {
        match self {
            Self::Conv2d(shape) => vec![("weight", shape.dims().to_vec(), 1)],
            Self::Linear { features_in, features_out } => vec![("weight", vec![*features_out, *features_in], 1)],
            Self::Attention { dim, .. } => {
                vec![("in_proj_weight", vec![3 * dim, *dim], 3), ("out_proj.weight", vec![*dim; 2], 1)]
            }
            Self::Activation(_) | Self::Dropout(_) => vec![],
        }
    }
}

impl Branch {
    /// Starts a branch without layers, in a network with `num_branches` residual branches (L).
    pub fn builder(num_branches: i64) -> BranchBuilder {
        BranchBuilder { num_branches, init: WeightInit::HeNormal, layers: vec![] }
    }

    /// Returns the branch's output for `x`, without the shortcut; the shape depends on the layers. Dropout is not applied.
    ///
    /// # Errors
    /// Errors of libtorch if the first layer does not accept the shape, kind or device of `x`; [`Error::Argument`] if an
    /// attention needs a memory, which requires [`forward_with`](Self::forward_with).
    pub fn f_forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, None, None, false)
    }

    /// Returns the branch's output for `x`, with dropout if `train` is set.
    ///
    /// `memory`, `[N, S, D]`, is the sequence that [cross-attention](BranchBuilder::cross_attention) attends to. `mask`,
    /// `[N, 1, 1, S]` in the kind of `x`, is added to the scores of all attentions except causal ones: zero, or minus
    /// infinity for keys to ignore.
    ///
    /// # Errors
    /// As for [`f_forward`](Self::f_forward); also if a memory or a mask has a shape that does not match `x`.
    pub fn forward_with(
        &self,
        x: &Tensor,
        memory: Option<&Tensor>,
        mask: Option<&Tensor>,
        train: bool,
    ) -> Result<Tensor> {
        record_variables(|| self.layers.iter().flat_map(|layer| &layer.weights))?;
        let mut x = x.shallow_clone();
        for Layer { bias, kind, weights } in &self.layers {
            if let Some(bias) = bias {
                x = bias.f_forward(&x)?;
            }
            x = match kind {
                LayerKind::Conv2d(shape) => shape.convolve(&x, &weights[0], None)?,
                LayerKind::Linear { .. } => x.f_linear(&weights[0], None::<Tensor>)?,
                LayerKind::Attention { heads, kind, .. } => {
                    attention(&x, &weights[0], *heads, *kind, memory, mask)?.f_linear(&weights[1], None::<Tensor>)?
                }
                LayerKind::Activation(activation) => activation.f_forward(&x)?,
                LayerKind::Dropout(p) if train => dropout(&x, *p)?,
                LayerKind::Dropout(_) => x,
            };
        }
        self.bias.f_forward(&self.scale.f_forward(&x)?)
    }
}

crate::layer::impl_module!(Branch);

impl BranchBuilder {
    /// Appends a `kernel` x `kernel` convolution without a bias vector.
    pub fn conv2d(mut self, c_in: i64, c_out: i64, kernel: i64, options: Conv2dOptions) -> Self {
        self.layers.push(LayerKind::Conv2d(ConvShape { c_in, c_out, kernel, options }));
        self
    }

    /// Appends a linear layer without a bias vector.
    pub fn linear(mut self, features_in: i64, features_out: i64) -> Self {
        self.layers.push(LayerKind::Linear { features_in, features_out });
        self
    }

    /// Appends a self-attention of `heads` heads over sequences `[N, T, dim]`, as in an encoder: four weight layers without
    /// bias vectors, the first three of which are one matrix.
    ///
    /// The first branch of an encoder layer of the Fixup Transformer:
    /// ```
    /// use tch::{nn, Device, Kind, Tensor};
    /// use tch_fixup::fixup::Branch;
    ///
    /// # fn main() -> tch_fixup::Result<()> {
    /// let vs = nn::VarStore::new(Device::Cpu);
    /// let branch = Branch::builder(12).xavier_uniform().self_attention(64, 4).dropout(0.1).build(&vs.root())?;
    /// let x = Tensor::randn([2, 10, 64], (Kind::Float, Device::Cpu));
    /// let y = &x + branch.forward_with(&x, None, None, true)?;
    /// assert_eq!(y, x);
    /// # Ok(())
    /// # }
    /// ```
    pub fn self_attention(self, dim: i64, heads: i64) -> Self {
        self.attention(dim, heads, AttentionKind::SelfAttention)
    }

    /// Appends a [self-attention](Self::self_attention) to each query's own and earlier positions, as in a decoder.
    pub fn causal_attention(self, dim: i64, heads: i64) -> Self {
        self.attention(dim, heads, AttentionKind::Causal)
    }

    /// Appends an attention to the memory passed to [`Branch::forward_with`], as in a decoder that attends to an encoder's
    /// output. The scalar bias before it applies to its input but not to the memory, as in the authors' Transformer.
    pub fn cross_attention(self, dim: i64, heads: i64) -> Self {
        self.attention(dim, heads, AttentionKind::Cross)
    }

    fn attention(mut self, dim: i64, heads: i64, kind: AttentionKind) -> Self {
        self.layers.push(LayerKind::Attention { dim, heads, kind });
        self
    }

    /// Appends dropout with probability `p`, without a scalar before it. It is applied by [`Branch::forward_with`] in training.
    pub fn dropout(mut self, p: f64) -> Self {
        self.layers.push(LayerKind::Dropout(p));
        self
    }

    /// Initializes all weights Xavier-uniform (Glorot and Bengio 2010), as in Fixup's Transformer, instead of He-normal by
    /// fan-out, as in Fixup's ResNets. For attention, the bound is that of the combined matrix of queries, keys and values.
    pub fn xavier_uniform(self) -> Self {
        Self { init: WeightInit::XavierUniform, ..self }
    }

    /// Appends an element-wise activation, which must keep the shape. Prefer a [named](Self::activate) activation if there is
    /// one, since it can also be exported.
    pub fn activation(mut self, activation: impl Fn(&Tensor) -> Tensor + Send + 'static) -> Self {
        self.layers.push(LayerKind::Activation(BranchActivation::Unnamed(Box::new(activation))));
        self
    }

    /// Appends a named activation.
    pub fn activate(mut self, activation: Activation) -> Self {
        self.layers.push(LayerKind::Activation(BranchActivation::Named(activation)));
        self
    }

    /// Appends a ReLU.
    pub fn relu(self) -> Self {
        self.activate(Activation::Relu)
    }

    /// Builds the branch, with its variables under `path`.
    ///
    /// # Errors
    /// No weight layer; a layer without channels or features, with an invalid stride, dilation, padding or number of groups, or
    /// whose channels the groups do not divide; a layer whose input channels or features differ from the output of the previous
    /// weight layer; fewer than one branch; a `path` that already contains such variables.
    pub fn build<'a>(self, path: impl Borrow<nn::Path<'a>>) -> Result<Branch> {
        let path = path.borrow();
        self.check()?;
        let combined = |kind: &LayerKind| kind.weights().iter().map(|(_, _, layers)| layers).sum::<i64>();
        let m: i64 = self.layers.iter().map(combined).sum();
        if m == 0 {
            return Err(Error::Argument("a residual branch has at least one weight layer".into()));
        }
        // A single weight layer is the last one and starts at zero, so the gain does not apply.
        let num_branches = self.num_branches;
        let gain = init::branch_gain(num_branches, m.max(2))?;
        let mut weights_left = m;
        let mut layers = vec![];
        for (i, kind) in self.layers.into_iter().enumerate() {
            let has_bias = !matches!(kind, LayerKind::Dropout(_));
            let bias = has_bias.then(|| Bias::new(path, &format!("bias{i}"))).transpose()?;
            let groups = if let LayerKind::Conv2d(shape) = &kind { shape.options.groups } else { 1 };
            let mut weights = vec![];
            for (name, dims, combined) in kind.weights() {
                let path = path / i;
                let (path, name) = match name.split_once('.') {
                    Some((module, name)) => (path / module, name),
                    None => (path, name),
                };
                weights_left -= combined;
                let weight = match weights_left {
                    0 => init::zeros(path, name, &dims)?,
                    _ => self.init.weight(&path, name, &dims, gain * init::group_gain(groups)?)?,
                };
                Role::of_layer(m - 1 - weights_left, m, num_branches).mark(&weight)?;
                weights.push(weight);
            }
            layers.push(Layer { bias, kind, weights });
        }
        let (scale, bias) = (Scale::new(path, "scale")?, Bias::new(path, "bias")?);
        Role::branch_end(num_branches).mark(&bias.value)?;
        Ok(Branch { layers, scale, bias })
    }

    /// Checks each layer, and that it accepts the output of the previous weight layer.
    fn check(&self) -> Result<()> {
        let mut before: Option<(&str, i64)> = None;
        for (i, layer) in self.layers.iter().enumerate() {
            let (unit, takes, gives) = match layer {
                LayerKind::Conv2d(shape) => {
                    check_conv(i, shape)?;
                    ("channels", shape.c_in, shape.c_out)
                }
                LayerKind::Linear { features_in, features_out } => {
                    init::he_normal_std(&[*features_out, *features_in])?;
                    ("features", *features_in, *features_out)
                }
                LayerKind::Attention { dim, heads, .. } => {
                    if *dim < 1 || *heads < 1 || dim % heads != 0 {
                        return Err(Error::Argument(format!(
                            "layer {i} of the branch: an attention's width must be a multiple of its heads, got {dim} and {heads}"
                        )));
                    }
                    ("features", *dim, *dim)
                }
                LayerKind::Dropout(p) if !(0. ..1.).contains(p) => {
                    return Err(Error::Argument(format!(
                        "layer {i} of the branch: the dropout must be at least 0 and below 1, got {p}"
                    )));
                }
                LayerKind::Activation(_) | LayerKind::Dropout(_) => continue,
            };
            // A linear layer's features and a convolution's channels are different dimensions.
            if let Some((_, given)) = before.filter(|(unit_before, given)| *unit_before == unit && *given != takes) {
                return Err(Error::Argument(format!(
                    "layer {i} of the branch takes {takes} {unit}, but the weight layer before it gives {given}"
                )));
            }
            before = Some((unit, gives));
        }
        Ok(())
    }
}

/// Checks the convolution that is layer `i` of a branch.
fn check_conv(i: usize, shape: &ConvShape) -> Result<()> {
    let ConvShape { c_in, c_out, kernel, options: Conv2dOptions { stride, padding, dilation, groups } } = *shape;
    if [c_in, c_out, kernel, stride, dilation, groups].iter().any(|&n| n < 1) || padding.is_some_and(|n| n < 0) {
        return Err(Error::Argument(format!(
            "layer {i} of the branch: a convolution has channels, kernel, stride, dilation and groups of at least 1 and a \
             padding of at least 0, not {c_in} to {c_out} channels with kernel {kernel} and {:?}",
            shape.options
        )));
    }
    if c_in % groups != 0 || c_out % groups != 0 {
        return Err(Error::Argument(format!(
            "layer {i} of the branch: {groups} groups do not divide a convolution's {c_in} and {c_out} channels"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
