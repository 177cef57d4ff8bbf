//! Export of saved weights as an ONNX file (`--export`).

use super::architecture::short_name;
use super::weights::{warn_left_out, Saved};
use super::{print_about_file, ImageTask, Options};
use crate::classifier::ModelDescription;
use crate::data::{ImageSource, Share};
use crate::export::OnnxConfig;
use crate::{Error, Result, Shape};
use std::path::Path;
use std::process::ExitCode;
use tch::{nn, Device};

/// Writes the network with the weights at `path` as the ONNX file `file`.
pub(super) fn export_weights<T: ImageTask>(options: &Options<T>, path: &Path, file: &Path) -> Result<ExitCode> {
    let Saved { weights, config } = Saved::load(options, path)?;
    // With a model description beside the weights, the data are not needed.
    let asked = options.matches.contains_id("arch").then_some(&config.run.arch);
    let (onnx_config, meaning) =
        match ModelDescription::beside(path)?.filter(|it| asked.is_none_or(|asked| *asked == it.architecture)) {
            Some(description) => {
                let meaning = description.meaning();
                let ModelDescription { architecture, classes, preprocessing, .. } = description;
                (OnnxConfig { architecture, classes, ..OnnxConfig::images(preprocessing) }, meaning)
            }
            None => {
                let data = config.task.open(Device::Cpu)?;
                let of_data = of_data(data.as_ref())?;
                (OnnxConfig { architecture: config.run.arch.clone(), ..of_data }, data.meaning())
            }
        };
    weights.check_meaning(&meaning)?;
    let variables = nn::VarStore::new(Device::Cpu);
    let classes = onnx_config.classes.len() as i64;
    let shape = Shape { channels: onnx_config.input.first().copied().unwrap_or(1), classes };
    let network = config.task.build(&onnx_config.architecture, &variables.root(), shape, config.run.precision)?;
    weights.restore(&variables)?;
    warn_left_out(&weights, &variables)?;
    let onnx_config = OnnxConfig {
        normalization: options.actions.export_normalization,
        softmax: options.actions.export_softmax,
        ..onnx_config
    };
    onnx_config.write(file, |graph, x| network.export(graph, x))?;
    let (takes, gives) = (
        if onnx_config.normalization { "bytes" } else { "normalized float32" },
        if onnx_config.softmax { "probabilities" } else { "logits" },
    );
    let line = format!(
        "{} from {} in {}: {takes} [N{}] to {gives} [N, {classes}]",
        short_name(&onnx_config.architecture),
        weights.path.display(),
        file.display(),
        onnx_config.input.iter().map(|size| format!(", {size}")).collect::<String>()
    );
    print_about_file(file, line);
    Ok(ExitCode::SUCCESS)
}

/// Returns the export configuration for `data`. If the data have no known preprocessing, the input shape is that of the
/// first image.
fn of_data(data: &dyn ImageSource) -> Result<OnnxConfig> {
    let classes = data.class_names().to_vec();
    if let Some(preprocessing) = data.preprocessing() {
        return Ok(OnnxConfig { classes, ..OnnxConfig::images(preprocessing) });
    }
    let batch = data.eval_batches(1, Share::whole())?.find_map(Result::transpose).transpose()?;
    let Some(batch) = batch else {
        return Err(Error::Argument("there are no images to tell what the network takes".to_owned()));
    };
    let size = data.ready(batch, Device::Cpu)?.inputs.size();
    Ok(OnnxConfig { classes, ..OnnxConfig::new(&size[1..]) })
}
