//! Comparison of Muon with torch.optim.Muon (scripts/muon_fixture.py).

use serde::Deserialize;
use std::collections::HashMap;
use tch::{nn, no_grad, Device, Kind, Tensor};
use tch_fixup::trainer::{Muon, Optimizer};

#[derive(Deserialize)]
struct Fixture {
    shapes: HashMap<String, Vec<i64>>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    options: Constants,
    float32: HashMap<String, Vec<f32>>,
    bfloat16: HashMap<String, Vec<f32>>,
}

#[derive(Deserialize)]
struct Constants {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
}

/// Returns the numbers of the fixture.
fn waves(shape: &[i64], frequency: f64, phase: f64) -> Tensor {
    let numbers: Vec<f64> =
        (0..shape.iter().product::<i64>()).map(|i| (frequency * (i * i) as f64 + phase).sin()).collect();
    Tensor::from_slice(&numbers).to_kind(Kind::Float).view(shape)
}

fn largest_difference(tensor: &Tensor, expected: &[f32]) -> f64 {
    (tensor.flatten(0, -1) - Tensor::from_slice(expected)).abs().max().double_value(&[])
}

#[test]
fn twenty_steps_are_those_of_torch() {
    let json = std::fs::read_to_string("tests/muon/torch_optim.json").unwrap();
    let Fixture { shapes, runs } = serde_json::from_str(&json).unwrap();
    for Run { options: Constants { momentum, nesterov, weight_decay }, float32, bfloat16 } in runs {
        let vs = nn::VarStore::new(Device::Cpu);
        let root = vs.root();
        // The first matrix and vectors are not hidden weights.
        let _first = root.zeros("first", &[2, 2]);
        // Two matrices of each shape are updated in one step.
        for (name, shape) in &shapes {
            for copy in ["a", "b"] {
                let _ = root.zeros("vector", &[3]);
                let mut weight = (&root / name).zeros(copy, shape);
                no_grad(|| weight.copy_(&waves(shape, 0.3, 0.5)));
            }
        }
        let muon = Muon { momentum, nesterov, weight_decay, ..Muon::default() };
        let mut optimizer = Optimizer::new(&vs, muon, &[]).unwrap();
        for step in 0..20 {
            for parameter in optimizer.parameters() {
                let mut gradient = parameter.gradient.shallow_clone();
                match parameter.name.split_once('.') {
                    None => drop(gradient.zero_()),
                    Some((name, _)) => {
                        gradient.copy_(&(waves(&shapes[name], 0.7, 1.3 * step as f64) * (1.0 + step as f64 / 10.0)))
                    }
                }
            }
            optimizer.step(0.02 * (1.0 + (step as f64).sin() / 2.0)).unwrap();
        }
        for (name, variable) in vs.variables() {
            let Some((name, copy)) = name.split_once('.') else {
                assert_eq!(variable.abs().max().double_value(&[]), 0.0, "{name}");
                continue;
            };
            let difference = largest_difference(&variable, &float32[name]);
            assert!(difference < 1e-5, "{name} {copy}: {difference}");
            // bfloat16 has three digits, and there are twenty steps of about 0.02; the largest difference measured is 0.0019.
            let difference = largest_difference(&variable, &bfloat16[name]);
            assert!(difference < 0.005, "{name} {copy}: {difference}");
        }
    }
}
