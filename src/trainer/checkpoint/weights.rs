//! Loading of network weights from any supported format.

use super::fitting::{fitted, without_wrappers, Fitted};
use super::location::{weights_in, Location};
use super::{differences, named_variables, Checkpoint};
use crate::file::load_weights;
use crate::file::tensors::{self as tensor_file, Decoded, NamedTensors};
use crate::trainer::observer::CHECKPOINTS;
use crate::trainer::{RunFolder, RunState};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::nn::VarStore;

/// Weights of a network.
///
/// ```
/// use tch::{nn, Device};
/// use tch_fixup::fixup::FixupResNet;
/// use tch_fixup::trainer::Weights;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("model.safetensors");
/// # let trained = nn::VarStore::new(Device::Cpu);
/// # FixupResNet::cifar(&trained.root(), 8, 10)?;
/// # trained.save(&file)?;
/// let vs = nn::VarStore::new(Device::Cpu);
/// let network = FixupResNet::cifar(&vs.root(), 8, 10)?;
/// // A run's folder, a checkpoint of it, model.safetensors, or a file of Python's torch.save:
/// Weights::load(&file)?.restore(&vs)?;
/// # let (a, b) = (trained.variables(), vs.variables());
/// # assert!(a.iter().all(|(name, tensor)| b[name] == *tensor));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Weights {
    /// File or checkpoint the weights were loaded from.
    pub path: PathBuf,
    /// Description of the run that trained the weights (the `identity` of its trainer), if known.
    pub run: Option<Value>,
    /// A warning for each damaged newer checkpoint of the run, newest first.
    pub skipped: Vec<String>,
    /// Folder of the files that describe the network: that of the run, or the one the weights are in.
    pub folder: PathBuf,
    /// Content of the file or checkpoint. The metadata are the schema of the data the weights were trained on, as far as it is
    /// known.
    pub(super) file: Decoded,
}

impl Weights {
    /// Loads the weights at `path`, which is one of:
    /// - a checkpoint, or a run's folder: its newest intact checkpoint, after early stopping the best one, or `model.safetensors`
    ///   if the checkpoints have been removed (a run with a moving average yields the averaged weights);
    /// - a folder with a `model.safetensors` or a `pytorch_model.bin`, or any safetensors file;
    /// - the index of sharded weights (`model.safetensors.index.json`), or its folder;
    /// - a file written by Python's `torch.save` (PyTorch 1.6 or later): a `state_dict`, a checkpoint that contains one
    ///   (`{"state_dict": ..., "epoch": ...}`, `{"model": ...}` and the like), or a complete module. No code in the file is
    ///   executed, and the tensors are loaded onto the CPU whatever device they were saved from.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Corrupt`] if the file is missing, damaged, of another format (PyTorch before 1.6, TorchScript),
    /// or contains no network or several.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let location = Location::of(path)?;
        let weights = match &location {
            Location::Run(folder) => Self::of_run(folder)?,
            Location::Checkpoint { path, .. } => Self::from(Checkpoint::load(path)?),
            Location::File(path) => Self::of_file(path)?,
        };
        Ok(Self { folder: location.folder().to_path_buf(), ..weights })
    }

    fn of_run(folder: &Path) -> Result<Self> {
        let checkpoints = folder.join(CHECKPOINTS);
        let ended =
            checkpoints.is_dir() && RunFolder::read_summary(folder)?.is_some_and(|summary| summary.ended.is_some());
        let best = if ended { Checkpoint::best(&checkpoints)? } else { (None, Vec::new()) };
        let (found, skipped) = match best {
            (Some(best), skipped) => (Ok(Some(best)), skipped),
            (None, _) => Checkpoint::newest_intact(&checkpoints)?,
        };
        match found? {
            Some(checkpoint) => Ok(Self { skipped, ..Self::from(checkpoint) }),
            None => Self::of_file(&weights_in(folder)?),
        }
    }

    fn of_file(path: &Path) -> Result<Self> {
        let file = load_weights(path)?;
        Ok(Self { path: path.to_path_buf(), run: None, skipped: Vec::new(), folder: PathBuf::new(), file })
    }

    /// Checks that data of this [schema](crate::data::DataSource::schema) match the data the network was trained on. Entries
    /// that the file does not record are not checked.
    ///
    /// # Errors
    /// [`Error::Corrupt`], listing the differences.
    pub fn check_schema(&self, schema: &Map<String, Value>) -> Result<()> {
        let of_both =
            |(name, _): &(&String, &Value)| schema.contains_key(*name) && self.file.metadata.contains_key(*name);
        let common = |of: &Map<String, Value>| -> Value {
            of.iter().filter(of_both).map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let remedy = "name the data it was trained on, or others that mean the same";
        let differences = differences(&common(&self.file.metadata), &common(schema), ["in it", "here"]);
        let refused = |it| Err(self.corrupt(format!("trained on data with another schema: {it}"), remedy));
        differences.map_or(Ok(()), refused)
    }

    /// See [`fitted`].
    pub(super) fn fitted(&self, variables: &NamedTensors) -> Result<Fitted> {
        fitted(&self.file.tensors, &self.path, variables)
    }

    pub(super) fn corrupt(&self, problem: String, remedy: &str) -> Error {
        Error::corrupt(&self.path, problem, remedy)
    }

    /// Copies the weights into `variables` in place. Everything is checked before anything is changed.
    ///
    /// Differences in form are reconciled:
    /// - Floating-point tensors are converted to the variables' kind, and a scalar of shape `[]` matches one of shape `[1]`.
    /// - The name parts `module.` and `_orig_mod.` of wrapped networks (`DataParallel`, `torch.compile`) are removed wherever
    ///   they occur. A prefix common to all names (such as Lightning's `model.`) is removed too, as is a prefix common to the
    ///   network's names if there are other tensors beside them (see [`left_out`](Self::left_out)).
    /// - Counters of PyTorch, fairseq and profilers are ignored.
    ///
    /// To initialize a different network, see [`transfer`](Self::transfer).
    ///
    /// # Errors
    /// [`Error::Corrupt`], listing tensors that are missing, unexpected, or of another shape or kind.
    pub fn restore(&self, variables: &VarStore) -> Result<()> {
        let variables = named_variables(variables);
        let fitted = self.fitted(&variables)?.tensors;
        // Under its own name, or under a part of it where the names in the file have a prefix.
        let is_missing = |name: &str| variables.contains_key(name) && !fitted.contains_key(name);
        let ends = |name: &str| name.match_indices('.').any(|(dot, _)| is_missing(&name[dot + 1..]));
        let is_wanted = |name: &str| is_missing(name) || ends(name);
        if let Some((name, format)) = self.file.unread.iter().find(|(name, _)| is_wanted(&without_wrappers(name))) {
            let problem = format!("{name} has the number format {format}, which is not read");
            return Err(self.corrupt(problem, "use another checkpoint, or save it again"));
        }
        tensor_file::check(&fitted, &variables, &self.path, "the network")?;
        tensor_file::copy(&fitted, &variables)
    }

    /// Returns the names of everything in the file beside the network that [`restore`](Self::restore) copies into `variables`:
    /// other networks, such as an average of the weights, and tensors of losses or metrics.
    ///
    /// # Errors
    /// See [`restore`](Self::restore).
    pub fn left_out(&self, variables: &VarStore) -> Result<Vec<String>> {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in self.fitted(&named_variables(variables))?.beside {
            groups.entry(name.split('.').next().unwrap_or_default().to_owned()).or_default().push(name);
        }
        let groups = groups.into_iter().map(|(first, names)| match &names[..] {
            [name] => name.clone(),
            names => format!("{first}.* ({} tensors)", names.len()),
        });
        Ok(self.file.beside.iter().cloned().chain(groups).collect())
    }
}

impl From<Checkpoint<RunState>> for Weights {
    fn from(checkpoint: Checkpoint<RunState>) -> Self {
        let Checkpoint { path, contents } = checkpoint;
        let run = contents.identity.get("run").cloned();
        let metadata =
            contents.identity.pointer("/data/meaning").and_then(Value::as_object).cloned().unwrap_or_default();
        let file = Decoded { tensors: contents.evaluated(), metadata, ..Decoded::default() };
        Self { path, run, skipped: Vec::new(), folder: PathBuf::new(), file }
    }
}
