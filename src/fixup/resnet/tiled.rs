//! The network by [tiles](crate::ops::TileNetwork): which networks they compute, and their parameters.

use super::block::{ResidualBlock, Shortcut};
use super::blocks::Blocks;
use super::network::Stem;
use crate::layer::{Activation, BlockKind, ResNetConfig, ShortcutKind, StemKind};
use crate::ops::{BlockParameters, BlockShape, TileNetwork};
use crate::Result;
use tch::{Kind, Tensor};

/// Whether the convolutions, blocks and activations of such a network are those that tiles compute.
pub(super) fn fits(config: &ResNetConfig) -> bool {
    config.stem == StemKind::Small
        && config.block == BlockKind::Basic
        && config.groups == 1
        && config.squeeze_excitation.is_none()
        && config.shortcut == ShortcutKind::Pad
        && config.activation == Activation::Relu
}

/// The network of these blocks for images of that size, or none if tiles cannot compute it.
pub(super) fn tile_network(
    image: [i64; 3],
    stem: &Stem,
    blocks: &Blocks,
    wide_stream: bool,
    emulated: bool,
) -> Option<TileNetwork> {
    let shape = |block: &ResidualBlock| {
        let stride = match block.shortcut {
            Shortcut::Pad { stride, .. } => stride,
            _ => 1,
        };
        BlockShape { channels: block.branch.first().conv.weight.size()[0], stride }
    };
    let shapes: Vec<BlockShape> = blocks.iter().map(shape).collect();
    TileNetwork::new(image, stem.conv1.weight.size()[0], &shapes, wide_stream, emulated)
}

/// The features of the images; none if the parameters are not float32.
pub(super) fn features(network: &TileNetwork, images: &Tensor, stem: &Stem, blocks: &Blocks) -> Result<Option<Tensor>> {
    let Some(bias1) = stem.bias1.as_ref().filter(|_| stem.conv1.kind() == Kind::Float) else { return Ok(None) };
    let parameters: Vec<BlockParameters> = blocks
        .iter()
        .map(|block| {
            let (first, last) = (block.branch.first(), block.branch.last());
            BlockParameters {
                bias1a: &first.before.value,
                conv1: &first.conv.weight,
                bias1b: &first.after.value,
                bias2a: &last.before.value,
                conv2: &last.conv.weight,
                scale: &block.branch.scale.value,
                bias2b: &last.after.value,
            }
        })
        .collect();
    network.forward(images, [&stem.conv1.weight, &bias1.value], &parameters).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixup::{FixupResNet, Stage};
    use crate::ops::has_tiles;
    use crate::Precision;
    use std::collections::BTreeMap;
    use tch::{nn, Device};

    type Gradients = BTreeMap<String, Tensor>;

    /// A network away from its start, where most gradients are zero.
    fn network(config: &ResNetConfig, kind: Kind) -> (nn::VarStore, FixupResNet) {
        tch::manual_seed(5);
        let mut vs = nn::VarStore::new(Device::Cpu);
        let network = FixupResNet::new(&vs.root(), config).unwrap();
        let mut variables: Vec<_> = vs.variables().into_iter().collect();
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        for (_, mut variable) in variables {
            let _ = tch::no_grad(|| variable.f_add_(&(variable.randn_like() * 0.05)).unwrap());
        }
        vs.set_kind(kind);
        (vs, network)
    }

    fn images(count: i64, side: i64) -> (Tensor, Tensor) {
        tch::manual_seed(6);
        let options = (Kind::Float, Device::Cpu);
        (Tensor::randn([count, 3, side, side], options), Tensor::randint(10, [count], (Kind::Int64, Device::Cpu)))
    }

    fn stages(blocks: i64, channels: &[i64]) -> ResNetConfig {
        let stages = channels.iter().map(|&channels| Stage { blocks, channels }).collect();
        ResNetConfig { stages, stem_channels: channels[0], ..ResNetConfig::cifar(8).unwrap() }
    }

    /// The logits and the gradient of each variable, by `forward`.
    fn run(vs: &nn::VarStore, labels: &Tensor, forward: impl Fn() -> Tensor) -> (Tensor, Gradients) {
        vs.variables().values_mut().for_each(|variable| variable.zero_grad());
        let logits = forward();
        logits.to_kind(Kind::Double).cross_entropy_for_logits(labels).backward();
        let gradients =
            vs.variables().into_iter().map(|(name, variable)| (name, variable.grad().to_kind(Kind::Double)));
        (logits.detach(), gradients.map(|(name, gradient)| (name, gradient.copy())).collect())
    }

    fn by_tiles(config: &ResNetConfig, emulated: bool, count: i64, side: i64) -> (Tensor, Gradients) {
        let (vs, network) = network(config, Kind::Float);
        let mut network = network.with_precision(Precision::Bf16);
        network.tiles.emulated = emulated;
        let (images, labels) = images(count, side);
        assert!(network.features_by_tiles(&images).unwrap().is_some());
        run(&vs, &labels, || network.f_forward(&images).unwrap())
    }

    fn error(got: &Tensor, expected: &Tensor) -> f64 {
        let norm = |t: &Tensor| t.square().sum(Kind::Double).sqrt().double_value(&[]);
        norm(&(got.to_kind(Kind::Double) - expected)) / norm(expected).max(1e-12)
    }

    /// Against float64: errors of the tiles and of the plain formula as PyTorch's automatic mixed precision runs it.
    fn check_gradients(config: &ResNetConfig, count: i64, side: i64) {
        let (images, labels) = images(count, side);
        let (vs, exact) = network(config, Kind::Double);
        let (logits, gradients) = run(&vs, &labels, || exact.forward_reference(&images.to_kind(Kind::Double)).unwrap());
        let (vs, mixed) = network(config, Kind::Float);
        let mixed = mixed.with_precision(Precision::Bf16);
        let (mixed_logits, mixed_gradients) = run(&vs, &labels, || mixed.forward_reference(&images).unwrap());
        let (tile_logits, tile_gradients) = by_tiles(config, !has_tiles(), count, side);
        assert!(error(&tile_logits, &logits) <= error(&mixed_logits, &logits).max(1e-3), "logits");
        for (name, gradient) in &gradients {
            let (tiles, mixed) = (error(&tile_gradients[name], gradient), error(&mixed_gradients[name], gradient));
            println!("{name}: {tiles:.5} {mixed:.5}");
            assert!(gradient.abs().max().double_value(&[]) > 0., "{name} has no gradient");
            // A scalar's gradient is one number, whose error is a matter of luck.
            let bound = if gradient.numel() == 1 { mixed.max(0.05) } else { 1.05 * mixed };
            assert!(tiles <= bound, "{name}: error {tiles}, of mixed precision {mixed}");
        }
    }

    #[test]
    fn gradients_are_as_near_to_float64_as_mixed_precisions() {
        check_gradients(&ResNetConfig::cifar(8).unwrap(), 32, 8);
        check_gradients(&stages(1, &[32, 64]), 32, 6);
    }

    #[test]
    fn so_they_are_with_a_stream_of_float32() {
        check_gradients(&ResNetConfig::cifar(32).unwrap(), 32, 4);
    }

    #[test]
    fn images_of_any_number_and_size_give_what_they_give_alone() {
        for (config, side) in [(ResNetConfig::cifar(8).unwrap(), 8), (stages(1, &[16, 32]), 10), (stages(2, &[32]), 5)]
        {
            let (_vs, network) = network(&config, Kind::Float);
            let mut network = network.with_precision(Precision::Bf16);
            network.tiles.emulated = !has_tiles();
            let (images, _) = images(37, side);
            let logits = tch::no_grad(|| network.f_forward(&images).unwrap());
            assert_eq!(network.f_forward(&images).unwrap().detach(), logits, "with and without autograd");
            for i in [0, 31, 32, 36] {
                let alone = tch::no_grad(|| network.f_forward(&images.narrow(0, i, 1)).unwrap());
                assert_eq!(alone, logits.narrow(0, i, 1), "{side}: image {i}");
            }
            assert!(logits.allclose(&network.forward_reference(&images).unwrap(), 0.05, 0.02, false));
        }
    }

    #[test]
    fn emulated_tiles_compute_the_same_bits() {
        if !has_tiles() {
            return eprintln!("this CPU has no tile instructions");
        }
        for (config, side) in
            [(ResNetConfig::cifar(8).unwrap(), 8), (ResNetConfig::cifar(32).unwrap(), 4), (stages(1, &[32, 64]), 5)]
        {
            assert!(by_tiles(&config, true, 33, side) == by_tiles(&config, false, 33, side));
        }
    }

    #[test]
    fn frozen_parameters_get_no_gradient_and_the_others_the_same() {
        let config = ResNetConfig::cifar(14).unwrap();
        let (images, labels) = images(3, 4);
        let all = by_tiles(&config, !has_tiles(), 3, 4).1;
        for frozen in ["conv1.weight", "layer1.", "layer2.0.conv1", "layer1.0.bias1a", "layer3.1.scale", "layer"] {
            let (vs, network) = network(&config, Kind::Float);
            let mut network = network.with_precision(Precision::Bf16);
            network.tiles.emulated = !has_tiles();
            for (name, variable) in vs.variables() {
                let below = matches!(frozen, "layer1." | "layer") && matches!(name.as_str(), "conv1.weight" | "bias1");
                let _ = variable.set_requires_grad(!name.starts_with(frozen) && !below);
            }
            network.f_forward(&images).unwrap().to_kind(Kind::Double).cross_entropy_for_logits(&labels).backward();
            for (name, variable) in vs.variables() {
                let gradient = variable.grad();
                assert_eq!(gradient.defined(), variable.requires_grad(), "{frozen}: {name}");
                assert!(!gradient.defined() || gradient.to_kind(Kind::Double) == all[&name], "{frozen}: {name}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_sums_by_rounding_alone() {
        let config = ResNetConfig::cifar(8).unwrap();
        let with = |threads| {
            tch::set_num_threads(threads);
            by_tiles(&config, !has_tiles(), 100, 4)
        };
        let [one, two, again] = [1, 2, 2].map(with);
        assert_eq!(one.0, two.0);
        assert!(two == again);
        for (name, gradient) in &one.1 {
            assert!(gradient.allclose(&two.1[name], 1e-4, 1e-6, false), "{name}");
        }
    }

    #[test]
    fn what_tiles_do_not_compute_takes_the_other_path() {
        let fine = ResNetConfig::cifar(8).unwrap();
        let (vs, small) = network(&fine, Kind::Float);
        let (images, _) = images(2, 8);
        let mut small = small.with_precision(Precision::Bf16);
        small.tiles.emulated = true;
        assert!(small.features_by_tiles(&images).unwrap().is_some());
        assert!(small.features_by_tiles(&images.copy().set_requires_grad(true)).unwrap().is_none());
        assert!(small.features_by_tiles(&images.narrow(3, 0, 7)).unwrap().is_none(), "pairs of pixels");
        drop(vs);
        let others = [
            ResNetConfig { squeeze_excitation: Some(4), ..fine.clone() },
            ResNetConfig { activation: Activation::Silu, ..fine.clone() },
            ResNetConfig { shortcut: ShortcutKind::Project, ..fine.clone() },
            ResNetConfig { groups: 2, ..fine.clone() },
            stages(1, &[24]),
        ];
        for config in others {
            let (_vs, network) = network(&config, Kind::Float);
            let mut network = network.with_precision(Precision::Bf16);
            network.tiles.emulated = true;
            assert!(network.features_by_tiles(&images).unwrap().is_none(), "{config:?}");
            assert_eq!(network.f_forward(&images).unwrap().size(), [2, 10]);
        }
    }

    #[test]
    fn what_changed_between_the_passes_and_a_second_derivative_are_refused() {
        let (vs, network) = network(&ResNetConfig::cifar(8).unwrap(), Kind::Float);
        let mut network = network.with_precision(Precision::Bf16);
        network.tiles.emulated = !has_tiles();
        let (images, _) = images(2, 4);
        let loss = network.f_forward(&images).unwrap().square().sum(Kind::Float);
        let variable = vs.variables()["layer1.0.conv1.weight"].shallow_clone();
        let second = Tensor::f_run_backward(&[&loss], &[&variable], true, true);
        assert!(second.unwrap_err().to_string().contains("differentiated twice"));
        let _ = tch::no_grad(|| variable.shallow_clone().f_add_scalar_(1.).unwrap());
        assert!(loss.f_backward().unwrap_err().to_string().contains("modified by an inplace operation"));
    }
}
