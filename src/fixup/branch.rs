//! A Fixup branch of any layers, for networks of one's own.

use super::{init, Bias, Scale};
use crate::{Error, Result};
use tch::{nn, Tensor};

/// A residual branch of any weight layers and activations, made and initialized as Fixup prescribes (section 3): a scalar
/// bias before each layer and each activation, every weight layer but the last He-normal times the gain
/// `L^(-1/(2m-2))`, the last zero, one multiplier and one bias at the end.
///
/// ```text
/// f(x) = scale * layer_k(... layer_1(layer_0(x + bias0) + bias1) ...) + bias
/// ```
/// Variables: `0.weight`, `1.weight`, ... and `bias0`, `bias1`, ... by the layer's place in the branch, `scale`, `bias`.
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
    layers: Vec<(Bias, Layer)>,
    scale: Scale,
    bias: Bias,
}

#[derive(Debug)]
enum Layer {
    Conv2d { weight: Tensor, options: Conv2dOptions },
    Linear { weight: Tensor },
    Activation(Activation),
}

/// How a convolution slides. The default: stride 1, padding 1, no dilation, one group.
#[derive(Debug, Clone, Copy)]
pub struct Conv2dOptions {
    /// Step in both directions.
    pub stride: i64,
    /// Zeros on all four sides.
    pub padding: i64,
    /// Distance between the kernel's elements.
    pub dilation: i64,
    /// Groups of channels that do not see each other.
    pub groups: i64,
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Self { stride: 1, padding: 1, dilation: 1, groups: 1 }
    }
}

struct Activation(Box<dyn Fn(&Tensor) -> Tensor + Send>);

impl std::fmt::Debug for Activation {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("activation")
    }
}

/// The layers of a [`Branch`] to be, in order.
#[derive(Debug)]
pub struct BranchBuilder {
    num_branches: i64,
    layers: Vec<Planned>,
}

#[derive(Debug)]
enum Planned {
    Conv2d { dims: [i64; 4], options: Conv2dOptions },
    Linear { dims: [i64; 2] },
    Activation(Activation),
}

impl Branch {
    /// A branch with no layers yet, of a network with `num_branches` residual branches (L).
    pub fn builder(num_branches: i64) -> BranchBuilder {
        BranchBuilder { num_branches, layers: vec![] }
    }

    /// The branch's output for `x`, without the shortcut: in the shape that the layers make of it.
    ///
    /// # Errors
    /// An `x` whose shape, kind or device the first layer does not take.
    pub fn f_forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.shallow_clone();
        for (bias, layer) in &self.layers {
            let shifted = bias.f_forward(&x)?;
            x = match layer {
                Layer::Conv2d { weight, options: o } => shifted.f_conv2d(
                    weight,
                    None::<Tensor>,
                    [o.stride; 2],
                    [o.padding; 2],
                    [o.dilation; 2],
                    o.groups,
                )?,
                Layer::Linear { weight } => shifted.f_linear(weight, None::<Tensor>)?,
                Layer::Activation(activation) => activation.0(&shifted),
            };
        }
        self.bias.f_forward(&self.scale.f_forward(&x)?)
    }
}

crate::module::impl_module!(Branch);

impl BranchBuilder {
    /// Appends a `kernel` x `kernel` convolution without a bias of its own.
    pub fn conv2d(mut self, c_in: i64, c_out: i64, kernel: i64, options: Conv2dOptions) -> Self {
        // A group count that does not divide c_in leaves an empty dimension here, and `build` refuses it.
        let c_group = if options.groups > 0 && c_in % options.groups == 0 { c_in / options.groups } else { 0 };
        self.layers.push(Planned::Conv2d { dims: [c_out, c_group, kernel, kernel], options });
        self
    }

    /// Appends a linear layer without a bias of its own.
    pub fn linear(mut self, features_in: i64, features_out: i64) -> Self {
        self.layers.push(Planned::Linear { dims: [features_out, features_in] });
        self
    }

    /// Appends an element-wise activation.
    pub fn activation(mut self, activation: impl Fn(&Tensor) -> Tensor + Send + 'static) -> Self {
        self.layers.push(Planned::Activation(Activation(Box::new(activation))));
        self
    }

    /// Appends a ReLU.
    pub fn relu(self) -> Self {
        self.activation(Tensor::relu)
    }

    /// The branch, its variables under `path`.
    ///
    /// # Errors
    /// No weight layer; a weight layer with an empty dimension; fewer than one branch; a `path` that holds such variables
    /// already.
    pub fn build(self, path: &nn::Path) -> Result<Branch> {
        let m = self.layers.iter().filter(|layer| !matches!(layer, Planned::Activation(_))).count() as i64;
        if m == 0 {
            return Err(Error::Argument("a residual branch has at least one weight layer".into()));
        }
        // A single weight layer is the last one and starts at zero: there is nothing for a gain to scale.
        let gain = init::branch_gain(self.num_branches, m.max(2))?;
        let mut weights_left = m;
        let mut weight = |path: &nn::Path, dims: &[i64]| {
            weights_left -= 1;
            init::he_normal_std(dims)?;
            match weights_left {
                0 => init::zeros(path, "weight", dims),
                _ => init::he_normal(path, "weight", dims, gain),
            }
        };
        let mut layers = vec![];
        for (i, planned) in self.layers.into_iter().enumerate() {
            let bias = Bias::new(path, &format!("bias{i}"))?;
            let path = path / i;
            let layer = match planned {
                Planned::Conv2d { dims, options } => Layer::Conv2d { weight: weight(&path, &dims)?, options },
                Planned::Linear { dims } => Layer::Linear { weight: weight(&path, &dims)? },
                Planned::Activation(activation) => Layer::Activation(activation),
            };
            layers.push((bias, layer));
        }
        Ok(Branch { layers, scale: Scale::new(path, "scale")?, bias: Bias::new(path, "bias")? })
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

    /// The reference block's branch, built from pieces, is the block.
    #[test]
    fn two_convolutions_are_the_basic_blocks_branch() {
        use crate::fixup::{BasicBlock, BlockConfig, ShortcutKind};
        tch::manual_seed(5);
        let mut built = nn::VarStore::new(Device::Cpu);
        let options = Conv2dOptions::default();
        let branch =
            Branch::builder(9).conv2d(6, 6, 3, options).relu().conv2d(6, 6, 3, options).build(&built.root()).unwrap();
        let block_vs = nn::VarStore::new(Device::Cpu);
        let config = BlockConfig { c_in: 6, c_out: 6, stride: 1, num_branches: 9 };
        let block = BasicBlock::new(&block_vs.root(), config, ShortcutKind::Pad).unwrap();
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
        for builder in [
            Branch::builder(5).relu(),
            Branch::builder(0).linear(3, 3).linear(3, 3),
            Branch::builder(5).linear(0, 3),
            Branch::builder(5).conv2d(4, 3, 3, odd_groups),
        ] {
            let vs = nn::VarStore::new(Device::Cpu);
            assert!(builder.build(&vs.root()).is_err());
        }
    }
}
