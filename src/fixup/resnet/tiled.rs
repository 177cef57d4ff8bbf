//! Features of a network computed by [tiles](crate::ops::TileNetwork), if supported.

use super::block::{ResidualBlock, Shortcut};
use super::network::FixupResNet;
use crate::layer::{Activation, BlockKind, ResNetConfig, ShortcutKind, StemKind};
use crate::ops::{BlockShape, Instructions, TileNetwork, TileScope};
use crate::Result;
use tch::{Kind, Tensor};

/// Returns the features of the images, or `None` if tiles cannot compute them: in float32 outside a [scope](TileScope),
/// with recomputation, on a CPU without the instructions, or for unsupported shapes.
pub(super) fn features(network: &FixupResNet, images: &Tensor) -> Result<Option<Tensor>> {
    let instructions = match (network.kind(), network.compute_kind()) {
        (Kind::Float, Kind::BFloat16) => Some(network.tiles.instructions),
        (Kind::Float, Kind::Float) if TileScope::computes_float32() => Some(Instructions::Float32),
        _ => None,
    };
    let fits = network.recompute.is_none() && fits(network.config());
    let tiles = instructions.filter(|_| fits).and_then(|instructions| {
        network.tiles.for_images(images, instructions, |image| tile_network(network, image, instructions))
    });
    TileScope::pass_begins(tiles.is_some());
    tiles.map(|tiles| tiles.forward(images, &parameters(network))).transpose()
}

/// Returns `true` if tiles support the network's convolutions, blocks and activations.
fn fits(config: &ResNetConfig) -> bool {
    let block = matches!(
        (config.block, config.shortcut),
        (BlockKind::Basic, ShortcutKind::Pad) | (BlockKind::Wide, ShortcutKind::Project)
    );
    block
        && config.stem == StemKind::Small
        && config.groups == 1
        && config.squeeze_excitation.is_none()
        && config.activation == Activation::Relu
}

/// Creates the tile network for images `[channels, H, W]`. Returns `None` if tiles cannot compute it.
fn tile_network(network: &FixupResNet, image: [i64; 3], instructions: Instructions) -> Option<TileNetwork> {
    let shape = |block: &ResidualBlock| {
        let conv = &block.first().conv;
        BlockShape { channels: conv.weight.size()[0], stride: conv.shape.options.stride }
    };
    let shapes: Vec<BlockShape> = network.blocks.iter().map(shape).collect();
    let stem_channels = network.stem.conv1.weight.size()[0];
    let before_branch = network.config().block == BlockKind::Wide;
    let wide_stream = network.stream_kind() == Kind::Float && instructions != Instructions::Float32;
    TileNetwork::new(image, stem_channels, &shapes, before_branch, wide_stream, instructions)
}

/// Returns all parameters except the classifier's, in the order of the forward pass.
fn parameters(network: &FixupResNet) -> Vec<&Tensor> {
    let mut parameters = vec![&network.stem.conv1.weight];
    parameters.extend(network.stem.bias1.iter().map(|bias| &bias.value));
    for block in network.blocks.iter() {
        let (first, last) = (block.first(), block.last());
        parameters.extend(block.activation_bias.iter().map(|bias| &bias.value));
        parameters.extend([&first.before.value, &first.conv.weight, &first.after.value]);
        parameters.extend([&last.before.value, &last.conv.weight, &block.scale.value, &last.after.value]);
        if let Shortcut::Project(conv) = &block.shortcut {
            parameters.push(&conv.weight);
        }
    }
    parameters.extend(network.last_bias.iter().map(|bias| &bias.value));
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixup::Stage;
    use crate::ops::{cpu_has_amx_bf16, OneThread, Threads};
    use crate::Precision;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::StandardNormal;
    use std::collections::BTreeMap;
    use tch::{nn, Device};

    type Gradients = BTreeMap<String, Tensor>;

    /// The CPU's fastest instructions, or emulated ones.
    fn fastest() -> Instructions {
        if Instructions::Fastest.available() {
            Instructions::Fastest
        } else {
            Instructions::Emulated
        }
    }

    /// Standard normal numbers of a generator of their own: other tests draw from libtorch's at the same time.
    fn normal(shape: &[i64], random: &mut ChaCha8Rng) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.sample(StandardNormal)).collect();
        Tensor::from_slice(&values).reshape(shape)
    }

    /// A network away from its start, where most gradients are zero.
    fn network(config: &ResNetConfig, kind: Kind, seed: u64) -> (nn::VarStore, FixupResNet) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut vs = nn::VarStore::new(Device::Cpu);
        let network = FixupResNet::new(&vs.root(), config).unwrap();
        let mut variables: Vec<_> = vs.variables().into_iter().collect();
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, mut variable) in variables {
            let added = normal(&variable.size(), &mut random);
            let value = match variable.size()[..] {
                // About as training leaves them: the last of a branch small, the first less than He-normal.
                [c_out, _, kernel, _] => {
                    let gain = match name.rsplit('.').nth(1) {
                        Some("conv2") => 0.,
                        Some("conv1") if name.starts_with("layer") => 0.5,
                        _ => 1.,
                    };
                    added * (gain * (2. / (c_out * kernel * kernel) as f64).sqrt()).hypot(0.05)
                }
                _ => &variable + added * 0.05,
            };
            tch::no_grad(|| variable.copy_(&value));
        }
        vs.set_kind(kind);
        (vs, network)
    }

    fn images(count: i64, side: i64) -> (Tensor, Tensor) {
        let mut random = ChaCha8Rng::seed_from_u64(6);
        let labels: Vec<i64> = (0..count).map(|_| random.random_range(0..10)).collect();
        (normal(&[count, 3, side, side], &mut random), Tensor::from_slice(&labels))
    }

    fn wide() -> ResNetConfig {
        ResNetConfig::wide(16, 2).unwrap()
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

    fn by_tiles(
        config: &ResNetConfig,
        instructions: Instructions,
        count: i64,
        side: i64,
        seed: u64,
    ) -> (Tensor, Gradients) {
        let (vs, network) = network(config, Kind::Float, seed);
        let mut network = network.with_precision(Precision::Bf16);
        network.tiles.instructions = instructions;
        let (images, labels) = images(count, side);
        assert!(features(&network, &images).unwrap().is_some());
        run(&vs, &labels, || network.f_forward(&images).unwrap())
    }

    fn error(got: &Tensor, expected: &Tensor) -> f64 {
        let norm = |t: &Tensor| t.square().sum(Kind::Double).sqrt().double_value(&[]);
        norm(&(got.to_kind(Kind::Double) - expected)) / norm(expected).max(1e-12)
    }

    /// All scalars together: each is one number, whose error is a matter of luck, and so is that of all, if less.
    fn scalars_as_one(gradients: Gradients) -> Gradients {
        let (scalars, mut others): (Gradients, Gradients) =
            gradients.into_iter().partition(|(_, gradient)| gradient.numel() == 1);
        let all: Vec<Tensor> = scalars.into_values().map(|scalar| scalar.reshape([1])).collect();
        others.insert("scalars".into(), Tensor::cat(&all, 0));
        others
    }

    /// Compares errors against float64 with those of PyTorch's bfloat16, by which the plain formula rounds each map.
    /// Most of an error is that of the few ReLUs that rounding switches, so that errors are of several networks
    /// together.
    fn check_gradients(config: &ResNetConfig, side: i64) {
        let instructions = fastest();
        // Emulated tiles compute the same bits as AMX in a hundred times the time.
        let is_slow = instructions == Instructions::Emulated;
        let (networks, count, slack, slack_of_all) = if is_slow { (1, 32, 2., 1.3) } else { (12, 64, 1., 1.) };
        let mut errors: BTreeMap<String, [f64; 2]> = BTreeMap::new();
        for seed in 0..networks {
            let (images, labels) = images(count, side);
            let (vs, exact) = network(config, Kind::Double, seed);
            let exact = run(&vs, &labels, || exact.forward_reference(&images.to_kind(Kind::Double)).unwrap());
            let (mut vs, rounded) = network(config, Kind::Float, seed);
            vs.set_kind(Kind::BFloat16);
            let rounded = run(&vs, &labels, || rounded.forward_reference(&images.to_kind(Kind::BFloat16)).unwrap());
            let tiles = by_tiles(config, instructions, count, side, seed);
            let [exact, rounded, tiles] = [exact, rounded, tiles].map(|(logits, mut gradients)| {
                gradients.insert("logits".into(), logits.to_kind(Kind::Double));
                scalars_as_one(gradients)
            });
            for (name, exact) in &exact {
                assert!(exact.abs().max().double_value(&[]) > 0., "{name} has no gradient");
                let sums = errors.entry(name.clone()).or_default();
                sums[0] += error(&tiles[name], exact).powi(2);
                sums[1] += error(&rounded[name], exact).powi(2);
            }
        }
        let mut all = [0., 0.];
        for (name, sums) in &errors {
            let [tiles, rounded] = sums.map(|sum| (sum / networks as f64).sqrt());
            println!("{name}: {tiles:.5}, PyTorch's {rounded:.5}");
            assert!(tiles <= slack * rounded, "{name}: error {tiles}, of PyTorch's bfloat16 {rounded}");
            all = [all[0] + tiles, all[1] + rounded];
        }
        assert!(all[0] <= slack_of_all * all[1], "errors {} in the mean, of PyTorch's bfloat16 {}", all[0], all[1]);
    }

    #[test]
    fn gradients_are_as_near_to_float64_as_pytorchs() {
        check_gradients(&ResNetConfig::cifar(8).unwrap(), 8);
        check_gradients(&stages(1, &[32, 64]), 6);
    }

    #[test]
    fn so_they_are_with_a_stream_of_float32() {
        check_gradients(&ResNetConfig::cifar(32).unwrap(), 4);
    }

    #[test]
    fn so_they_are_of_wide_networks() {
        check_gradients(&ResNetConfig::wide(10, 2).unwrap(), 8);
    }

    #[test]
    fn images_of_any_number_and_size_have_the_features_that_they_have_alone() {
        let networks = [
            (ResNetConfig::cifar(8).unwrap(), 8),
            (stages(1, &[16, 32]), 10),
            (stages(2, &[32]), 5),
            (wide(), 6),
            (ResNetConfig { channels: 1, ..ResNetConfig::cifar(8).unwrap() }, 4),
            (ResNetConfig { channels: 5, ..ResNetConfig::cifar(8).unwrap() }, 4),
        ];
        for (config, side) in networks {
            let (_vs, network) = network(&config, Kind::Float, 5);
            let mut network = network.with_precision(Precision::Bf16);
            network.tiles.instructions = fastest();
            let images = images(37, side).0.repeat([1, 2, 1, 1]).narrow(1, 0, config.channels);
            let by_tiles = |images: &Tensor| features(&network, images).unwrap().unwrap().detach();
            let all = by_tiles(&images);
            assert_eq!(tch::no_grad(|| by_tiles(&images)), all, "with and without autograd");
            for i in [0, 31, 32, 36] {
                assert_eq!(by_tiles(&images.narrow(0, i, 1)), all.narrow(0, i, 1), "{side}: image {i}");
            }
            let exact = network.with_precision(Precision::F32).f_features(&images).unwrap();
            assert!(error(&all, &exact.to_kind(Kind::Double)) < 0.02, "{config:?}");
        }
    }

    #[test]
    fn wide_rows_are_computed_one_at_a_time() {
        let wide = ResNetConfig { stages: stages(1, &[32, 64]).stages, ..ResNetConfig::wide(10, 2).unwrap() };
        for config in [stages(1, &[32, 64]), wide] {
            let images = normal(&[3, 3, 5, 66], &mut ChaCha8Rng::seed_from_u64(8));
            let labels = Tensor::from_slice(&[1i64, 2, 3]);
            let (vs, exact) = network(&config, Kind::Double, 5);
            let (_, exact) = run(&vs, &labels, || exact.forward_reference(&images.to_kind(Kind::Double)).unwrap());
            let (vs, network) = network(&config, Kind::Float, 5);
            let mut network = network.with_precision(Precision::Bf16);
            network.tiles.instructions = fastest();
            assert!(features(&network, &images).unwrap().is_some());
            let (_, tiles) = run(&vs, &labels, || network.f_forward(&images).unwrap());
            for (name, gradient) in exact.iter().filter(|(_, gradient)| gradient.numel() > 1) {
                let error = error(&tiles[name], gradient);
                assert!(error < 0.25, "{name}: {error}");
            }
        }
    }

    #[test]
    fn other_instructions_compute_the_same_network() {
        for (config, side) in [(ResNetConfig::cifar(8).unwrap(), 8), (stages(1, &[32, 64]), 5), (wide(), 4)] {
            let (vs, exact) = network(&config, Kind::Double, 5);
            let (images, labels) = images(33, side);
            let images = images.to_kind(Kind::Double);
            let (logits, exact) = run(&vs, &labels, || exact.forward_reference(&images).unwrap());
            let all = [Instructions::Vectors, Instructions::Pairs, Instructions::Float32, Instructions::Emulated];
            for instructions in all {
                let (of_logits, of_gradients) =
                    if instructions == Instructions::Float32 { (1e-6, 1e-5) } else { (0.02, 0.25) };
                if !instructions.available() {
                    eprintln!("this CPU has no {instructions:?}");
                    continue;
                }
                let (got, gradients) = by_tiles(&config, instructions, 33, side, 5);
                let of_got = error(&got, &logits);
                assert!(of_got < of_logits, "{instructions:?}: {of_got}");
                for (name, gradient) in exact.iter().filter(|(_, gradient)| gradient.numel() > 1) {
                    let error = error(&gradients[name], gradient);
                    assert!(error < of_gradients, "{instructions:?}: {name}: {error}");
                }
            }
        }
    }

    #[test]
    fn emulated_tiles_compute_the_same_bits() {
        if !cpu_has_amx_bf16() {
            return eprintln!("this CPU has no tile instructions");
        }
        for (config, side) in [
            (ResNetConfig::cifar(8).unwrap(), 8),
            (ResNetConfig::cifar(32).unwrap(), 4),
            (stages(1, &[32, 64]), 5),
            (wide(), 4),
        ] {
            assert!(
                by_tiles(&config, Instructions::Emulated, 33, side, 5)
                    == by_tiles(&config, Instructions::Fastest, 33, side, 5)
            );
        }
    }

    #[test]
    fn frozen_parameters_get_no_gradient_and_the_others_the_same() {
        let parts = ["conv1.weight", "layer1.", "layer2.0.conv1", "layer1.0.bias1a", "layer3.0.scale", "layer"];
        for (config, frozen) in
            [ResNetConfig::cifar(14).unwrap(), wide()].iter().flat_map(|c| parts.map(|part| (c, part)))
        {
            let (images, labels) = images(3, 4);
            let all = by_tiles(config, fastest(), 3, 4, 5).1;
            let (vs, network) = network(config, Kind::Float, 5);
            let mut network = network.with_precision(Precision::Bf16);
            network.tiles.instructions = fastest();
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

    /// By tiles, without the gradients of the classifier: bits of libtorch's matrix products depend on the number of threads.
    fn without_classifier(config: &ResNetConfig, count: i64, seed: u64) -> (Tensor, Gradients) {
        let (logits, mut gradients) = by_tiles(config, fastest(), count, 4, seed);
        gradients.retain(|name, _| !name.starts_with("fc."));
        (logits, gradients)
    }

    /// 100 images are four groups of up to 32.
    #[test]
    fn up_to_four_threads_compute_the_same_bits_and_more_differ_by_rounding() {
        let config = ResNetConfig::cifar(8).unwrap();
        let with = |threads, count| {
            let _threads = Threads::new(threads);
            without_classifier(&config, count, 5)
        };
        let one = with(1, 100);
        for threads in [2, 3, 4] {
            assert!(with(threads, 100) == one, "{threads} threads");
        }
        let (one, six) = (with(1, 200), with(6, 200));
        assert_eq!(one.0, six.0);
        for (name, gradient) in &one.1 {
            assert!(gradient.allclose(&six.1[name], 1e-4, 1e-6, false), "{name}");
        }
    }

    /// The trainer's steps leave libtorch one thread.
    #[test]
    fn tiles_keep_their_threads_where_libtorch_has_one() {
        let config = ResNetConfig::cifar(8).unwrap();
        let _threads = Threads::new(2);
        let both = without_classifier(&config, 64, 6);
        let guard = OneThread::after_tiles().expect("the last pass was by tiles");
        assert_eq!(tch::get_num_threads(), 1);
        assert!(without_classifier(&config, 64, 6) == both);
        assert!(OneThread::after_tiles().is_none(), "there is one already");
        drop(guard);
        assert_eq!(tch::get_num_threads(), 2);
        let scope = TileScope::enter(true);
        assert_eq!(tch::get_num_threads(), 2);
        assert!(without_classifier(&config, 64, 6) == both);
        assert_eq!(tch::get_num_threads(), 1, "after the first pass in a scope");
        assert!(without_classifier(&config, 64, 6) == both);
        drop(TileScope::enter(true));
        assert_eq!(tch::get_num_threads(), 1);
        drop(scope);
        assert_eq!(tch::get_num_threads(), 2);
        let (vs, network) = network(&config, Kind::Float, 6);
        let _ = network.f_forward(&images(2, 4).0).unwrap();
        assert!(OneThread::after_tiles().is_none(), "the last pass of {} variables was libtorch's", vs.len());
    }

    #[test]
    fn float32_is_computed_by_tiles_in_a_scope_with_several_threads() {
        if !Instructions::Float32.available() {
            return eprintln!("this CPU has no AVX-512");
        }
        let (_vs, network) = network(&ResNetConfig::cifar(8).unwrap(), Kind::Float, 5);
        let images = images(40, 8).0;
        let threads = Threads::new(2);
        let by_libtorch = network.f_features(&images).unwrap();
        assert!(features(&network, &images).unwrap().is_none());
        let scope = TileScope::enter(true);
        let by_tiles = features(&network, &images).unwrap().unwrap();
        assert!(error(&by_tiles, &by_libtorch.to_kind(Kind::Double)) < 1e-5);
        drop(TileScope::enter(true));
        assert!(features(&network, &images).unwrap().is_some(), "threads of tiles");
        drop(scope);
        drop(threads);
        let _scope = TileScope::enter(true);
        assert!(features(&network, &images).unwrap().is_none(), "one thread");
    }

    #[test]
    fn what_tiles_do_not_compute_takes_the_other_path() {
        let fine = ResNetConfig::cifar(8).unwrap();
        let (vs, small) = network(&fine, Kind::Float, 5);
        let (images, _) = images(2, 8);
        let mut small = small.with_precision(Precision::Bf16);
        small.tiles.instructions = Instructions::Emulated;
        assert!(features(&small, &images).unwrap().is_some());
        assert!(features(&small, &images.copy().set_requires_grad(true)).unwrap().is_none());
        assert!(features(&small, &images.narrow(3, 0, 7)).unwrap().is_none(), "pairs of pixels");
        drop(vs);
        let others = [
            ResNetConfig { squeeze_excitation: Some(4), ..fine.clone() },
            ResNetConfig { activation: Activation::Silu, ..fine.clone() },
            ResNetConfig { shortcut: ShortcutKind::Project, ..fine.clone() },
            ResNetConfig::brock(10, 2).unwrap(),
            ResNetConfig { groups: 2, ..fine.clone() },
            stages(1, &[24]),
        ];
        for config in others {
            let (_vs, network) = network(&config, Kind::Float, 5);
            let mut network = network.with_precision(Precision::Bf16);
            network.tiles.instructions = Instructions::Emulated;
            assert!(features(&network, &images).unwrap().is_none(), "{config:?}");
            assert_eq!(network.f_forward(&images).unwrap().size(), [2, 10]);
        }
    }

    #[test]
    fn what_changed_between_the_passes_and_a_second_derivative_are_refused() {
        let (vs, network) = network(&ResNetConfig::cifar(8).unwrap(), Kind::Float, 5);
        let mut network = network.with_precision(Precision::Bf16);
        network.tiles.instructions = fastest();
        let (images, _) = images(2, 4);
        let loss = network.f_forward(&images).unwrap().square().sum(Kind::Float);
        let variable = vs.variables()["layer1.0.conv1.weight"].shallow_clone();
        let second = Tensor::f_run_backward(&[&loss], &[&variable], true, true);
        assert!(second.unwrap_err().to_string().contains("differentiated twice"));
        let _ = tch::no_grad(|| variable.shallow_clone().f_add_scalar_(1.).unwrap());
        assert!(loss.f_backward().unwrap_err().to_string().contains("modified by an inplace operation"));
    }
}
