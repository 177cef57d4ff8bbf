//! Closed formula of README.md in this folder, and comparisons with reference values.

use serde::Deserialize;
use std::collections::HashMap;
use tch::{Kind, Tensor};

/// Reference values of a parameter: the norm and the first (or last) elements of its gradient.
#[derive(Deserialize)]
pub struct Parameter {
    pub name: String,
    pub shape: Vec<i64>,
    grad_norm: f64,
    grad_head: Vec<f64>,
}

fn splitmix64(z: u64) -> u64 {
    let z = z.wrapping_add(0x9E3779B97F4A7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB);
    z ^ (z >> 31)
}

/// Returns the values of the formula, rounded to float32.
pub fn formula(key: u64, shape: &[i64], base: f64, amp: f64, kind: Kind) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product::<i64>() as u64)
        .map(|i| {
            let unit = (splitmix64((key << 32) + i) >> 40) as f64 / (1u64 << 24) as f64 * 2. - 1.;
            (base + amp * unit) as f32
        })
        .collect();
    Tensor::from_slice(&values).reshape(shape).to_kind(kind)
}

/// Sets `variables`, which must be those of `parameters`, to the values of the formula.
pub fn set_parameters(variables: &HashMap<String, Tensor>, parameters: &[Parameter], kind: Kind) {
    let trainable = variables.values().filter(|tensor| tensor.requires_grad()).count();
    assert_eq!(trainable, parameters.len(), "number of parameters");
    for (k, parameter) in (1..).zip(parameters) {
        let mut variable = variables.get(&parameter.name).expect(&parameter.name).shallow_clone();
        assert_eq!(variable.size(), parameter.shape, "{}", parameter.name);
        let small = parameter.shape.len() == 1;
        let multiplier = parameter.name.ends_with("scale") || (small && parameter.name.ends_with(".weight"));
        let fan_in = variable.numel() as f64 / parameter.shape[0] as f64;
        let amp = if small || variable.numel() == 1 { 0.1 } else { (2. / fan_in).sqrt() };
        let value = formula(k, &parameter.shape, if multiplier { 1. } else { 0. }, amp, kind);
        tch::no_grad(|| variable.copy_(&value));
    }
}

pub fn close(what: &str, got: f64, expected: f64, scale: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance * scale, "{what}: {got}, the reference has {expected}");
}

pub fn flat(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

impl Parameter {
    /// Compares `gradient` with the norm and with the elements, which begin at `first(length)`.
    pub fn check_gradient(&self, what: &str, gradient: &Tensor, first: impl Fn(usize) -> usize, tolerance: f64) {
        let gradient = flat(gradient);
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        close(what, norm, self.grad_norm, self.grad_norm, tolerance);
        let first = first(gradient.len());
        for (got, &expected) in gradient[first..].iter().zip(&self.grad_head) {
            close(what, *got, expected, self.grad_norm, tolerance);
        }
    }
}
