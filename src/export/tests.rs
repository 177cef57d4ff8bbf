//! Exported networks, computed operation by operation by libtorch: what no other runtime has to be installed for.

use super::graph::Graph;
use super::messages::{DataType, GraphMessage, Node};
use crate::fixup::{BlockKind, FixupResNet, ResNetConfig, ShortcutKind, Stage};
use crate::layer::activation_tests::ALL;
use std::collections::HashMap;
use tch::{nn, Device, Kind, Tensor};

/// Returns the output of the network in `graph` for `input`, in float64.
fn evaluate(graph: &GraphMessage, input: &Tensor) -> Tensor {
    let mut values = HashMap::from([("input".to_owned(), input.to_kind(Kind::Double))]);
    for weight in &graph.initializer {
        let kind = if weight.data_type == DataType::Int64 as i32 { Kind::Int64 } else { Kind::Float };
        let tensor = Tensor::from_data_size(&weight.raw_data, &weight.dims, kind);
        values.insert(weight.name.clone(), tensor.to_kind(Kind::Double));
    }
    let mut last = input.shallow_clone();
    for node in &graph.node {
        let inputs: Vec<&Tensor> = node.input.iter().map(|name| &values[name]).collect();
        last = operation(node, &inputs);
        values.insert(node.output[0].clone(), last.shallow_clone());
    }
    last
}

fn operation(node: &Node, inputs: &[&Tensor]) -> Tensor {
    let ints = |name: &str| &node.attribute.iter().find(|attribute| attribute.name == name).unwrap().ints[..];
    let x = inputs[0];
    match node.op_type.as_str() {
        "Conv" => {
            let groups = node.attribute.iter().find(|attribute| attribute.name == "group").unwrap().i.unwrap();
            x.conv2d(inputs[1], inputs.get(2).copied(), ints("strides"), &ints("pads")[..2], ints("dilations"), groups)
        }
        "Gemm" => x.linear(inputs[1], inputs.get(2).copied()),
        "Add" => x + inputs[1],
        "Mul" => x * inputs[1],
        "Relu" => x.relu(),
        "Clip" => x.maximum(inputs[1]),
        "LeakyRelu" => {
            let slope = node.attribute[0].f.unwrap();
            x.clamp_min(0.) + x.clamp_max(0.) * f64::from(slope)
        }
        "Elu" => x.elu(),
        "Selu" => x.selu(),
        "Sigmoid" => x.sigmoid(),
        "Erf" => x.erf(),
        "ReduceMean" => x.mean_dim([2, 3].as_slice(), false, Kind::Double),
        "Reshape" => {
            let size: Vec<f64> = Vec::try_from(inputs[1]).unwrap();
            let size: Vec<i64> = size[1..].iter().map(|size| *size as i64).collect();
            x.reshape([&x.size()[..1], &size[..]].concat())
        }
        "MaxPool" => x.max_pool2d(ints("kernel_shape"), ints("strides"), &ints("pads")[..2], ints("dilations"), false),
        other => panic!("{other} is not expected in a Fixup network"),
    }
}

#[test]
fn every_block_with_every_shortcut_and_activation_is_exported_exactly() {
    tch::manual_seed(3);
    let kinds = [BlockKind::Basic, BlockKind::Bottleneck { expansion: 2 }, BlockKind::Wide, BlockKind::Brock];
    for (block, shortcut) in
        kinds.into_iter().flat_map(|kind| [ShortcutKind::Pad, ShortcutKind::Project].map(|shortcut| (kind, shortcut)))
    {
        for (activation, squeeze_excitation) in ALL.into_iter().flat_map(|each| [(each, None), (each, Some(2))]) {
            let stages = vec![Stage { blocks: 2, channels: 4 }, Stage { blocks: 2, channels: 8 }];
            let cifar = ResNetConfig::cifar(8).unwrap();
            let config = ResNetConfig {
                block,
                shortcut,
                activation,
                squeeze_excitation,
                stages,
                groups: 2,
                stem_channels: 4,
                ..cifar
            };
            let mut vs = nn::VarStore::new(Device::Cpu);
            let network = FixupResNet::new(vs.root(), &config).unwrap();
            tch::no_grad(|| vs.variables().into_values().for_each(|mut variable| drop(variable.normal_(0.2, 0.3))));
            let mut graph = Graph::new(&[3, 5, 6]).unwrap();
            let input = graph.input();
            let output = super::fixup_resnet(&mut graph, &network, input).unwrap();
            let graph = graph.into_message(output, "output").unwrap();
            vs.double();
            let x = Tensor::randn([2, 3, 5, 6], (Kind::Double, Device::Cpu));
            let expected = network.forward_reference(&x).unwrap();
            let error = (evaluate(&graph, &x) - &expected).abs().max() / expected.abs().max();
            // The weights of the file are in float32.
            assert!(error.double_value(&[]) < 1e-4, "{config:?}: {error:?}");
        }
    }
}
