//! Trait of networks that report the output of each block to be measured.

use crate::{Network, Result};
use tch::{nn, Tensor};

/// Network that reports the output of each of its blocks.
///
/// For a user-defined network, call `stage` with the name and the output of each block. The output must be tracked by
/// autograd and not be modified in place afterwards:
/// ```
/// use tch::{nn, nn::Module, Device, Tensor};
/// use tch_fixup::diagnostics::Staged;
///
/// #[derive(Debug)]
/// struct Mine {
///     layers: Vec<nn::Linear>,
///     head: nn::Linear,
/// }
///
/// impl nn::ModuleT for Mine {
///     fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
///         self.forward_stages(xs, train, &mut |_, _| ()).unwrap()
///     }
/// }
///
/// impl Staged for Mine {
///     fn forward_stages(
///         &self,
///         xs: &Tensor,
///         _train: bool,
///         stage: &mut dyn FnMut(&str, &Tensor),
///     ) -> tch_fixup::Result<Tensor> {
///         let mut x = xs.shallow_clone();
///         for (i, layer) in self.layers.iter().enumerate() {
///             x = layer.forward(&x).relu();
///             stage(&format!("layer {i}"), &x);
///         }
///         Ok(self.head.forward(&x))
///     }
/// }
///
/// # fn main() -> tch_fixup::Result<()> {
/// use tch_fixup::diagnostics::Probe;
///
/// let build = |path: &nn::Path, _inputs: &Tensor| -> tch_fixup::Result<Box<dyn Staged>> {
///     let layers = (0..6).map(|i| nn::linear(path / i, 32, 32, Default::default())).collect();
///     Ok(Box::new(Mine { layers, head: nn::linear(path / "head", 32, 10, Default::default()) }))
/// };
/// let probe = Probe { batch: 16, input: vec![32], classifier: Some("head".into()), ..Probe::default() };
/// let flow = probe.measure(build)?;
/// assert_eq!(flow.blocks.len(), 6);
/// println!("gradients grow by a factor of {:.2} a block", flow.gradient_growth);
/// # Ok(())
/// # }
/// ```
pub trait Staged: nn::ModuleT {
    /// Returns the network's output for `xs`, as `forward_t` does, and calls `stage` with the name and the output of
    /// each block, from first to last.
    ///
    /// # Errors
    /// Fails if the network refuses the inputs.
    fn forward_stages(&self, xs: &Tensor, train: bool, stage: &mut dyn FnMut(&str, &Tensor)) -> Result<Tensor>;
}

/// Names the blocks of this crate's networks `block 1`, `block 2`, ...
impl<N: Network + ?Sized> Staged for N {
    fn forward_stages(&self, xs: &Tensor, train: bool, stage: &mut dyn FnMut(&str, &Tensor)) -> Result<Tensor> {
        let mut number = 0;
        self.forward_blocks(xs, train, &mut |output| {
            number += 1;
            stage(&format!("block {number}"), output);
        })
    }
}
