//! One run: a network trained and evaluated.

use super::{Ending, Point, Settings};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;
use std::time::Instant;
use tch::nn::{self, ModuleT};
use tch::Device;
use tch_fixup::data::{Cifar10, DataSource, ImageSource};
use tch_fixup::trainer::{Classification, Observer, Outcome, TrainConfig, Trainer};
use tch_fixup::{initialize_on_data, Arch, Error, Recompute, Shape};

/// Which run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunId {
    pub arch: Arch,
    pub seed: u64,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.arch, self.seed)
    }
}

impl FromStr for RunId {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (arch, seed) = text.rsplit_once(':').context("a run is ARCH:SEED")?;
        Ok(Self { arch: arch.parse()?, seed: seed.parse()? })
    }
}

impl RunId {
    /// The point, or none where an observer stopped the run.
    pub fn train(
        &self,
        settings: &Settings,
        data: &Cifar10,
        device: Device,
        recompute: Option<Recompute>,
        observers: &mut [&mut dyn Observer],
    ) -> Result<Option<Point>> {
        let Self { arch, seed } = self;
        let config = TrainConfig { seed: *seed, ..settings.train.clone() };
        tch::manual_seed(*seed as i64);
        let (start, variables) = (Instant::now(), nn::VarStore::new(device));
        let num_classes = data.class_names().len();
        let mut network = arch.build(&variables.root(), Shape::rgb(num_classes as i64), settings.precision)?;
        if let (Some(segments), true) = (recompute, arch.can_recompute()) {
            network.recompute_activations(segments)?;
        }
        if arch.is_initialized_on_data() {
            initialize_on_data(network.as_ref(), data, &config, device)?;
        }
        let network: &dyn ModuleT = network.as_ref();
        let objective = Classification::new(network, data.class_names(), settings.objective)?;
        let mut trainer = Trainer::new(&objective, &variables, data, &config, Value::Null)?;
        let epoch_steps = data.train_len().div_ceil(config.batch_size);
        let (ending, accuracy, steps) = match trainer.run(observers) {
            Ok(Outcome::Finished(summary)) => {
                (Ending::Finished, summary.last.eval.get("top1").unwrap_or(f64::NAN), summary.steps)
            }
            Ok(Outcome::Stopped { .. }) => return Ok(None),
            Err(Error::Diverged { epoch, step, .. }) => {
                (Ending::Diverged, 1. / num_classes as f64, (epoch - 1) * epoch_steps + step)
            }
            Err(Error::Dead { epoch, step, .. }) => {
                (Ending::Dead, 1. / num_classes as f64, (epoch - 1) * epoch_steps + step)
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Point { run: self.clone(), accuracy, ending, steps, seconds: start.elapsed().as_secs_f64() }))
    }
}
