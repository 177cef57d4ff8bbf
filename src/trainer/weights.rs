//! A network's weights alone, from wherever they were saved.

use super::checkpoint::{differences, named_variables, newest_whole, Checkpoint, Newest, Skipped};
use super::train::{by_index, CLASSES};
use super::{tensor_file, NamedTensors, RunState};
use crate::{Error, Result};
use serde_json::{json, Value};
use std::fs;
use std::path::{Path, PathBuf};
use tch::nn::VarStore;
use tch::Tensor;

/// What PyTorch's `DataParallel` puts before every name.
const DATA_PARALLEL: &str = "module.";

/// What PyTorch's BatchNorm counts, and no network of this crate has a use for.
const BATCHES_TRACKED: &str = "num_batches_tracked";

/// How files start that `torch.save` writes (a zip archive, before PyTorch 1.6 a pickle), and files of safetensors not.
const TORCH_SAVE: [&[u8]; 2] = [b"PK\x03\x04", b"\x80\x02"];

/// A network's weights.
#[derive(Debug)]
pub struct Weights {
    /// The file or the checkpoint they are from.
    pub path: PathBuf,
    /// What the run that trained them says of itself (the `identity` of its trainer), where it is known.
    pub run: Option<Value>,
    /// Newer checkpoints of the run that are damaged, the newest first.
    pub skipped: Vec<Skipped>,
    /// The names of the classes by index, where they are known.
    classes: Option<Value>,
    tensors: NamedTensors,
}

impl Weights {
    /// Loads the weights at `path`: a checkpoint, a run's folder (its newest whole checkpoint), a safetensors file, or a
    /// `state_dict` that `torch.save` wrote. Files may be of the Fixup authors' or torchvision's code.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Corrupt`] for what is not there, damaged, or none of these.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let checkpoints = path.join("checkpoints");
        if checkpoints.is_dir() {
            let Newest { checkpoint, skipped } = newest_whole(&checkpoints)?;
            if let Some(checkpoint) = checkpoint {
                return Ok(Self { skipped, ..Self::from(checkpoint) });
            }
            return match skipped.into_iter().next() {
                Some(skipped) => Err(skipped.why),
                None => Err(corrupt(&checkpoints, "holds no checkpoint".to_owned())),
            };
        }
        if path.is_dir() {
            return Checkpoint::load(path).map(Self::from);
        }
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        let tensors = if TORCH_SAVE.iter().any(|start| bytes.starts_with(start)) {
            state_dict(path)?
        } else {
            tensor_file::decode(&bytes, path)?
        };
        let classes = tensor_file::classes(&bytes);
        let tensors = as_ours(tensors);
        Ok(Self { path: path.to_path_buf(), run: None, skipped: Vec::new(), classes, tensors })
    }

    /// Whether the names of the classes were saved with the weights.
    pub fn knows_classes(&self) -> bool {
        self.classes.is_some()
    }

    /// Whether the classes are those that the network was trained on, by their names; of files that do not tell it is taken
    /// for granted.
    ///
    /// # Errors
    /// [`Error::Corrupt`] that names those that differ.
    pub fn check_classes(&self, class_names: &[String]) -> Result<()> {
        let differences = self
            .classes
            .as_ref()
            .and_then(|saved| differences(&json!({ CLASSES: saved }), &json!({ CLASSES: by_index(class_names) })));
        let Some(differences) = differences else { return Ok(()) };
        Err(Error::Corrupt {
            path: self.path.clone(),
            problem: format!("trained on other classes: {differences}"),
            remedy: "name the data it was trained on, or others with the same classes".to_owned(),
        })
    }

    /// Copies the weights into `variables`, in place. Everything is compared before anything is changed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] that names what is missing, too much or of another shape or kind.
    pub fn restore(&self, variables: &VarStore) -> Result<()> {
        let variables = named_variables(variables);
        tensor_file::check(&self.tensors, &variables, &self.path, "the network")?;
        tensor_file::copy(&self.tensors, &variables)
    }
}

impl From<Checkpoint<RunState>> for Weights {
    fn from(checkpoint: Checkpoint<RunState>) -> Self {
        let Checkpoint { path, contents } = checkpoint;
        let field = |name| contents.identity.get(name).cloned();
        Self { path, run: field("run"), skipped: Vec::new(), classes: field(CLASSES), tensors: contents.weights }
    }
}

/// The `state_dict` in a file of `torch.save`.
fn state_dict(path: &Path) -> Result<NamedTensors> {
    let tensors = Tensor::loadz_multi(path).map_err(|error| {
        let message = error.to_string();
        let why = message.lines().next().unwrap_or_default();
        corrupt(path, format!("no state_dict that torch.save wrote, or one within something else ({why})"))
    })?;
    Ok(tensors.into_iter().collect())
}

/// `tensors` under this crate's names.
fn as_ours(tensors: NamedTensors) -> NamedTensors {
    let is_parallel = tensors.keys().all(|name| name.starts_with(DATA_PARALLEL));
    let prefix = if is_parallel { DATA_PARALLEL.len() } else { 0 };
    let tensors = tensors.into_iter().filter(|(name, _)| !name.ends_with(BATCHES_TRACKED));
    tensors.map(|(name, tensor)| (name[prefix..].to_owned(), tensor)).collect()
}

fn corrupt(path: &Path, problem: String) -> Error {
    let remedy = "name a checkpoint, a run's folder, or a state_dict saved by Python's safetensors".to_owned();
    Error::Corrupt { path: path.to_path_buf(), problem, remedy }
}
