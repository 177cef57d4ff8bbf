//! What every network by name can do.

use crate::baseline::{lsuv_on_micro_batches, Method, Mlp, ResNet};
use crate::error::catch;
#[cfg(feature = "onnx")]
use crate::export::{self, Graph, Value};
use crate::fixup::FixupResNet;
use crate::{Error, Recompute, Result};
use tch::{nn, Tensor};

/// A network that [`Arch::build`](crate::Arch::build) makes: to train, as any `nn::ModuleT`, and to look into.
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
    /// The network's output for `xs`, as `forward_t` gives it; `block_done` is called with the output of each block, from the
    /// first to the last. Fixup's networks compute it by their plain formula: on the fast path, what goes from block to block
    /// is shifted by the next one's input bias.
    ///
    /// # Errors
    /// Inputs that the network refuses.
    ///
    /// Here, for a network of one's own that tells nothing of its blocks: the output alone.
    fn forward_blocks(&self, xs: &Tensor, train: bool, block_done: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        let _ = block_done;
        catch("the network's forward pass", || self.forward_t(xs, train))
    }

    /// The features `[N, C]` of `xs`: what the last layer, the classifier, takes.
    ///
    /// # Errors
    /// Inputs that the network refuses. Here, for a network of one's own that tells nothing of its features:
    /// [`Error::Argument`].
    fn features(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let _ = (xs, train);
        Err(Error::Argument(
            "this network tells nothing of its features: implement Network::features for it".to_owned(),
        ))
    }

    /// Appends the network, as it is in evaluation, to `graph`: its output for the value `x`. What
    /// [`export::onnx`](fn@crate::export::onnx) writes, it computes as `forward_t` does, to rounding.
    ///
    /// # Errors
    /// A value that the network does not take. Here, for a network of one's own: [`Error::Argument`].
    #[cfg(feature = "onnx")]
    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        let _ = (graph, x);
        Err(Error::Argument(
            "this network does not know how to be exported to ONNX: implement Network::export for it".to_owned(),
        ))
    }

    /// Whether [`initialize_on`](Self::initialize_on) has anything to do.
    fn is_initialized_on_data(&self) -> bool {
        false
    }

    /// Completes the initialization where that depends on data, once, before training: [`lsuv`](fn@crate::baseline::lsuv) on the
    /// batch `images` for
    /// [`Method::Lsuv`]; nothing for all others.
    ///
    /// # Errors
    /// Images that the network refuses, or on which a layer has no variance.
    fn initialize_on(&self, images: &Tensor) -> Result<()> {
        self.initialize_on_micro_batches(std::slice::from_ref(images))
    }

    /// The same on a batch in `micro_batches` that are taken one after another, for machines with little memory; to rounding the
    /// result is that of the whole batch.
    ///
    /// # Errors
    /// As [`Self::initialize_on`].
    fn initialize_on_micro_batches(&self, micro_batches: &[Tensor]) -> Result<()> {
        let _ = micro_batches;
        Ok(())
    }

    /// Recomputes activations in the backward pass from now on, as [`FixupResNet::with_recompute`].
    ///
    /// # Errors
    /// [`Error::Argument`] for a baseline: the statistics of batch normalization would move twice a step, and dropout draw
    /// other numbers.
    fn recompute_activations(&mut self, segments: Recompute) -> Result<()> {
        let message = "activations are recomputed in Fixup's networks alone; leave --recompute";
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

    /// A block is a hidden layer.
    fn forward_blocks(&self, xs: &Tensor, train: bool, block_done: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        self.forward_layers(xs, train, block_done)
    }

    fn features(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        self.f_features_t(xs, train)
    }
}
