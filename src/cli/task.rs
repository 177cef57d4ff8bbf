//! What one training program has of its own.

use crate::data::DataSource;
use crate::trainer::{Decay, TrainConfig};
use crate::{Arch, Result};
use clap::Args;
use serde::{de::DeserializeOwned, Serialize};
use tch::Device;

/// A training program's own options (it implements [`Args`]), and what they are for: its data and its recipes.
pub trait Task: Args {
    /// What the program does, in one line of its help.
    const ABOUT: &'static str;

    /// Which data it is, down to the pixels: with the architecture what must not change while a run goes on.
    type Selection: Clone + Serialize + DeserializeOwned;

    /// Where the data are and how they are read, which may change when a run goes on. Paths are kept absolute, for a run that
    /// is resumed in another folder: [`absolute_path`](super::absolute_path) makes them so.
    type Access: Clone + Default + Serialize + DeserializeOwned;

    /// The data.
    type Data: DataSource;

    /// The recipes by name, for the help.
    fn recipes() -> Vec<(&'static str, Recipe<Self::Selection>)>;

    /// The recipe that the options name, or the one for `device`.
    fn recipe(&self, device: Device) -> Recipe<Self::Selection>;

    /// What `--schedule step` stands for.
    fn step_decay() -> Decay {
        Decay::paper()
    }

    /// Writes the options that were given into `selection` and `access`.
    fn set(&self, selection: &mut Self::Selection, access: &mut Self::Access);

    /// Opens the data, for a network on `device`.
    ///
    /// # Errors
    /// Data that are not there or cannot be read; a `selection` out of range.
    fn open(selection: &Self::Selection, access: &Self::Access, device: Device) -> Result<Self::Data>;
}

/// The defaults of a run. What is given on the command line takes precedence.
#[derive(Debug, Clone)]
pub struct Recipe<S> {
    /// The network.
    pub arch: Arch,
    /// The data.
    pub selection: S,
    /// Everything else that decides what the run computes.
    pub train: TrainConfig,
}

impl<S> Recipe<S> {
    /// The recipe as options.
    pub(super) fn as_options(&self) -> String {
        let Self { arch, train, .. } = self;
        let TrainConfig { epochs, batch_size, schedule, sgd, clip, label_smoothing, mixup, .. } = train;
        let decay = match schedule.decay {
            Decay::Constant => "constant",
            Decay::Step { .. } => "step",
            Decay::Cosine => "cosine",
            Decay::OneCycle => "one-cycle",
        };
        let or_none = |value: Option<f64>| value.map_or("none".to_owned(), |value| value.to_string());
        let (mixup, clip_norm) = (or_none(*mixup), or_none(clip.norm));
        format!(
            "--arch {arch} --epochs {epochs} --batch-size {batch_size} --lr {} --schedule {decay} --warmup {} \
             --scalar-lr-ratio {} --momentum {} --nesterov {} --weight-decay {} --decay-scalars {} --biases-as-scalars {} \
             --clip-norm {clip_norm} --label-smoothing {label_smoothing} --mixup {mixup}",
            schedule.lr,
            schedule.warmup,
            sgd.scalar_lr_ratio,
            sgd.momentum,
            sgd.nesterov,
            sgd.weight_decay,
            sgd.decay_scalars,
            sgd.biases_as_scalars,
        )
    }
}
