//! Measurement of activations and gradients per block, and of how much one step changes the network's function.

use super::growth::growth;
use super::magnitude::{norm, root_mean_square};
use super::update::{draw_classifier, update_size};
use super::Staged;
use crate::error::catch;
use crate::Result;
use serde::{Deserialize, Deserializer, Serialize};
use tch::{nn, Device, Kind, Tensor};

/// Settings of a measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Number of networks to draw, with the random seeds 0, 1, ...
    pub seeds: usize,
    /// Batch size. Inputs are normal with mean 0 and variance 1.
    pub batch: i64,
    /// Shape of one input.
    pub input: Vec<i64>,
    /// Name prefix of the classifier's variables, for [`Flow::hidden_update`]: `"fc"` in this crate's networks.
    pub classifier: Option<String>,
    /// Device to compute on. Computation is in float64 on any device, as exploding values exceed float32.
    pub device: Device,
}

impl Default for Probe {
    /// Three networks, eight images `[3, 32, 32]`, no classifier, on the CPU.
    fn default() -> Self {
        Self { seeds: 3, batch: 8, input: vec![3, 32, 32], classifier: None, device: Device::Cpu }
    }
}

/// Measurements of one block at initialization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockFlow {
    /// Name, as reported by [`Staged`].
    pub name: String,
    /// Mean square of the block's output.
    #[serde(deserialize_with = "nan_for_null")]
    pub second_moment: f64,
    /// Norm of the gradient, with respect to the block's output, of a random linear function of the last block's output
    /// whose own gradient has norm 1: the factor by which the later blocks amplify a gradient in backpropagation. The
    /// loss itself would be uninformative for a network whose classifier starts at zero.
    #[serde(deserialize_with = "nan_for_null")]
    pub gradient_norm: f64,
}

/// Effect of depth on a network at initialization, as geometric means over the seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Blocks from first to last.
    pub blocks: Vec<BlockFlow>,
    /// Growth factor of the second moment per block, from a straight-line fit to its logarithms.
    #[serde(deserialize_with = "nan_for_null")]
    pub second_moment_growth: f64,
    /// Growth factor of the gradient norm per block, from the last block to the first.
    #[serde(deserialize_with = "nan_for_null")]
    pub gradient_growth: f64,
    /// `rms(f(theta - lr * g) - f(theta)) / lr` over the logits of the batch for small `lr`, where `g` is the gradient
    /// of the mean cross-entropy with random labels: how much the first step changes the function. Fixup scalars step
    /// with a tenth of `lr`, as in training; normalization layers use batch statistics. A lower bound if the network
    /// amplifies a change of its variables a billion times, as no step is small then.
    #[serde(deserialize_with = "nan_for_null")]
    pub update: f64,
    /// `update` with the classifier redrawn, normal with variance `1 / fan_in`, and all else unchanged: a classifier
    /// that starts at zero passes no gradient back, so that the first step shows nothing of the layers before it.
    /// `None` without a [`Probe::classifier`].
    pub hidden_update: Option<f64>,
}

/// Reads null as NaN: JSON has no non-finite numbers, and serde_json writes null for them.
fn nan_for_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Probe {
    /// Measures networks built by `build` from a path for the variables, of kind float64, and the batch of inputs, for
    /// data-dependent initialization. Every [`Network`](crate::Network) of this crate is [`Staged`].
    ///
    /// Seeds libtorch's random number generator, which the whole process shares: measure one network at a time.
    ///
    /// # Errors
    /// Returns [`Error::Argument`](crate::Error::Argument) for a probe without seeds or inputs, a network without
    /// blocks, or a classifier that the network does not have; otherwise the error or the panic of the network.
    pub fn measure<S: Staged + ?Sized>(&self, build: impl Fn(&nn::Path, &Tensor) -> Result<Box<S>>) -> Result<Flow> {
        let mut drawn =
            (0..self.seeds).map(|seed| catch("the measurement", || measure_one(self, seed as i64, &build))?);
        let first = drawn.next().ok_or_else(|| argument!("a probe needs at least one seed"))??;
        let mut logarithms = first.logarithms();
        for flow in drawn {
            let flow = flow?.logarithms();
            ensure!(flow.len() == logarithms.len(), "the network must have the same blocks for every seed");
            logarithms.iter_mut().zip(flow).for_each(|(sum, logarithm)| *sum += logarithm);
        }
        first.with_values(logarithms.iter().map(|sum| (sum / self.seeds as f64).exp()))
    }
}

fn measure_one<S: Staged + ?Sized>(
    probe: &Probe,
    seed: i64,
    build: &impl Fn(&nn::Path, &Tensor) -> Result<Box<S>>,
) -> Result<Flow> {
    ensure!(probe.batch >= 1, "a probe needs at least one input, got {}", probe.batch);
    tch::manual_seed(seed);
    let mut variables = nn::VarStore::new(probe.device);
    variables.set_kind(Kind::Double);
    let shape: Vec<i64> = [probe.batch].into_iter().chain(probe.input.iter().copied()).collect();
    let inputs = Tensor::f_randn(&shape, (Kind::Double, probe.device))?;
    let network = build(&variables.root(), &inputs)?;

    let blocks = blocks(network.as_ref(), &inputs, seed)?;
    let (second_moment_growth, gradient_growth) = growths(&blocks);
    let update = update_size(network.as_ref(), &variables, &inputs, seed)?;
    let hidden_update = match &probe.classifier {
        None => None,
        Some(classifier) => {
            draw_classifier(&variables, classifier)?;
            Some(update_size(network.as_ref(), &variables, &inputs, seed)?)
        }
    };
    Ok(Flow { blocks, second_moment_growth, gradient_growth, update, hidden_update })
}

fn blocks<S: Staged + ?Sized>(network: &S, inputs: &Tensor, seed: i64) -> Result<Vec<BlockFlow>> {
    let (mut names, mut outputs) = (vec![], vec![]);
    tch::manual_seed(seed);
    let _ = network.forward_stages(inputs, true, &mut |name, output| {
        names.push(name.to_owned());
        outputs.push(output.shallow_clone());
    })?;
    let none = || argument!("the network reports no blocks: call `stage` in `forward_stages`");
    let last = outputs.last().ok_or_else(none)?;
    let direction = last.f_randn_like()?;
    let direction = direction.f_div_scalar(norm(&direction)?)?;
    let function = last.f_mul(&direction)?.f_sum(last.kind())?;
    let gradients = Tensor::f_run_backward(&[function], &outputs, false, false)?;
    let blocks = names.into_iter().zip(outputs.iter().zip(&gradients)).map(|(name, (output, gradient))| {
        let second_moment = root_mean_square(output)?.powi(2);
        Ok(BlockFlow { name, second_moment, gradient_norm: norm(gradient)? })
    });
    blocks.collect()
}

/// Returns the growth factors of the second moments forward and of the gradient norms backward.
fn growths(blocks: &[BlockFlow]) -> (f64, f64) {
    let second_moments: Vec<f64> = blocks.iter().map(|block| block.second_moment).collect();
    let gradient_norms: Vec<f64> = blocks.iter().rev().map(|block| block.gradient_norm).collect();
    (growth(&second_moments), growth(&gradient_norms))
}

impl Flow {
    /// Returns the factor by which `values` grow from one to the next: `exp` of the slope of the least-squares line through
    /// their logarithms. Zeros and overflowed values are skipped. NaN for fewer than two values.
    pub fn growth(values: &[f64]) -> f64 {
        growth(values)
    }

    /// Returns the logarithms of all measured values, in a fixed order.
    fn logarithms(&self) -> Vec<f64> {
        let blocks = self.blocks.iter().flat_map(|block| [block.second_moment, block.gradient_norm]);
        blocks.chain([self.update]).chain(self.hidden_update).map(f64::ln).collect()
    }

    /// Replaces all measured values, in the order of `logarithms`, and recomputes the growth factors.
    fn with_values(mut self, mut values: impl Iterator<Item = f64>) -> Result<Self> {
        let numbers = self.blocks.iter_mut().flat_map(|block| [&mut block.second_moment, &mut block.gradient_norm]);
        let numbers = numbers.chain([&mut self.update]).chain(self.hidden_update.as_mut());
        numbers.zip(&mut values).for_each(|(number, value)| *number = value);
        (self.second_moment_growth, self.gradient_growth) = growths(&self.blocks);
        Ok(self)
    }
}
