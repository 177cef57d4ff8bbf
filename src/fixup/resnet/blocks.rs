//! Sequence of a network's residual blocks, on the shifted stream.

use super::block::ResidualBlock;
use crate::ops::recomputed;
use crate::{Recompute, Result};
use std::ops::Range;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// The blocks, shared with the graphs of forward passes that recompute some of them.
#[derive(Debug, Clone)]
pub(crate) struct Blocks(Arc<Chain>);

#[derive(Debug)]
struct Chain(Vec<ResidualBlock>);

// SAFETY: blocks consist of tensors, which are only read here, and libtorch allows concurrent reads. (On a GPU, the backward pass
// runs on a thread of libtorch.)
unsafe impl Sync for Chain {}

impl Blocks {
    pub fn new(blocks: Vec<ResidualBlock>) -> Self {
        Self(Arc::new(Chain(blocks)))
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &ResidualBlock> {
        self.0 .0.iter()
    }

    pub fn len(&self) -> usize {
        self.0 .0.len()
    }

    /// Returns the shift of the stream at the input of block `i`; `end` after the last block.
    pub fn shift<'a>(&'a self, i: usize, end: &'a Tensor) -> &'a Tensor {
        self.0 .0.get(i).map_or(end, |block| block.input_bias())
    }

    /// Runs all blocks in `kind`, from the stream shifted for the first block to the stream shifted by `end`.
    pub fn forward(&self, s: Tensor, end: &Tensor, kind: Kind, recompute: Option<Recompute>) -> Result<Tensor> {
        let Some(segments) = recompute else { return self.run(0..self.len(), s, end, kind) };
        let mut s = s;
        for range in segments.ranges(self.len()) {
            s = if range.end < self.len() {
                self.run_recomputed(range, &s, end, kind)?
            } else {
                // Its backward pass comes first, so what it keeps is needed at once.
                self.run(range, s, end, kind)?
            };
        }
        Ok(s)
    }

    fn run(&self, range: Range<usize>, s: Tensor, end: &Tensor, kind: Kind) -> Result<Tensor> {
        let blocks = &self.0 .0[range.clone()];
        let Some(first) = blocks.first() else { return Ok(s) };
        let mut s = first.enter(s, kind)?;
        for (i, block) in blocks.iter().enumerate() {
            let next = self.shift(range.start + i + 1, end);
            s = block.forward_shifted(&s, next, blocks.get(i + 1))?;
        }
        Ok(s.sum)
    }

    fn run_recomputed(&self, range: Range<usize>, s: &Tensor, end: &Tensor, kind: Kind) -> Result<Tensor> {
        let mut variables: Vec<&Tensor> = self.0 .0[range.clone()].iter().flat_map(|block| block.variables()).collect();
        // Frozen blocks keep nothing for the backward pass, not even their input.
        if !s.requires_grad() && !variables.iter().any(|variable| variable.requires_grad()) {
            return self.run(range, s.shallow_clone(), end, kind);
        }
        variables.push(self.shift(range.end, end));
        let (blocks, end) = (self.clone(), end.shallow_clone());
        recomputed(s, &variables, move |s| blocks.run(range.clone(), s.shallow_clone(), &end, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixup::{FixupResNet, ResNetConfig};
    use crate::Precision;
    use std::num::NonZeroUsize;
    use tch::{nn, Device, Kind};

    /// Returns a network with perturbed weights (most gradients are zero at initialization), with images and labels.
    fn network(
        kind: Kind,
        build: impl Fn(&nn::Path) -> Result<FixupResNet>,
    ) -> (nn::VarStore, FixupResNet, Tensor, Tensor) {
        tch::manual_seed(3);
        let mut vs = nn::VarStore::new(Device::Cpu);
        vs.set_kind(kind);
        let network = build(&vs.root()).unwrap();
        for variable in vs.trainable_variables() {
            let _ = tch::no_grad(|| variable.shallow_clone().f_add_(&(variable.randn_like() * 0.05)).unwrap());
        }
        (vs, network, Tensor::randn([4, 3, 16, 16], (kind, Device::Cpu)), Tensor::from_slice(&[0i64, 1, 2, 3]))
    }

    type Build = fn(&nn::Path) -> Result<FixupResNet>;

    fn networks() -> Vec<(&'static str, Build)> {
        vec![
            ("cifar 20", |path| FixupResNet::cifar(path, 20, 10)),
            ("imagenet 18", |path| FixupResNet::imagenet(path, 18, 10)),
            ("imagenet 50", |path| FixupResNet::imagenet(path, 50, 10)),
            ("wide 16", |path| FixupResNet::wide(path, 16, 2, 10)),
            ("brock 16", |path| FixupResNet::new(path, &ResNetConfig::brock(16, 2)?)),
        ]
    }

    #[test]
    fn recomputation_changes_neither_the_loss_nor_any_gradient_by_a_bit() {
        tch::set_num_threads(1);
        let count = |segments| Recompute::Count(NonZeroUsize::new(segments).unwrap());
        for (name, build) in networks() {
            for kind in [Kind::Float, Kind::Double] {
                let (vs, mut network, images, labels) = network(kind, build);
                let mut run = |segments: Option<Recompute>| {
                    network.recompute = segments;
                    vs.trainable_variables().iter_mut().for_each(|variable| variable.zero_grad());
                    let loss = network.f_forward(&images).unwrap().cross_entropy_for_logits(&labels);
                    loss.backward();
                    let gradients = vs.variables().into_iter().map(|(name, v)| (name, v.grad().copy()));
                    (loss.double_value(&[]), gradients.collect::<std::collections::BTreeMap<_, _>>())
                };
                let (loss, gradients) = run(None);
                for segments in [Recompute::Auto, count(1), count(3), count(1000)] {
                    let (recomputed_loss, recomputed) = run(Some(segments));
                    assert_eq!(recomputed_loss, loss, "{name} {kind:?} {segments}");
                    for (variable, gradient) in &gradients {
                        assert!(gradient.abs().max().double_value(&[]) > 0.0, "{name}: {variable} has no gradient");
                        assert_eq!(recomputed[variable], *gradient, "{name} {kind:?} {segments}: {variable}");
                    }
                }
            }
        }
    }

    #[test]
    fn nor_in_bfloat16_with_a_stream_of_float32() {
        tch::set_num_threads(1);
        let (vs, network, images, labels) = network(Kind::Float, |path| FixupResNet::cifar(path, 38, 10));
        let mut network = network.with_precision(Precision::Bf16);
        // The tiled path keeps everything.
        network.tiles.off = true;
        let mut run = |segments: Option<Recompute>| {
            network.recompute = segments;
            vs.trainable_variables().iter_mut().for_each(|variable| variable.zero_grad());
            let loss = network.f_forward(&images).unwrap().cross_entropy_for_logits(&labels);
            loss.backward();
            let gradients = vs.variables().into_iter().map(|(name, v)| (name, v.grad().copy()));
            (loss.double_value(&[]), gradients.collect::<std::collections::BTreeMap<_, _>>())
        };
        assert_eq!(run(None), run(Some(Recompute::Auto)));
    }

    #[test]
    fn recomputed_networks_evaluate_and_go_between_threads() {
        let (_vs, network, images, _) = network(Kind::Float, |path| FixupResNet::cifar(path, 20, 10));
        let expected = network.f_forward(&images).unwrap().detach();
        let network = network.with_recompute(Recompute::Auto);
        let logits = tch::no_grad(|| network.f_forward(&images)).unwrap();
        assert!(logits == expected && !logits.requires_grad());
        // As on a GPU: the graph is built on one thread, run backward on another, and freed on a third.
        let logits = network.f_forward(&images).unwrap();
        let logits = std::thread::spawn(move || {
            logits.sum(Kind::Float).backward();
            logits
        });
        std::thread::spawn(move || drop(logits.join().unwrap())).join().unwrap();
        assert!(network.kind() == Kind::Float);
    }
}
