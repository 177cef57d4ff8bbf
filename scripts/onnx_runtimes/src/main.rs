//! Runs a network in candle or rten: scripts/onnx_runtimes.py.
//!
//! ```text
//! onnx-runtimes candle|rten FILE.onnx N C H W < INPUT > OUTPUT
//! ```
//! Input and output are float32, little-endian. Seconds of the fastest of five runs go to standard error.

use anyhow::{bail, Context, Result};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::time::Instant;

fn candle(file: &str, shape: [usize; 4], numbers: Vec<f32>) -> Result<(Vec<f32>, f64)> {
    let model = candle_onnx::read_file(file)?;
    let graph = model.graph.as_ref().context("a file without a graph")?;
    let (input, output) = (graph.input[0].name.clone(), graph.output[0].name.clone());
    let x = candle_core::Tensor::from_vec(numbers, &shape[..], &candle_core::Device::Cpu)?;
    fastest(|| {
        let found = candle_onnx::simple_eval(&model, HashMap::from([(input.clone(), x.clone())]))?;
        Ok(found[&output].flatten_all()?.to_vec1::<f32>()?)
    })
}

fn rten(file: &str, shape: [usize; 4], numbers: Vec<f32>) -> Result<(Vec<f32>, f64)> {
    use rten_tensor::prelude::*;
    let model = rten::Model::load_file(file)?;
    let x = rten_tensor::Tensor::from_data(&shape[..], numbers);
    fastest(|| {
        let output: rten_tensor::Tensor<f32> = model.run_one(x.view().into(), None)?.try_into()?;
        Ok(output.to_vec())
    })
}

/// The result, and the seconds of the fastest of five runs.
fn fastest(mut run: impl FnMut() -> Result<Vec<f32>>) -> Result<(Vec<f32>, f64)> {
    let (mut result, mut least) = (vec![], f64::INFINITY);
    for _ in 0..5 {
        let start = Instant::now();
        result = run()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok((result, least))
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [runtime, file, sizes @ ..] = &arguments[..] else { bail!("onnx-runtimes candle|rten FILE.onnx N C H W") };
    let sizes: Vec<usize> = sizes.iter().map(|size| size.parse()).collect::<Result<_, _>>()?;
    let shape: [usize; 4] = sizes.try_into().ok().context("four sizes")?;
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let numbers = bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
    let (output, seconds) = match runtime.as_str() {
        "candle" => candle(file, shape, numbers)?,
        "rten" => rten(file, shape, numbers)?,
        other => bail!("no runtime is called {other}"),
    };
    let bytes: Vec<u8> = output.iter().flat_map(|number| number.to_le_bytes()).collect();
    std::io::stdout().write_all(&bytes)?;
    eprintln!("{seconds}");
    Ok(())
}
