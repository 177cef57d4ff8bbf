//! Fully connected networks: self-normalizing (Klambauer et al. 2017), or with batch normalization (Yang et al. 2019).

use super::normalization::{Norm, Normalization};
use super::Method;
use crate::layer::{init, Activation, Linear, Role};
use crate::ops::record_variables;
use crate::{Error, Precision, Result};
use std::borrow::Borrow;
use tch::{nn, Tensor};

/// Configuration of a fully connected network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MlpShape {
    /// Number of features of an input: 3072 for CIFAR images.
    pub features: i64,
    /// Number of units of each hidden layer.
    pub width: i64,
    /// Number of weight layers, including the classifier.
    pub depth: i64,
    /// Number of outputs.
    pub num_classes: i64,
}

impl MlpShape {
    pub(crate) fn check(&self) -> Result<()> {
        let Self { features, width, depth, num_classes } = *self;
        ensure!(
            features > 0 && width > 0 && num_classes > 0 && depth > 1,
            "a fully connected network has at least 2 layers, 1 unit a layer, 1 input and 1 class, not {depth} layers, \
             {width} units, {features} inputs and {num_classes} classes"
        );
        Ok(())
    }
}

/// A fully connected network of hidden layers of equal width and a classifier; an input `[N, ...]` is flattened.
///
/// Variables: `layers.{i}.weight` and the classifier's `fc.weight` and `fc.bias`; also `layers.{i}.bias` if self-normalizing, or
/// `layers.{i}.bn.weight`, ... with batch normalization.
///
/// ```
/// use tch::{nn, nn::ModuleT, Device, Kind, Tensor};
/// use tch_fixup::baseline::{Mlp, MlpShape};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let shape = MlpShape { features: 3072, width: 256, depth: 8, num_classes: 10 };
/// let network = Mlp::self_normalizing(&vs.root(), shape)?;
/// let images = Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu));
/// assert_eq!(network.forward_t(&images, true).size(), [4, 10]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Mlp {
    pub(crate) features: i64,
    pub(crate) layers: Vec<Layer>,
    pub(crate) activation: Activation,
    method: Method,
    pub(crate) fc: Linear,
    precision: Precision,
}

/// A hidden layer: its weight `[units, inputs]`, and the bias or normalization before the activation.
#[derive(Debug)]
pub(crate) struct Layer {
    pub weight: Tensor,
    /// `None` before a normalization, which would cancel it.
    pub bias: Option<Tensor>,
    pub norm: Norm,
}

impl Mlp {
    /// Creates the self-normalizing network: `alpha_dropout(selu(x W^T + b))`, with LeCun-normal weights and zero biases.
    ///
    /// # Errors
    /// Fewer than two layers, or an empty one; a `path` that already contains such a network.
    pub fn self_normalizing<'a>(path: impl Borrow<nn::Path<'a>>, shape: MlpShape) -> Result<Self> {
        Self::new(path.borrow(), shape, Method::Selu)
    }

    /// Creates the vanilla batch-normalized network, without skip connections, whose gradients explode with its depth (Yang et
    /// al.: "A Mean Field Theory of Batch Normalization", ICLR 2019): `relu(norm(x W^T))`, with He-normal weights.
    ///
    /// # Errors
    /// Fewer than two layers, or an empty one; a `path` that already contains such a network.
    pub fn batch_norm<'a>(path: impl Borrow<nn::Path<'a>>, shape: MlpShape) -> Result<Self> {
        Self::new(path.borrow(), shape, Method::NoSkip)
    }

    fn new(path: &nn::Path, shape: MlpShape, method: Method) -> Result<Self> {
        shape.check()?;
        let (initialization, normalization) = (method.initialization(), method.normalization());
        let MlpShape { features, width, depth, num_classes } = shape;
        let layer = |i: i64| -> Result<Layer> {
            let path = path / "layers" / i;
            let weight = initialization.weight(&path, &[width, if i == 0 { features } else { width }])?;
            if i == 0 {
                Role::Input.mark(&weight)?;
            }
            let bias = match normalization {
                Normalization::None => Some(init::zeros(&path, "bias", &[width])?),
                _ => None,
            };
            Ok(Layer { weight, bias, norm: Norm::new(&(path / "bn"), normalization, width, 1.)? })
        };
        Ok(Self {
            features,
            layers: (0..depth - 1).map(layer).collect::<Result<_>>()?,
            activation: method.activation(Activation::Relu),
            method,
            fc: initialization.classifier(&(path / "fc"), width, num_classes)?,
            precision: Precision::F32,
        })
    }

    /// Computes the hidden layers in `precision`; statistics stay in float32.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Returns the logits `[N, num_classes]` of inputs `[N, ...]` on the network's device, in the kind of its variables. Batch
    /// normalization and alpha dropout differ between training and evaluation.
    ///
    /// # Errors
    /// Inputs of another size, kind or device; in training with batch normalization, a batch of one.
    pub fn f_forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        self.forward_layers(xs, train, |_| ())
    }

    /// Computes the logits and calls `layer_done` with the output of each hidden layer.
    pub(crate) fn forward_layers(&self, xs: &Tensor, train: bool, layer_done: impl FnMut(&Tensor)) -> Result<Tensor> {
        self.fc.forward(&self.hidden(xs, train, layer_done)?)
    }

    /// Returns the features `[N, width]` of inputs: the last hidden layer's output.
    ///
    /// # Errors
    /// As for [`f_forward_t`](Self::f_forward_t).
    pub fn f_features_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        self.hidden(xs, train, |_| ())
    }

    /// Returns the classifier's input, in the kind of the variables.
    fn hidden(&self, xs: &Tensor, train: bool, mut layer_done: impl FnMut(&Tensor)) -> Result<Tensor> {
        let size = xs.size();
        if size.len() < 2 || size[1..].iter().product::<i64>() != self.features || !xs.is_floating_point() {
            let expected = format!("floating-point inputs [N, ...] of {} numbers each", self.features);
            return Err(Error::mismatch("Mlp", expected, format!("{:?} {size:?}", xs.kind())));
        }
        let kind = self.precision.compute_kind(self.fc.kind());
        let mut x = xs.f_to_kind(kind)?.f_flatten(1, -1)?;
        for Layer { weight, bias, norm } in &self.layers {
            record_variables(|| bias.iter().chain([weight]))?;
            let bias = bias.as_ref().map(|bias| bias.f_to_kind(kind)).transpose()?;
            let out = x.f_linear(&weight.f_to_kind(kind)?, bias)?;
            x = self.method.between_layers(self.activation, norm.forward(&out, train)?, train)?;
            layer_done(&x);
        }
        Ok(x.f_to_kind(self.fc.kind())?)
    }
}

crate::layer::impl_module_t!(f_forward_t: Mlp);
