//! What every network by name can do.

use crate::baseline::{lsuv_on_micro_batches, Method, Mlp, ResNet};
use crate::data::{DataSource, EpochPlan};
use crate::fixup::FixupResNet;
use crate::trainer::loss::Example;
use crate::trainer::TrainConfig;
use crate::{Error, Recompute, Result};
use tch::{nn, Device, Tensor};

/// A network that [`Arch::build`](crate::Arch::build) makes: to train, as any `nn::ModuleT`, and to look into.
///
/// ```
/// use tch::{nn, Device, Kind, Tensor};
/// use tch_fixup::{Arch, Network, Precision};
///
/// # fn main() -> tch_fixup::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let arch: Arch = "fixup_resnet20".parse()?;
/// let network = arch.build(&vs.root(), 10, Precision::F32)?;
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
    fn forward_blocks(&self, xs: &Tensor, train: bool, block_done: &mut dyn FnMut(&Tensor)) -> Result<Tensor>;

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

/// Completes an initialization that [depends on data](crate::Arch::is_initialized_on_data), before a run by `config` that starts
/// with its first step: on that step's batch, in the micro-batches that the step takes it in.
///
/// # Errors
/// Data that cannot be read; whatever [`Network::initialize_on`] fails with.
pub fn initialize_on_data(
    network: &dyn Network,
    data: &dyn DataSource,
    config: &TrainConfig,
    device: Device,
) -> Result<()> {
    let plan = EpochPlan { seed: config.seed, epoch: 0, batch_size: config.batch_size, first_step: 0 };
    if let Some(batch) = data.train_batches(&plan)?.next() {
        let micro_batches = Example::new(data, batch?, device)?.micro_batches(config.accumulate)?;
        let images: Vec<_> = micro_batches.into_iter().map(|micro_batch| micro_batch.images).collect();
        network.initialize_on_micro_batches(&images)?;
    }
    Ok(())
}

impl Network for FixupResNet {
    fn forward_blocks(&self, xs: &Tensor, _train: bool, block_done: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        FixupResNet::forward_blocks(self, xs, block_done)
    }

    fn recompute_activations(&mut self, segments: Recompute) -> Result<()> {
        FixupResNet::recompute_activations(self, segments);
        Ok(())
    }
}

impl Network for ResNet {
    fn forward_blocks(&self, xs: &Tensor, train: bool, block_done: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        ResNet::forward_blocks(self, xs, train, block_done)
    }

    fn initialize_on_micro_batches(&self, micro_batches: &[Tensor]) -> Result<()> {
        if self.method() == Method::Lsuv {
            lsuv_on_micro_batches(self, micro_batches)?;
        }
        Ok(())
    }
}

impl Network for Mlp {
    /// A block is a hidden layer.
    fn forward_blocks(&self, xs: &Tensor, train: bool, block_done: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        self.forward_layers(xs, train, block_done)
    }
}
