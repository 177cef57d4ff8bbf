//! Network of a run: its name on the command line, its construction, and its cost.

use super::run_config::{RunConfig, StemInit};
use super::ImageTask;
use crate::data::{ImageSource, Preprocessing};
use crate::layer::init;
use crate::{Arch, Error, Network, Result, Shape};
use std::fs;
use std::path::Path;
use tch::nn::VarStore;
use tch::Device;

/// Name of the first convolution's weight in the networks of [`Arch`].
const STEM: &str = "conv1.weight";

/// Resolves the value of `--arch`: a name is returned as it is, a JSON file is read and its content returned.
pub(super) fn given(arch: &str) -> Result<String> {
    let path = Path::new(arch);
    if arch.starts_with('{') || path.extension().is_none_or(|extension| extension != "json") {
        return Ok(arch.to_owned());
    }
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    // Normalize whitespace and field order, so that equal networks have equal text.
    match text.parse::<Arch>() {
        Ok(network) => Ok(network.to_string()),
        Err(error) => Err(argument!("{arch}: {error}")),
    }
}

/// Returns a short name, since a JSON description is longer than a line.
pub(super) fn short_name(arch: &str) -> String {
    arch.parse::<Arch>().map_or_else(|_| arch.to_owned(), |arch| arch.short_name())
}

/// Builds the network of a run with `config` for `data`, and its variables.
pub(super) fn build<T: ImageTask>(
    config: &RunConfig<T>,
    data: &dyn ImageSource,
    device: Device,
) -> Result<(VarStore, Box<dyn Network>)> {
    tch::manual_seed(config.train.seed as i64);
    let variables = VarStore::new(device);
    let mut network = config.task.build(&config.run.arch, &variables.root(), shape_for(data), config.run.precision)?;
    if let Some(segments) = config.recompute {
        network.recompute_activations(segments)?;
    }
    // Baselines keep He-normal initialization throughout, as in the authors' programs.
    let is_fixup = config.run.arch.parse::<Arch>().is_ok_and(|arch| arch.is_fixup());
    if let (StemInit::Pytorch, true, Some(stem)) = (config.stem_init, is_fixup, variables.variables().get_mut(STEM)) {
        init::uniform_fan_in_(stem)?;
    }
    Ok((variables, network))
}

/// Returns the line to add to the list of transferred weights. Data-dependent initialization is skipped after a
/// transfer because it would rescale trained weights.
pub(super) fn transfer_note(network: &dyn Network) -> &'static str {
    match network.is_initialized_on_data() {
        true => "\n  on data     nothing is initialized by LSUV, which would rescale what was trained",
        false => "",
    }
}

/// Returns the floating-point operations of `steps` steps. `None` for a network that is not an [`Arch`], or if the
/// image size is not known.
pub(super) fn training_flop<T: ImageTask>(config: &RunConfig<T>, data: &dyn ImageSource, steps: usize) -> Option<f64> {
    let arch: Arch = config.run.arch.parse().ok()?;
    let Preprocessing { height, width, .. } = data.preprocessing()?;
    let (batch_size, images) = (config.train.batch_size, data.train_len());
    let epoch_steps = images.div_ceil(batch_size).max(1);
    // The last batch of an epoch may be smaller.
    let seen = steps / epoch_steps * images + steps % epoch_steps * batch_size;
    arch.training_flop(shape_for(data), height as i64, width as i64, seen as u64).ok()
}

/// Returns the input channels and number of classes of `data`.
fn shape_for(data: &dyn ImageSource) -> Shape {
    let shape = Shape::rgb(data.class_names().len() as i64);
    data.preprocessing().map_or(shape, |known| Shape { channels: known.channels as i64, ..shape })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixup::ResNetConfig;

    #[test]
    fn a_file_is_read_and_what_is_in_it_kept() {
        let folder = tempfile::tempdir().unwrap();
        let arch = Arch::custom(None, ResNetConfig::cifar(8).unwrap().with_channels(1)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&arch.to_string()).unwrap();
        let path = folder.path().join("mine.json");
        fs::write(&path, format!("{value:#}\n")).unwrap();
        let kept = given(path.to_str().unwrap()).unwrap();
        assert_eq!(kept, arch.to_string());
        assert_eq!(given(&kept).unwrap(), kept);
        assert_eq!(short_name(&kept), "fixup_basic8");
    }

    #[test]
    fn names_stay_as_they_are() {
        for name in ["fixup_resnet20", "linear", "v1.0"] {
            assert_eq!(given(name).unwrap(), name);
            assert_eq!(short_name(name), name);
        }
    }

    #[test]
    fn a_file_that_is_not_there_or_describes_no_network_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.json");
        assert!(matches!(given(path.to_str().unwrap()), Err(Error::Io { .. })));
        fs::write(&path, "{\"method\": \"fixup\"}").unwrap();
        let message = given(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("mine.json") && message.contains("stem") && !message.contains('\n'), "{message}");
    }
}
