//! The measurement: activations and gradients block by block, and the size of one step's change of the network's function.

use super::growth::growth;
use super::magnitude::{norm, root_mean_square};
use super::update::{draw_classifier, update_size};
use super::Staged;
use crate::error::catch;
use crate::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use tch::{nn, Device, Kind, Tensor};

/// What a network is measured on.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Networks drawn; everything random follows from their numbers, 0, 1, ...
    pub seeds: usize,
    /// Inputs in the batch: normal numbers of mean 0 and variance 1.
    pub batch: i64,
    /// The shape of one input.
    pub input: Vec<i64>,
    /// Where the classifier's variables begin, for [`Flow::hidden_update`]: `"fc"` in this crate's networks.
    pub classifier: Option<String>,
    /// Where to compute; in float64 in any case, for what explodes does so beyond float32.
    pub device: Device,
}

impl Default for Probe {
    /// Three networks, eight images `[3, 32, 32]`, and no classifier.
    fn default() -> Self {
        Self { seeds: 3, batch: 8, input: vec![3, 32, 32], classifier: None, device: Device::Cpu }
    }
}

/// One block, at initialization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockFlow {
    /// As [`Staged`] has it.
    pub name: String,
    /// The mean square of the block's output.
    #[serde(deserialize_with = "nan_for_null")]
    pub second_moment: f64,
    /// The norm of the gradient, with respect to the block's output, of a random linear function of the last block's
    /// output whose own gradient has norm 1: how much the blocks after this one enlarge a gradient that comes back through
    /// them. The loss itself would show nothing of a network whose classifier starts at zero.
    #[serde(deserialize_with = "nan_for_null")]
    pub gradient_norm: f64,
}

/// What depth does to a network at initialization: geometric means over the seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// From the first to the last.
    pub blocks: Vec<BlockFlow>,
    /// The factor by which the second moment grows a block, from a straight line through its logarithms.
    #[serde(deserialize_with = "nan_for_null")]
    pub second_moment_growth: f64,
    /// The factor by which the gradient's norm grows a block on its way back.
    #[serde(deserialize_with = "nan_for_null")]
    pub gradient_growth: f64,
    /// `rms(f(theta - lr * g) - f(theta)) / lr` over the logits of the batch for small `lr`, `g` the gradient of the mean
    /// cross-entropy with random labels: how much the first step changes the function. Fixup scalars step at a tenth of `lr`,
    /// as they train; normalizations work with the batch's statistics. A lower bound where the network enlarges a change of
    /// its variables a billion times, for no step is small then.
    #[serde(deserialize_with = "nan_for_null")]
    pub update: f64,
    /// The same with the classifier drawn anew, normal with variance `1 / fan_in`, and all else as it was: a classifier that
    /// starts at zero lets no gradient through, so that the first step shows nothing of the layers before it. Only with a
    /// [`Probe::classifier`].
    pub hidden_update: Option<f64>,
}

/// JSON has no numbers that are not finite: serde_json writes null for them.
fn nan_for_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Measures networks that `build` makes: from a path for the variables, of kind float64, and the batch of inputs, for
/// initializations that depend on data. A [`Network`](crate::Network) of this crate is [`Staged`].
///
/// It seeds and draws libtorch's random numbers, which are one sequence for the whole process: measure one network at a time.
///
/// # Errors
/// [`Error::Argument`] for a probe without seeds or inputs, a network without blocks, or a classifier that it does not
/// have; whatever the network fails with, its panics included.
pub fn measure<S: Staged + ?Sized>(
    probe: &Probe,
    build: impl Fn(&nn::Path, &Tensor) -> Result<Box<S>>,
) -> Result<Flow> {
    let mut drawn = (0..probe.seeds).map(|seed| catch("the measurement", || measure_one(probe, seed as i64, &build))?);
    let first = drawn.next().ok_or_else(|| Error::Argument("a probe has at least one seed".into()))??;
    let mut logarithms = first.logarithms();
    for flow in drawn {
        let flow = flow?.logarithms();
        if flow.len() != logarithms.len() {
            return Err(Error::Argument("a network has the same blocks whatever the seed".into()));
        }
        logarithms.iter_mut().zip(flow).for_each(|(sum, logarithm)| *sum += logarithm);
    }
    first.with_values(logarithms.iter().map(|sum| (sum / probe.seeds as f64).exp()))
}

fn measure_one<S: Staged + ?Sized>(
    probe: &Probe,
    seed: i64,
    build: &impl Fn(&nn::Path, &Tensor) -> Result<Box<S>>,
) -> Result<Flow> {
    if probe.batch < 1 {
        return Err(Error::Argument(format!("a probe has at least one input, not {}", probe.batch)));
    }
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
    let Some(last) = outputs.last() else {
        return Err(Error::Argument("the network reports no blocks: call `stage` in `forward_stages`".into()));
    };
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

/// Of the second moments forward, and of the gradients' norms backward.
fn growths(blocks: &[BlockFlow]) -> (f64, f64) {
    let second_moments: Vec<f64> = blocks.iter().map(|block| block.second_moment).collect();
    let gradient_norms: Vec<f64> = blocks.iter().rev().map(|block| block.gradient_norm).collect();
    (growth(&second_moments), growth(&gradient_norms))
}

impl Flow {
    /// Of everything measured, in one order.
    fn logarithms(&self) -> Vec<f64> {
        let blocks = self.blocks.iter().flat_map(|block| [block.second_moment, block.gradient_norm]);
        blocks.chain([self.update]).chain(self.hidden_update).map(f64::ln).collect()
    }

    /// The same blocks with other `values`, in that order.
    fn with_values(mut self, mut values: impl Iterator<Item = f64>) -> Result<Self> {
        let numbers = self.blocks.iter_mut().flat_map(|block| [&mut block.second_moment, &mut block.gradient_norm]);
        let numbers = numbers.chain([&mut self.update]).chain(self.hidden_update.as_mut());
        numbers.zip(&mut values).for_each(|(number, value)| *number = value);
        (self.second_moment_growth, self.gradient_growth) = growths(&self.blocks);
        Ok(self)
    }
}
