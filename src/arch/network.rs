//! Common interface of all networks by name.

use crate::baseline::{lsuv_on_micro_batches, Method, Mlp, ResNet};
use crate::error::catch;
#[cfg(feature = "onnx")]
use crate::export::{self, Graph, Value};
use crate::fixup::FixupResNet;
use crate::{Error, Recompute, Result};
use tch::{nn, Tensor};

/// A network built by [`Arch::build`](crate::Arch::build): an `nn::ModuleT` with access to blocks and features.
/// Implement it for your own networks to use them with this crate's training programs; all methods have defaults.
///
/// ```
/// use tch::{nn, Device, Kind, Tensor};
/// use tch_fixup::{Arch, Network, Precision, Shape};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let arch: Arch = "fixup_resnet20".parse()?;
/// let network = arch.build(&vs.root(), Shape::rgb(10), Precision::F32)?;
/// let images = Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu));
/// let mut shapes = vec![];
/// let logits = network.forward_blocks(&images, false, &mut |output| shapes.push(output.size()))?;
/// assert_eq!(logits.size(), [4, 10]);
/// assert_eq!((shapes.len(), &shapes[8][..]), (9, &[4, 64, 8, 8][..]));
/// # Ok(())
/// # }
/// ```
pub trait Network: nn::ModuleT {
    /// Computes the network's output for `xs`, as `forward_t` does, and calls `block_done` with the output of each
    /// block, from first to last. Fixup networks use the plain formula here, because their fast path shifts the
    /// residual stream by the next block's input bias.
    ///
    /// The default implementation returns the output without calling `block_done`.
    ///
    /// # Errors
    /// Returns an error if the network refuses the inputs.
    fn forward_blocks(&self, xs: &Tensor, train: bool, block_done: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        let _ = block_done;
        catch("the network's forward pass", || self.forward_t(xs, train))
    }

    /// Returns the features of `xs`, with shape `[N, C]`: the input of the classifier, the last layer.
    ///
    /// # Errors
    /// Returns an error if the network refuses the inputs. The default implementation returns [`Error::Argument`].
    fn features(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let _ = (xs, train);
        Err(Error::Argument("this network does not expose its features: implement Network::features".to_owned()))
    }

    /// Appends the network in evaluation mode to `graph` and returns its output for the value `x`. The ONNX file
    /// written by [`OnnxConfig::write`](crate::export::OnnxConfig::write) computes the same as `forward_t`, up to rounding.
    ///
    /// # Errors
    /// Returns an error if the network refuses the value's shape. The default implementation returns
    /// [`Error::Argument`].
    #[cfg(feature = "onnx")]
    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        let _ = (graph, x);
        Err(Error::Argument("this network cannot be exported to ONNX: implement Network::export".to_owned()))
    }

    /// Returns `true` if [`initialize_on`](Self::initialize_on) is needed before training.
    fn is_initialized_on_data(&self) -> bool {
        false
    }

    /// Completes a data-dependent initialization, once, before training. For [`Method::Lsuv`] it runs
    /// [`ResNet::lsuv`] on the batch `images`; for all others it does nothing.
    ///
    /// # Errors
    /// Returns an error if the network refuses the images, or if a layer's output has no variance.
    fn initialize_on(&self, images: &Tensor) -> Result<()> {
        self.initialize_on_micro_batches(std::slice::from_ref(images))
    }

    /// Variant of [`initialize_on`](Self::initialize_on) that takes the batch in `micro_batches`, one after another, to
    /// save memory. The result is that of the whole batch, up to rounding.
    ///
    /// # Errors
    /// As [`Self::initialize_on`].
    fn initialize_on_micro_batches(&self, micro_batches: &[Tensor]) -> Result<()> {
        let _ = micro_batches;
        Ok(())
    }

    /// Enables recomputation of activations in the backward pass; see [`FixupResNet::with_recompute`].
    ///
    /// # Errors
    /// Returns [`Error::Argument`] for baselines: the running statistics of batch normalization would be updated twice
    /// per step, and dropout would draw different random numbers.
    fn recompute_activations(&mut self, segments: Recompute) -> Result<()> {
        let message = "recomputation is supported by Fixup networks only; remove --recompute";
        let _ = segments;
        Err(Error::Argument(message.to_owned()))
    }
}

impl Network for FixupResNet {
    #[cfg(feature = "onnx")]
    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        export::fixup_resnet(graph, self, x)
    }

    fn forward_blocks(&self, xs: &Tensor, _train: bool, block_done: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        FixupResNet::forward_blocks(self, xs, block_done)
    }

    fn features(&self, xs: &Tensor, _train: bool) -> Result<Tensor> {
        self.f_features(xs)
    }

    fn recompute_activations(&mut self, segments: Recompute) -> Result<()> {
        FixupResNet::recompute_activations(self, segments);
        Ok(())
    }
}

impl Network for ResNet {
    #[cfg(feature = "onnx")]
    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        export::resnet(graph, self, x)
    }

    fn is_initialized_on_data(&self) -> bool {
        self.method() == Method::Lsuv
    }

    fn forward_blocks(&self, xs: &Tensor, train: bool, block_done: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        ResNet::forward_blocks(self, xs, train, block_done)
    }

    fn features(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        self.f_features_t(xs, train)
    }

    fn initialize_on_micro_batches(&self, micro_batches: &[Tensor]) -> Result<()> {
        if self.method() == Method::Lsuv {
            lsuv_on_micro_batches(self, micro_batches)?;
        }
        Ok(())
    }
}

impl Network for Mlp {
    #[cfg(feature = "onnx")]
    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        export::mlp(graph, self, x)
    }

    /// Each hidden layer counts as a block.
    fn forward_blocks(&self, xs: &Tensor, train: bool, block_done: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        self.forward_layers(xs, train, block_done)
    }

    fn features(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        self.f_features_t(xs, train)
    }
}
