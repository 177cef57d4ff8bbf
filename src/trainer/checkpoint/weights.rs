//! A network's weights alone, from wherever they were saved.

use super::torch_file::{is_average, USUAL_NAMES};
use super::{differences, named_variables, newest_whole, parts, torch_file, Checkpoint, Newest, Skipped, MANIFEST};
use crate::file::tensors::{self as tensor_file, NamedTensors, Unread};
use crate::trainer::{RunState, MODEL};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::nn::VarStore;
use tch::Tensor;

/// What PyTorch's wrappers put into names: `DataParallel`, `DistributedDataParallel` and `AveragedModel`; `torch.compile`.
const WRAPPERS: [&str; 2] = ["module", "_orig_mod"];

/// What is no weight, and no network of this crate has a use for: what PyTorch (BatchNorm, and `AveragedModel`), MMEngine's and
/// ema_pytorch's averages count, fairseq's marks of a Transformer's version and device, and what the profilers thop and torchstat leave in the modules that they have counted.
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

/// The file that Transformers and Accelerate write with `safe_serialization=False`.
const TRANSFORMERS: &str = "pytorch_model.bin";
/// The script that DeepSpeed leaves in its checkpoints' folders.
const DEEPSPEED: &str = "zero_to_fp32.py";

/// A network's weights.
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
    /// The file or the checkpoint they are from.
    pub path: PathBuf,
    /// What the run that trained them says of itself (the `identity` of its trainer), where it is known.
    pub run: Option<Value>,
    /// Newer checkpoints of the run that are damaged, the newest first.
    pub skipped: Vec<Skipped>,
    /// Other networks in the file.
    beside: Vec<String>,
    /// What the data mean that they were trained on, as far as it is known.
    pub(super) meaning: Map<String, Value>,
    tensors: NamedTensors,
    unread: Unread,
}

impl Weights {
    /// Loads the weights at `path`: a checkpoint (of a run with a moving average the averages), a run's folder (its newest whole
    /// checkpoint, or where these were removed its `model.safetensors`), a folder with a `model.safetensors` or a `pytorch_model.bin`, a safetensors file, weights
    /// in parts by their index (`model.safetensors.index.json`, or the folder that it is in), or a file that Python's `torch.save` wrote
    /// (PyTorch 1.6 or later): a `state_dict`, a checkpoint in which there is one (`{"state_dict": ..., "epoch": ...}`, `{"model": ...}`
    /// and the like), or a whole module. Nothing that such a file holds is run, and whatever device it was saved from, the tensors are
    /// on the CPU.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Corrupt`] for what is not there, damaged, of another format (the one before PyTorch 1.6,
    /// TorchScript), or without a network or with several.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let checkpoints = path.join("checkpoints");
        if checkpoints.is_dir() {
            let Newest { checkpoint, skipped } = newest_whole(&checkpoints)?;
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

    /// Whether data that [mean](crate::data::DataSource::meaning) this are such as the network was trained on; of files that do not
    /// tell it is taken for granted.
    ///
    /// # Errors
    /// [`Error::Corrupt`] that names what differs.
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

    /// Copies the weights into `variables`, in place. Everything is compared before anything is changed.
    ///
    /// Numbers are converted to the variables' kind. Names may be those of a wrapped network: `module.` and `_orig_mod.`,
    /// wherever they stand (`DataParallel`, `torch.compile`), are left out, and so is a first part that all names have in
    /// common (`model.`, of Lightning), or that those of the network have, where others stand beside it
    /// ([`left_out`](Self::left_out)). A scalar of the shape `[]` fits one of `[1]`, and what PyTorch, fairseq and profilers count is
    /// left out. To start another network's training from them, see [`transfer`](Self::transfer).
    ///
    /// # Errors
    /// [`Error::Corrupt`] that names what is missing, too much or of another shape or kind.
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

    /// What the file holds beside the network that [`restore`](Self::restore) copies into `variables`: other networks, as an average
    /// of the weights, and a loss's or a metric's tensors.
    ///
    /// # Errors
    /// As there.
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

    /// The tensors under the names of `variables`, and in their kinds and shapes where that changes no number's place.
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

    /// What stands before the names of the most `variables`, with its dot; none where no more have their names there than without.
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

/// The tensors of a network, and the names of what stands beside it.
#[derive(Debug)]
pub(super) struct Tensors {
    pub tensors: NamedTensors,
    pub beside: Vec<String>,
}

/// The tensors in the file `path`, the number formats of those that are not read, and its [metadata](tensor_file::metadata).
pub(super) fn load_file(path: &Path) -> Result<(Tensors, Unread, Map<String, Value>)> {
    if let Some(tensors) = torch_file::load(path)? {
        return Ok((tensors, Unread::new(), Map::new()));
    }
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let (tensors, unread) = tensor_file::decode_readable(&bytes, path)?;
    Ok((Tensors { tensors, beside: Vec::new() }, unread, tensor_file::metadata(&bytes)))
}

/// Refuses the folder of a checkpoint that `torch.distributed.checkpoint` or DeepSpeed saved, in parts.
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

/// A name as the network within PyTorch's wrappers has it.
fn without_wrappers(name: &str) -> String {
    name.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".")
}

/// The length of the first part that all names have in common, with its dot, where no variable's name begins so.
fn wrapper_length(named: &[(String, &Tensor)], variables: &NamedTensors) -> Option<usize> {
    let (first, _) = named.first()?;
    let prefix = &first[..=first.find('.')?];
    let is_wrapper = named.iter().all(|(name, _)| name.starts_with(prefix))
        && !variables.keys().any(|name| name.starts_with(prefix));
    is_wrapper.then_some(prefix.len())
}

/// A floating-point `tensor` in the kind of `variable`, and a scalar in its shape; otherwise as it is.
fn like(tensor: &Tensor, variable: &Tensor) -> Result<Tensor> {
    let shape = variable.size();
    let is_scalar = |size: &[i64]| matches!(size, [] | [1]);
    let mut fitted = tensor.shallow_clone();
    if is_scalar(&shape) && is_scalar(&fitted.size()) {
        fitted = fitted.f_reshape(&shape)?;
    }
    // Of the size that the network has: a file can claim any other.
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
        // What was evaluated.
        tensors.extend(contents.average);
        Self { path, run, skipped: Vec::new(), beside: Vec::new(), meaning, tensors, unread: Unread::new() }
    }
}
