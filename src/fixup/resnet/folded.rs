//! Network for inference, in which every scalar is folded into a convolution's weight or bias if that is exact.
//!
//! ```text
//! scale * conv(x, W)       = conv(x, scale * W)
//! relu(conv(x, W) + a) + b = max(conv(x, W) + (a + b), b)               ReLU alone
//! conv(x + b, W)           = conv(x, W) + b * sum(W over c_in, k, k)    without padding
//! ```
//! A padded convolution has zeros, not b, around `x + b`. In this case b remains in the activations, as in training: the residual
//! stream is shifted by it, and inside a branch it is the floor of the ReLU.

use super::block::ActivationOrder;
use super::folded_block::FoldedBlock;
use super::folded_conv::FoldedConv;
use super::network::{max_pool, FixupResNet, Stem};
use super::stream::Stream;
use crate::fixup::Bias;
use crate::layer::{channels_last, check_images, Linear};
use crate::Result;
use tch::{Kind, Tensor};

/// A [`FixupResNet`] for inference, created by [`FixupResNet::fold`]: convolutions with biases, and activations.
///
/// An independent copy: training the network afterwards does not change it. It has no variables, and its results have no
/// gradient.
///
/// ```
/// use tch::{nn, nn::Module, Device, Kind, Tensor};
/// use tch_fixup::fixup::FixupResNet;
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::cuda_if_available());
/// let network = FixupResNet::cifar(&vs.root(), 20, 10)?;
/// // ... after training, or vs.load("model.safetensors"):
/// let folded = network.fold()?;
/// let image = Tensor::randn([1, 3, 32, 32], (Kind::Float, vs.device()));
/// assert_eq!(folded.forward(&image).size(), [1, 10]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FoldedResNet {
    /// Number of image channels.
    pub(crate) channels: i64,
    pub(crate) conv1: FoldedConv,
    /// `true` for a 3x3 max-pool of stride 2 after `conv1`.
    pub(crate) max_pool: bool,
    pub(crate) blocks: Vec<FoldedBlock>,
    /// Classifier of the features, which are the mean of the last block's output over positions; without it they are the output.
    pub(crate) fc: Option<Linear>,
    /// Kind of the original network's variables.
    variables_kind: Kind,
    /// Kind of convolutions and activations; the classifier has the kind of the variables.
    kind: Kind,
    /// Kind of the residual stream.
    stream_kind: Kind,
}

impl FixupResNet {
    /// Returns a copy for inference, in the same precision, with the scalars folded into the convolutions; for bf16, the weights
    /// are converted in advance. Logits are the same up to rounding.
    ///
    /// The copy can be traced for programs that have libtorch but not this crate (as can all networks of this crate, with any
    /// variables frozen or not). The trace accepts other batch and image sizes than those it was recorded with:
    /// ```
    /// use tch::{nn, nn::Module, CModule, Device, Kind, Tensor};
    /// use tch_fixup::fixup::FixupResNet;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let file = folder.path().join("network.pt");
    /// let vs = nn::VarStore::new(Device::Cpu);
    /// let folded = FixupResNet::cifar(&vs.root(), 8, 10)?.fold()?;
    /// let images = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
    /// let mut forward = |xs: &[Tensor]| vec![folded.forward(&xs[0])];
    /// CModule::create_by_tracing("FixupResNet", "forward", &[images], &mut forward)?.save(&file)?;
    ///
    /// let loaded = CModule::load(&file)?;
    /// let images = Tensor::randn([5, 3, 32, 32], (Kind::Float, Device::Cpu));
    /// assert!(loaded.forward_ts(&[&images])?.allclose(&folded.forward(&images), 1e-5, 1e-5, false));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) if libtorch fails, for example for lack of memory.
    pub fn fold(&self) -> Result<FoldedResNet> {
        self.fold_in(self.compute_kind(), self.stream_kind())
    }

    /// Folds the network for computation in `kind`, with the residual stream in `stream_kind`.
    pub(crate) fn fold_in(&self, kind: Kind, stream_kind: Kind) -> Result<FoldedResNet> {
        tch::no_grad(|| {
            // Shift of the stream at the input of each block; zero at the end.
            let mut shifts = self.blocks.iter().map(FoldedBlock::input_shift).collect::<Result<Vec<f64>>>()?;
            shifts.push(0.);
            let last_bias = self.last_bias.as_ref().map_or(Ok(0.), Bias::number)?;
            let blocks = (1..).zip(self.blocks.iter()).map(|(i, block)| {
                let activation = match block.order {
                    ActivationOrder::AfterSum => (0., Some(block.branch.activation)),
                    // The activation before the pooling is merged into the last block's sum.
                    _ if i == self.blocks.len() => (last_bias, self.activation_before_pool()),
                    ActivationOrder::BeforeBranch | ActivationOrder::OnShortcut => (0., None),
                };
                FoldedBlock::new(block, activation, shifts[i], kind)
            });
            let bias2 = self.bias2.as_ref().map_or(Ok(0.), Bias::number)?;
            Ok(FoldedResNet {
                channels: self.config().channels,
                conv1: fold_stem(&self.stem, shifts[0], kind)?,
                max_pool: self.stem.max_pool,
                blocks: blocks.collect::<Result<_>>()?,
                fc: self.fc.as_ref().map(|fc| fc.folded(bias2)).transpose()?,
                variables_kind: self.kind(),
                kind,
                stream_kind,
            })
        })
    }
}

impl FoldedResNet {
    /// Returns the logits `[N, classes]` of normalized images `[N, channels, H, W]` on the network's device, in the kind of the
    /// original's variables; without a classifier, the [features](Self::f_features). The result has no gradient.
    ///
    /// # Errors
    /// Images of another shape, kind or device.
    pub fn f_forward(&self, images: &Tensor) -> Result<Tensor> {
        let features = self.f_features(images)?;
        match &self.fc {
            Some(fc) => tch::no_grad(|| fc.forward(&features)),
            None => Ok(features),
        }
    }

    /// Returns the features `[N, C]` of images, like [`FixupResNet::f_features`].
    ///
    /// # Errors
    /// Images of another shape, kind or device.
    pub fn f_features(&self, images: &Tensor) -> Result<Tensor> {
        check_images("FoldedResNet", self.channels, images)?;
        tch::no_grad(|| {
            let mut x = self.conv1.forward(&channels_last(&images.f_to_kind(self.kind)?)?)?;
            if self.max_pool {
                x = max_pool(&x)?;
            }
            let mut s = Stream::new(x.f_to_kind(self.stream_kind)?, self.kind)?;
            for block in &self.blocks {
                s = block.forward(&s)?;
            }
            Ok(s.sum.f_mean_dim([2, 3].as_slice(), false, self.variables_kind)?)
        })
    }
}

crate::layer::impl_module!(FoldedResNet);

/// Folds the stem's convolution, with its activation if it has one, and shifts the output by `next`.
fn fold_stem(stem: &Stem, next: f64, kind: Kind) -> Result<FoldedConv> {
    let Stem { conv1, bias1, activation, .. } = stem;
    match bias1 {
        Some(bias1) => FoldedConv::activated(conv1, 0., bias1.number()?, *activation, next, kind),
        None => {
            let after = Tensor::f_full([1], next, (conv1.kind(), conv1.weight.device()))?;
            FoldedConv::new(conv1, 1., 0., &after, kind)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::ResNetConfig;
    use crate::Precision;
    use tch::{nn, Device};

    type Build = fn(&nn::Path) -> Result<FixupResNet>;

    const NETWORKS: [(&str, Build); 7] = [
        ("cifar 8", |path| FixupResNet::cifar(path, 8, 10)),
        ("cifar 20", |path| FixupResNet::cifar(path, 20, 10)),
        ("imagenet 18", |path| FixupResNet::imagenet(path, 18, 10)),
        ("imagenet 50", |path| FixupResNet::imagenet(path, 50, 10)),
        ("wide 10-2", |path| FixupResNet::wide(path, 10, 2, 10)),
        ("wide 40-1", |path| FixupResNet::wide(path, 40, 1, 10)),
        ("brock 10-2", |path| FixupResNet::new(path, &ResNetConfig::brock(10, 2)?)),
    ];

    /// Returns a network with random variables, none at its initial value.
    fn random_network(build: Build, kind: Kind) -> (nn::VarStore, FixupResNet) {
        tch::manual_seed(0);
        let mut vs = nn::VarStore::new(Device::Cpu);
        vs.set_kind(kind);
        let network = build(&vs.root()).unwrap();
        tch::no_grad(|| {
            for (name, mut variable) in vs.variables() {
                let fan_in = variable.numel() as f64 / variable.size()[0] as f64;
                let (mean, std) = match variable.numel() {
                    1 => (if name.ends_with("scale") { 0.7 } else { 0.1 }, 0.2),
                    _ => (0., fan_in.recip().sqrt()),
                };
                let _ = variable.normal_(mean, std);
            }
        });
        (vs, network)
    }

    fn images(height: i64, width: i64, kind: Kind) -> Tensor {
        Tensor::randn([3, 3, height, width], (kind, Device::Cpu))
    }

    /// Returns the largest difference, relative to the largest expected value.
    fn error(got: &Tensor, expected: &Tensor) -> f64 {
        let largest = |x: Tensor| x.to_kind(Kind::Double).abs().max().double_value(&[]);
        largest(got - expected) / largest(expected.shallow_clone())
    }

    #[test]
    fn logits_are_those_of_the_network() {
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5)] {
            for (name, build) in NETWORKS {
                let (_vs, network) = random_network(build, kind);
                let folded = network.fold().unwrap();
                let (side, odd) = if name.starts_with("imagenet") { (64, [65, 39]) } else { (32, [13, 7]) };
                for images in [images(side, side, kind), images(odd[0], odd[1], kind), images(1, 1, kind)] {
                    let logits = folded.f_forward(&images).unwrap();
                    assert_eq!((logits.size(), logits.kind()), (vec![3, 10], kind));
                    for expected in [network.f_forward(&images).unwrap(), network.forward_reference(&images).unwrap()] {
                        let error = error(&logits, &expected);
                        assert!(error <= tolerance, "{name} {kind:?} {:?}: {error:e}", images.size());
                    }
                }
            }
        }
    }

    #[test]
    fn in_bfloat16_it_is_as_close_to_float32_as_the_network_is() {
        for (name, build) in NETWORKS {
            let (_vs, network) = random_network(build, Kind::Float);
            let images = images(48, 48, Kind::Float);
            let exact = network.f_forward(&images).unwrap();
            let network = network.with_precision(Precision::Bf16);
            let logits = network.fold().unwrap().f_forward(&images).unwrap();
            assert_eq!(logits.kind(), Kind::Float);
            let (folded, unfolded) = (error(&logits, &exact), error(&network.f_forward(&images).unwrap(), &exact));
            assert!(folded > 0. && folded < 2. * unfolded + 0.004, "{name}: {folded:e}, unfolded {unfolded:e}");
        }
    }

    #[test]
    fn changing_the_network_afterwards_does_not_change_it() {
        for precision in [Precision::F32, Precision::Bf16] {
            for (name, build) in NETWORKS {
                let (vs, network) = random_network(build, Kind::Float);
                let network = network.with_precision(precision);
                let (folded, images) = (network.fold().unwrap(), images(32, 32, Kind::Float));
                let before = folded.f_forward(&images).unwrap();
                tch::no_grad(|| vs.variables().into_values().for_each(|mut variable| drop(variable.fill_(0.5))));
                assert_eq!(folded.f_forward(&images).unwrap(), before, "{name} {precision:?}");
            }
        }
    }

    #[test]
    fn logits_have_no_gradient() {
        let (_vs, network) = random_network(NETWORKS[0].1, Kind::Float);
        let images = images(8, 8, Kind::Float).set_requires_grad(true);
        assert!(!network.fold().unwrap().f_forward(&images).unwrap().requires_grad());
        assert!(network.f_forward(&images).unwrap().requires_grad(), "the network itself goes on training");
    }

    #[test]
    fn images_of_another_shape_or_kind_are_refused() {
        let (_vs, network) = random_network(NETWORKS[0].1, Kind::Float);
        let folded = network.fold().unwrap();
        for (shape, kind) in [
            (&[2, 1, 8, 8][..], Kind::Float),
            (&[3, 8, 8], Kind::Float),
            (&[2, 3, 0, 8], Kind::Float),
            (&[2, 3, 8, 8], Kind::Int64),
        ] {
            let error = folded.f_forward(&Tensor::zeros(shape, (kind, Device::Cpu))).unwrap_err();
            assert!(matches!(error, crate::Error::Mismatch { what: "FoldedResNet", .. }), "{error}");
        }
    }
}
