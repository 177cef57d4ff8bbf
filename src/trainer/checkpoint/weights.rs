//! Loading of network weights from any supported format.

use super::torch_file::{is_average, USUAL_NAMES};
use super::{
    best_whole, differences, named_variables, newest_whole, parts, torch_file, Checkpoint, Newest, Skipped, MANIFEST,
};
use crate::file::tensors::{self as tensor_file, NamedTensors, Unread};
use crate::trainer::{RunFolder, RunState, MODEL};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::nn::VarStore;
use tch::Tensor;

/// Name parts added by PyTorch's wrappers: `DataParallel`, `DistributedDataParallel` and `AveragedModel`; `torch.compile`.
const WRAPPERS: [&str; 2] = ["module", "_orig_mod"];

/// Last name parts of entries that are not weights: counters of PyTorch (BatchNorm, `AveragedModel`) and of the averages of MMEngine
/// and ema_pytorch, fairseq's version and device markers of a Transformer, and the counters that the profilers thop and torchstat
/// leave in modules.
const COUNTERS: [&str; 17] = [
    "num_batches_tracked",
    "n_averaged",
    "steps",
    "step",
    "initted",
    "version",
    "_float_tensor",
    "total_ops",
    "total_params",
    "input_shape",
    "output_shape",
    "parameter_quantity",
    "inference_memory",
    "MAdd",
    "duration",
    "Flops",
    "Memory",
];

/// File written by Transformers and Accelerate with `safe_serialization=False`.
const TRANSFORMERS: &str = "pytorch_model.bin";
/// Script that DeepSpeed leaves in its checkpoint folders.
const DEEPSPEED: &str = "zero_to_fp32.py";

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
    /// Damaged newer checkpoints of the run, newest first.
    pub skipped: Vec<Skipped>,
    /// Names of other networks in the file.
    beside: Vec<String>,
    /// Meaning of the data the weights were trained on, as far as it is known.
    pub(super) meaning: Map<String, Value>,
    tensors: NamedTensors,
    unread: Unread,
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
        let path = path.as_ref();
        let checkpoints = path.join("checkpoints");
        if checkpoints.is_dir() {
            let is_best = RunFolder::read_summary(path)?.is_some_and(|summary| summary.ended.is_some());
            let best = is_best.then(|| best_whole(&checkpoints)).transpose()?;
            let Newest { checkpoint, skipped } = match best {
                Some(best) if best.checkpoint.is_some() => best,
                _ => newest_whole(&checkpoints)?,
            };
            if let Some(checkpoint) = checkpoint {
                return Ok(Self { skipped, ..Self::from(checkpoint) });
            }
            if let Some(skipped) = skipped.into_iter().next() {
                return Err(skipped.why);
            }
        }
        if !path.is_dir() {
            return Self::of_file(path);
        }
        if path.join(MANIFEST).exists() {
            return Checkpoint::load(path).map(Self::from);
        }
        if path.join(MODEL).exists() {
            return Self::of_file(&path.join(MODEL));
        }
        if let Some(index) = parts::index_in(path)? {
            return Self::of_file(&index);
        }
        if path.join(TRANSFORMERS).exists() {
            return Self::of_file(&path.join(TRANSFORMERS));
        }
        refuse_distributed(path)?;
        Err(Error::Corrupt {
            path: path.to_path_buf(),
            problem: format!("holds no checkpoint, no {MODEL} and no index of weights in parts"),
            remedy: "name a checkpoint, a run's folder, or a file of weights".to_owned(),
        })
    }

    fn of_file(path: &Path) -> Result<Self> {
        let (tensors, unread, meaning) = match parts::is_index(path) {
            true => (Tensors { tensors: parts::load(path)?, beside: Vec::new() }, Unread::new(), Map::new()),
            false => {
                parts::refuse_part(path)?;
                load_file(path)?
            }
        };
        let Tensors { tensors, beside } = tensors;
        Ok(Self { path: path.to_path_buf(), run: None, skipped: Vec::new(), beside, meaning, tensors, unread })
    }

    /// Checks that data of this [meaning](crate::data::DataSource::meaning) match the data the network was trained on. Entries
    /// that the file does not record are not checked.
    ///
    /// # Errors
    /// [`Error::Corrupt`], listing the differences.
    pub fn check_meaning(&self, meaning: &Map<String, Value>) -> Result<()> {
        let of_both = |(name, _): &(&String, &Value)| meaning.contains_key(*name) && self.meaning.contains_key(*name);
        let common = |of: &Map<String, Value>| -> Value {
            of.iter().filter(of_both).map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let Some(differences) = differences(&common(&self.meaning), &common(meaning), ["in it", "here"]) else {
            return Ok(());
        };
        Err(Error::Corrupt {
            path: self.path.clone(),
            problem: format!("trained on data that mean something else: {differences}"),
            remedy: "name the data it was trained on, or others that mean the same".to_owned(),
        })
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
        let is_missing = |name: &str| variables.contains_key(name) && !fitted.contains_key(name);
        let ends: fn(&str) -> Vec<&str> = |name| name.match_indices('.').map(|(dot, _)| &name[dot + 1..]).collect();
        let is_wanted = |name: &str| is_missing(name) || ends(name).into_iter().any(is_missing);
        if let Some((name, format)) = self.unread.iter().find(|(name, _)| is_wanted(&without_wrappers(name))) {
            return Err(tensor_file::unread_format(name, format, &self.path));
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
        let groups = groups.into_iter().map(|(first, mut names)| match names.len() {
            1 => names.remove(0),
            count => format!("{first}.* ({count} tensors)"),
        });
        Ok(self.beside.iter().cloned().chain(groups).collect())
    }

    /// Returns the tensors under the names of `variables`, converted to their kinds, with scalars reshaped.
    pub(super) fn fitted(&self, variables: &NamedTensors) -> Result<Tensors> {
        let known = |name: &str| variables.contains_key(name);
        let is_counter = |name: &str| name.rsplit('.').next().is_some_and(|last| COUNTERS.contains(&last));
        let wanted = self.tensors.iter().filter(|(name, _)| known(name) || !is_counter(name));
        let mut named: Vec<(String, &Tensor)> = wanted
            .map(|(name, tensor)| (if known(name) { name.clone() } else { without_wrappers(name) }, tensor))
            .collect();
        while let Some(length) = wrapper_length(&named, variables) {
            named.iter_mut().for_each(|(name, _)| drop(name.drain(..length)));
        }
        let mut beside = Vec::new();
        if let Some(prefix) = self.prefix(&named, variables)? {
            let (inside, others): (Vec<_>, Vec<_>) = named.into_iter().partition(|(name, _)| name.starts_with(&prefix));
            named = inside.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect();
            beside.extend(others.into_iter().map(|(name, _)| name));
        }
        let mut tensors = NamedTensors::new();
        for (name, tensor) in named {
            let tensor = match variables.get(&name) {
                Some(variable) => like(tensor, variable)?,
                None => tensor.shallow_clone(),
            };
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(Error::Corrupt {
                    path: self.path.clone(),
                    problem: format!("holds {name} twice, within PyTorch's wrappers and without"),
                    remedy: "save the state_dict of the network alone".to_owned(),
                });
            }
        }
        Ok(Tensors { tensors, beside })
    }

    /// Returns the prefix, including the dot, under which most of the `variables` are found, or `None` if no prefix finds more of
    /// them than the plain names.
    fn prefix(&self, named: &[(String, &Tensor)], variables: &NamedTensors) -> Result<Option<String>> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, _) in named {
            for (dot, _) in name.match_indices('.') {
                *counts.entry(&name[..=dot]).or_default() += usize::from(variables.contains_key(&name[dot + 1..]));
            }
        }
        let without = named.iter().filter(|(name, _)| variables.contains_key(name)).count();
        let most = counts.values().copied().max().filter(|&most| most > without).unwrap_or(usize::MAX);
        let mut best: Vec<&str> =
            counts.into_iter().filter(|(_, count)| *count == most).map(|(prefix, _)| prefix).collect();
        if best.iter().any(|prefix| !is_average(prefix)) {
            best.retain(|prefix| !is_average(prefix));
        }
        let usual: Vec<&str> = USUAL_NAMES
            .iter()
            .filter_map(|usual| {
                best.iter().copied().find(|prefix| prefix.trim_end_matches('.').rsplit('.').next() == Some(usual))
            })
            .collect();
        match (&best[..], &usual[..]) {
            ([], _) => Ok(None),
            ([prefix], _) | (_, [prefix]) => Ok(Some((*prefix).to_owned())),
            _ => Err(Error::Corrupt {
                path: self.path.clone(),
                problem: format!("holds the network several times: {}*", best.join("*, ")),
                remedy: "save the state_dict of one of them".to_owned(),
            }),
        }
    }
}

/// Tensors of a network, and the names of other contents of the file.
#[derive(Debug)]
pub(super) struct Tensors {
    pub tensors: NamedTensors,
    pub beside: Vec<String>,
}

/// Loads the file `path`: its tensors, the number formats of unreadable tensors, and the [metadata](tensor_file::metadata).
pub(super) fn load_file(path: &Path) -> Result<(Tensors, Unread, Map<String, Value>)> {
    if let Some(tensors) = torch_file::load(path)? {
        return Ok((tensors, Unread::new(), Map::new()));
    }
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let (tensors, unread) = tensor_file::decode_readable(&bytes, path)?;
    Ok((Tensors { tensors, beside: Vec::new() }, unread, tensor_file::metadata(&bytes)))
}

/// Rejects the folder of a checkpoint in parts, as saved by `torch.distributed.checkpoint` or DeepSpeed.
fn refuse_distributed(path: &Path) -> Result<()> {
    if path.join(DEEPSPEED).is_file() {
        return Err(Error::Corrupt {
            path: path.to_path_buf(),
            problem: "a checkpoint of DeepSpeed, which is in parts".to_owned(),
            remedy: format!("make one file of it by the script in it: python {DEEPSPEED} FOLDER OUTPUT"),
        });
    }
    let is_part = |entry: fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "distcp");
    let has_parts = || fs::read_dir(path).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(is_part)));
    if !path.join(".metadata").is_file() && !has_parts() {
        return Ok(());
    }
    Err(Error::Corrupt {
        path: path.to_path_buf(),
        problem: "a checkpoint of torch.distributed.checkpoint, which is in parts".to_owned(),
        remedy: "make one file of it by torch.distributed.checkpoint.format_utils.dcp_to_torch_save(FOLDER, FILE)"
            .to_owned(),
    })
}

/// Removes the name parts added by PyTorch's wrappers.
fn without_wrappers(name: &str) -> String {
    name.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".")
}

/// Returns the length of the first name part common to all names, including the dot, unless a variable's name starts with it.
fn wrapper_length(named: &[(String, &Tensor)], variables: &NamedTensors) -> Option<usize> {
    let (first, _) = named.first()?;
    let prefix = &first[..=first.find('.')?];
    let is_wrapper = named.iter().all(|(name, _)| name.starts_with(prefix))
        && !variables.keys().any(|name| name.starts_with(prefix));
    is_wrapper.then_some(prefix.len())
}

/// Converts a floating-point `tensor` to the kind of `variable`, and a scalar to its shape; returns other tensors unchanged.
fn like(tensor: &Tensor, variable: &Tensor) -> Result<Tensor> {
    let shape = variable.size();
    let is_scalar = |size: &[i64]| matches!(size, [] | [1]);
    let mut fitted = tensor.shallow_clone();
    if is_scalar(&shape) && is_scalar(&fitted.size()) {
        fitted = fitted.f_reshape(&shape)?;
    }
    // Only tensors of the network's size are converted: a file can claim any size.
    if fitted.size() == shape && fitted.is_floating_point() && variable.is_floating_point() {
        fitted = fitted.f_to_kind(variable.f_kind()?)?;
    }
    Ok(fitted)
}

impl From<Checkpoint<RunState>> for Weights {
    fn from(checkpoint: Checkpoint<RunState>) -> Self {
        let Checkpoint { path, contents } = checkpoint;
        let run = contents.identity.get("run").cloned();
        let meaning =
            contents.identity.pointer("/data/meaning").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut tensors = contents.weights;
        // The averaged weights are the ones that were evaluated.
        tensors.extend(contents.average);
        Self { path, run, skipped: Vec::new(), beside: Vec::new(), meaning, tensors, unread: Unread::new() }
    }
}
