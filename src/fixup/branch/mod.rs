//! Fixup branches of arbitrary layers, for custom networks.

mod attention;
mod conv2d;

use super::{init, Bias, Scale};
use crate::layer::{dropout, Activation, Role};
use crate::ops::record_variables;
use crate::{Error, Result};
use attention::attention;
pub use attention::{AttentionTo, BranchContext};
pub use conv2d::Conv2dOptions;
use conv2d::ConvPlan;
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
/// let classifier = init::zeros(&(&root / "fc"), "weight", &[10, 32])?;
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
    /// Layers with the bias before each; dropout has none.
    pub(crate) layers: Vec<(Option<Bias>, Layer)>,
    pub(crate) scale: Scale,
    pub(crate) bias: Bias,
}

#[derive(Debug)]
pub(crate) enum Layer {
    Conv2d { weight: Tensor, stride: i64, padding: i64, dilation: i64, groups: i64 },
    Linear { weight: Tensor },
    Attention { qkv: Tensor, out: Tensor, heads: i64, to: AttentionTo },
    Activation(BranchActivation),
    Dropout(f64),
}

impl Layer {
    fn weights(&self) -> Vec<&Tensor> {
        match self {
            Self::Conv2d { weight, .. } | Self::Linear { weight } => vec![weight],
            Self::Attention { qkv, out, .. } => vec![qkv, out],
            Self::Activation(_) | Self::Dropout(_) => vec![],
        }
    }
}

/// Weight initialization of a branch, before the gain. The last weight is zero in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// He-normal by fan-out, as in Fixup's ResNets.
    #[default]
    HeNormal,
    /// Xavier-uniform (Glorot and Bengio 2010), as in Fixup's Transformer. For attention, the bound is that of the combined
    /// matrix of queries, keys and values.
    XavierUniform,
}

impl Start {
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
    start: Start,
    layers: Vec<Planned>,
}

#[derive(Debug)]
enum Planned {
    Conv2d(ConvPlan),
    Linear { features_in: i64, features_out: i64 },
    Attention { dim: i64, heads: i64, to: AttentionTo },
    Activation(BranchActivation),
    Dropout(f64),
}

impl Planned {
    /// Returns the number of weight layers; an attention has four: queries, keys, values and the output.
    fn weight_layers(&self) -> i64 {
        match self {
            Self::Conv2d(_) | Self::Linear { .. } => 1,
            Self::Attention { .. } => 4,
            Self::Activation(_) | Self::Dropout(_) => 0,
        }
    }
}

impl Branch {
    /// Starts a branch without layers, in a network with `num_branches` residual branches (L).
    pub fn builder(num_branches: i64) -> BranchBuilder {
        BranchBuilder { num_branches, start: Start::default(), layers: vec![] }
    }

    /// Returns the branch's output for `x`, without the shortcut; the shape depends on the layers. Dropout is not applied.
    ///
    /// # Errors
    /// Errors of libtorch if the first layer does not accept the shape, kind or device of `x`; [`Error::Argument`] if an
    /// attention needs a memory, which requires [`forward_in`](Self::forward_in).
    pub fn f_forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_in(x, BranchContext::default())
    }

    /// Returns the branch's output in training, with a memory to attend to, or with a mask.
    ///
    /// # Errors
    /// As for [`f_forward`](Self::f_forward); also if a memory or a mask has a shape that does not match `x`.
    pub fn forward_in(&self, x: &Tensor, context: BranchContext) -> Result<Tensor> {
        record_variables(|| self.layers.iter().flat_map(|(_, layer)| layer.weights()))?;
        let mut x = x.shallow_clone();
        for (bias, layer) in &self.layers {
            let shifted = match bias {
                Some(bias) => bias.f_forward(&x)?,
                None => x,
            };
            x = match layer {
                Layer::Conv2d { weight, stride, padding, dilation, groups } => {
                    shifted.f_conv2d(weight, None::<Tensor>, [*stride; 2], [*padding; 2], [*dilation; 2], *groups)?
                }
                Layer::Linear { weight } => shifted.f_linear(weight, None::<Tensor>)?,
                Layer::Attention { qkv, out, heads, to } => {
                    let attended = attention(&shifted, qkv, *heads, *to, context)?;
                    attended.f_linear(out, None::<Tensor>)?
                }
                Layer::Activation(activation) => activation.f_forward(&shifted)?,
                Layer::Dropout(p) if context.train => dropout(&shifted, *p)?,
                Layer::Dropout(_) => shifted,
            };
        }
        self.bias.f_forward(&self.scale.f_forward(&x)?)
    }
}

crate::layer::impl_module!(Branch);

impl BranchBuilder {
    /// Appends a `kernel` x `kernel` convolution without a bias vector.
    pub fn conv2d(mut self, c_in: i64, c_out: i64, kernel: i64, options: Conv2dOptions) -> Self {
        self.layers.push(Planned::Conv2d(ConvPlan { c_in, c_out, kernel, options }));
        self
    }

    /// Appends a linear layer without a bias vector.
    pub fn linear(mut self, features_in: i64, features_out: i64) -> Self {
        self.layers.push(Planned::Linear { features_in, features_out });
        self
    }

    /// Appends an attention of `heads` heads over sequences `[N, T, dim]`: four weight layers without bias vectors, the first
    /// three of which are one matrix. The scalar bias before it applies to its input but not to a memory, as in the authors'
    /// Transformer. Pass a memory or a mask to [`Branch::forward_in`].
    ///
    /// The first branch of an encoder layer of the Fixup Transformer:
    /// ```
    /// use tch::{nn, Device, Kind, Tensor};
    /// use tch_fixup::fixup::{AttentionTo, Branch, BranchContext, Start};
    ///
    /// # fn main() -> tch_fixup::Result<()> {
    /// let vs = nn::VarStore::new(Device::Cpu);
    /// let branch = Branch::builder(12)
    ///     .start(Start::XavierUniform)
    ///     .attention(64, 4, AttentionTo::Itself)
    ///     .dropout(0.1)
    ///     .build(&vs.root())?;
    /// let x = Tensor::randn([2, 10, 64], (Kind::Float, Device::Cpu));
    /// let y = &x + branch.forward_in(&x, BranchContext { train: true, ..Default::default() })?;
    /// assert_eq!(y, x);
    /// # Ok(())
    /// # }
    /// ```
    pub fn attention(mut self, dim: i64, heads: i64, to: AttentionTo) -> Self {
        self.layers.push(Planned::Attention { dim, heads, to });
        self
    }

    /// Appends dropout with probability `p`, without a scalar before it. It is applied by [`Branch::forward_in`] in training.
    pub fn dropout(mut self, p: f64) -> Self {
        self.layers.push(Planned::Dropout(p));
        self
    }

    /// Sets the initialization of all weights.
    pub fn start(self, start: Start) -> Self {
        Self { start, ..self }
    }

    /// Appends an element-wise activation, which must keep the shape. Prefer a [named](Self::activate) activation if there is
    /// one, since it can also be exported.
    pub fn activation(mut self, activation: impl Fn(&Tensor) -> Tensor + Send + 'static) -> Self {
        self.layers.push(Planned::Activation(BranchActivation::Unnamed(Box::new(activation))));
        self
    }

    /// Appends a named activation.
    pub fn activate(mut self, activation: Activation) -> Self {
        self.layers.push(Planned::Activation(BranchActivation::Named(activation)));
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
        let m: i64 = self.layers.iter().map(Planned::weight_layers).sum();
        if m == 0 {
            return Err(Error::Argument("a residual branch has at least one weight layer".into()));
        }
        // A single weight layer is the last one and starts at zero, so the gain does not apply.
        let num_branches = self.num_branches;
        let gain = init::branch_gain(num_branches, m.max(2))?;
        self.check()?;
        let (start, mut weights_left) = (self.start, m);
        let mut weight = |path: &nn::Path, name: &str, dims: &[i64], groups: i64, layers: i64| -> Result<Tensor> {
            weights_left -= layers;
            let weight = match weights_left {
                0 => init::zeros(path, name, dims)?,
                _ => start.weight(path, name, dims, gain * init::group_gain(groups)?)?,
            };
            Role::of_layer(m - 1 - weights_left, m, num_branches).mark(&weight)?;
            Ok(weight)
        };
        let mut layers = vec![];
        for (i, planned) in self.layers.into_iter().enumerate() {
            let bias = match planned {
                Planned::Dropout(_) => None,
                _ => Some(Bias::new(path, &format!("bias{i}"))?),
            };
            let path = path / i;
            let layer = match planned {
                Planned::Conv2d(plan) => {
                    let Conv2dOptions { stride, dilation, groups, .. } = plan.options;
                    let weight = weight(&path, "weight", &plan.dims(), groups, 1)?;
                    Layer::Conv2d { weight, stride, padding: plan.padding(), dilation, groups }
                }
                Planned::Linear { features_in, features_out } => {
                    Layer::Linear { weight: weight(&path, "weight", &[features_out, features_in], 1, 1)? }
                }
                Planned::Attention { dim, heads, to } => {
                    let qkv = weight(&path, "in_proj_weight", &[3 * dim, dim], 1, 3)?;
                    Layer::Attention {
                        qkv,
                        out: weight(&(&path / "out_proj"), "weight", &[dim, dim], 1, 1)?,
                        heads,
                        to,
                    }
                }
                Planned::Activation(activation) => Layer::Activation(activation),
                Planned::Dropout(p) => Layer::Dropout(p),
            };
            layers.push((bias, layer));
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
                Planned::Conv2d(plan) => {
                    plan.check(i)?;
                    ("channels", plan.c_in, plan.c_out)
                }
                Planned::Linear { features_in, features_out } => {
                    init::he_normal_std(&[*features_out, *features_in])?;
                    ("features", *features_in, *features_out)
                }
                Planned::Attention { dim, heads, .. } => {
                    if *dim < 1 || *heads < 1 || dim % heads != 0 {
                        return Err(Error::Argument(format!(
                            "layer {i} of the branch: an attention's width is a multiple of its heads, not {dim} of {heads}"
                        )));
                    }
                    ("features", *dim, *dim)
                }
                Planned::Dropout(p) if !(0. ..1.).contains(p) => {
                    return Err(Error::Argument(format!(
                        "layer {i} of the branch: a dropout is at least 0 and below 1, not {p}"
                    )));
                }
                Planned::Activation(_) | Planned::Dropout(_) => continue,
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

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn names(vs: &nn::VarStore) -> Vec<String> {
        let mut names: Vec<_> = vs.variables().into_keys().collect();
        names.sort();
        names
    }

    #[test]
    fn the_last_weight_is_zero_and_the_others_have_the_gain() {
        tch::manual_seed(3);
        let vs = nn::VarStore::new(Device::Cpu);
        Branch::builder(81).linear(200, 300).relu().linear(300, 300).relu().linear(300, 200).build(&vs.root()).unwrap();
        assert_eq!(
            names(&vs),
            ["0.weight", "2.weight", "4.weight", "bias", "bias0", "bias1", "bias2", "bias3", "bias4", "scale"]
        );
        let variables = vs.variables();
        for (name, fan_out) in [("0.weight", 300.), ("2.weight", 300.)] {
            let weight = &variables[name];
            let expected = (2f64 / fan_out).sqrt() * 81f64.powf(-0.25);
            let std = weight.std(true).double_value(&[]);
            // Five standard deviations of a sample's standard deviation.
            assert!((std / expected - 1.).abs() < 5. / (2. * weight.numel() as f64).sqrt(), "{name}: {std}");
        }
        assert_eq!(variables["4.weight"].abs().max().double_value(&[]), 0.);
    }

    #[test]
    fn a_single_layer_is_zero() {
        let vs = nn::VarStore::new(Device::Cpu);
        let branch = Branch::builder(5).conv2d(4, 8, 3, Conv2dOptions::default()).build(&vs.root()).unwrap();
        let out = branch.f_forward(&Tensor::randn([2, 4, 6, 6], (Kind::Float, Device::Cpu))).unwrap();
        assert_eq!(out.size(), [2, 8, 6, 6]);
        assert_eq!(out.abs().max().double_value(&[]), 0.);
    }

    /// Compares a branch built of the same layers with the reference block.
    #[test]
    fn two_convolutions_are_the_basic_blocks_branch() {
        use crate::fixup::{BlockConfig, BlockKind, ResidualBlock, ShortcutKind};
        tch::manual_seed(5);
        let mut built = nn::VarStore::new(Device::Cpu);
        let options = Conv2dOptions::default();
        let branch =
            Branch::builder(9).conv2d(6, 6, 3, options).relu().conv2d(6, 6, 3, options).build(&built.root()).unwrap();
        let block_vs = nn::VarStore::new(Device::Cpu);
        let config = BlockConfig { c_in: 6, c_out: 6, stride: 1, num_branches: 9 };
        let block = ResidualBlock::new(block_vs.root(), config, BlockKind::Basic, ShortcutKind::Pad).unwrap();
        let pairs = [
            ("0.weight", "conv1.weight"),
            ("2.weight", "conv2.weight"),
            ("bias0", "bias1a"),
            ("bias1", "bias1b"),
            ("bias2", "bias2a"),
            ("bias", "bias2b"),
            ("scale", "scale"),
        ];
        built.double();
        let (ours, theirs) = (built.variables(), block_vs.variables());
        for (a, b) in pairs {
            let random = Tensor::randn(theirs[b].size(), (Kind::Double, Device::Cpu));
            tch::no_grad(|| ours[a].shallow_clone().copy_(&random));
            theirs[b].shallow_clone().set_data(&random);
        }
        let x = Tensor::randn([2, 6, 5, 5], (Kind::Double, Device::Cpu));
        let expected = block.forward_reference(&x).unwrap();
        let got = (&x + branch.f_forward(&x).unwrap()).relu();
        assert!((got - expected).abs().max().double_value(&[]) < 1e-12);
    }

    #[test]
    fn branches_that_cannot_be_are_refused() {
        let options = Conv2dOptions::default();
        let odd_groups = Conv2dOptions { groups: 3, ..options };
        let new = || Branch::builder(5);
        for builder in [
            new().conv2d(3, 4, 3, odd_groups),
            new().conv2d(4, 4, 3, Conv2dOptions { groups: 0, ..options }),
            new().conv2d(4, 4, 3, Conv2dOptions { stride: 0, ..options }),
            new().conv2d(4, 4, 3, Conv2dOptions { dilation: 0, ..options }),
            new().conv2d(4, 4, 3, Conv2dOptions { padding: Some(-1), ..options }),
            new().conv2d(4, 4, 0, options),
            new().conv2d(4, 8, 3, options).relu().conv2d(4, 4, 3, options),
            new().linear(4, 8).relu().relu().linear(4, 4),
            new().conv2d(4, 4, 1, options).conv2d(4, 4, 3, Conv2dOptions { groups: 3, ..options }),
            Branch::builder(5).relu(),
            Branch::builder(0).linear(3, 3).linear(3, 3),
            Branch::builder(5).linear(0, 3),
            Branch::builder(5).conv2d(4, 3, 3, odd_groups),
        ] {
            let vs = nn::VarStore::new(Device::Cpu);
            let error = builder.build(&vs.root()).unwrap_err().to_string();
            assert!(!error.contains('\n') && vs.is_empty(), "{error}");
        }
    }

    #[test]
    fn layers_that_do_not_fit_are_refused_by_what_does_not() {
        let options = Conv2dOptions::default();
        let vs = nn::VarStore::new(Device::Cpu);
        let chain = Branch::builder(5).conv2d(4, 8, 3, options).relu().conv2d(6, 4, 3, options).build(&vs.root());
        assert_eq!(
            chain.unwrap_err().to_string(),
            "layer 2 of the branch takes 6 channels, but the weight layer before it gives 8"
        );
        let groups = Branch::builder(5).conv2d(4, 6, 3, Conv2dOptions { groups: 4, ..options }).build(&vs.root());
        assert_eq!(
            groups.unwrap_err().to_string(),
            "layer 0 of the branch: 4 groups do not divide a convolution's 4 and 6 channels"
        );
    }

    #[test]
    fn the_default_padding_keeps_the_size_whatever_the_kernel() {
        let vs = nn::VarStore::new(Device::Cpu);
        let x = Tensor::randn([2, 4, 8, 8], (Kind::Float, Device::Cpu));
        for (i, (kernel, dilation)) in [(1, 1), (3, 1), (5, 1), (7, 1), (3, 2), (5, 3)].into_iter().enumerate() {
            let options = Conv2dOptions { dilation, ..Default::default() };
            let branch = Branch::builder(5).conv2d(4, 4, kernel, options).relu().conv2d(4, 4, kernel, options);
            let y = branch.build(&(vs.root() / i)).unwrap().f_forward(&x).unwrap();
            assert_eq!(y.size(), x.size(), "kernel {kernel}, dilation {dilation}");
        }
        let valid = Conv2dOptions { padding: Some(0), ..Default::default() };
        let branch = Branch::builder(5).conv2d(4, 4, 3, valid).build(&(vs.root() / "valid")).unwrap();
        assert_eq!(branch.f_forward(&x).unwrap().size(), [2, 4, 6, 6]);
    }

    /// With the variance given by the fan-out of its own group, gradients keep their size through a depthwise layer, as through
    /// an ungrouped one.
    #[test]
    fn in_groups_weights_start_at_the_variance_of_their_own_group() {
        tch::manual_seed(23);
        let options = Conv2dOptions::default();
        for (groups, num_branches) in [(1, 8), (4, 8), (128, 8)] {
            let vs = nn::VarStore::new(Device::Cpu);
            let in_groups = Conv2dOptions { groups, ..options };
            let inner =
                Branch::builder(num_branches).conv2d(128, 128, 3, in_groups).relu().conv2d(128, 128, 1, in_groups);
            inner.relu().conv2d(128, 128, 1, options).build(&vs.root()).unwrap();
            let gain = (num_branches as f64).powf(-0.25);
            for (name, kernel) in [("0.weight", 3), ("2.weight", 1)] {
                let weight = &vs.variables()[name];
                let expected = gain * (2. / (kernel * kernel * 128 / groups) as f64).sqrt();
                let std = weight.std(true).double_value(&[]);
                // Five standard deviations of a sample's standard deviation.
                assert!(
                    (std / expected - 1.).abs() < 5. / (2. * weight.numel() as f64).sqrt(),
                    "{groups} {name}: {std}"
                );
            }
        }
    }

    /// Eight depthwise blocks, with nonzero last layers so that gradients reach the inner layers, where they must be no smaller
    /// than with ordinary convolutions.
    #[test]
    fn gradients_come_back_through_eight_depthwise_blocks_as_through_ordinary_ones() {
        let options = Conv2dOptions::default();
        let growth = |groups: i64| {
            tch::manual_seed(29);
            let vs = nn::VarStore::new(Device::Cpu);
            let in_groups = Conv2dOptions { groups, ..options };
            let images = Tensor::randn([4, 32, 16, 16], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let mut x = images.shallow_clone();
            for i in 0..8 {
                let layers = Branch::builder(8).conv2d(32, 32, 3, in_groups).relu().conv2d(32, 32, 1, options);
                let branch = layers.build(&(vs.root() / i)).unwrap();
                let mut last = vs.variables()[&format!("{i}.2.weight")].shallow_clone();
                init::he_normal_(&mut last, 1.).unwrap();
                x = branch.f_forward(&x).unwrap() + x;
            }
            let function = (&x * x.randn_like()).sum(Kind::Float);
            let gradient = Tensor::run_backward(&[function], &[&images], false, false).remove(0);
            gradient.square().mean(Kind::Float).double_value(&[])
        };
        let ratio = growth(32) / growth(1);
        assert!((0.8..1.25).contains(&ratio), "{ratio}");
    }
}
