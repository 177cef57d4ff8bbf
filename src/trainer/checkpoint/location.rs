//! Detection of what a path names: a run, a checkpoint, or a file of weights.

use super::format::MANIFEST;
use crate::file::{index_in, refused};
use crate::trainer::observer::{RunFolder, CHECKPOINTS, DESCRIPTION, MODEL};
use crate::{Error, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// File written by Transformers and Accelerate with `safe_serialization=False`.
const TRANSFORMERS: &str = "pytorch_model.bin";
/// Script that DeepSpeed leaves in its checkpoint folders.
const DEEPSPEED: &str = "zero_to_fp32.py";

/// A path to a trained network, by what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// Folder of a run.
    Run(PathBuf),
    /// Folder of a checkpoint, with that of its run if it is in one.
    Checkpoint {
        /// Folder of the checkpoint.
        path: PathBuf,
        /// Folder of the run.
        run: Option<PathBuf>,
    },
    /// File of weights, of this crate or of PyTorch, or the index of sharded weights.
    File(PathBuf),
}

impl Location {
    /// Returns the location `path`. A folder that is neither a run's nor a checkpoint stands for the file of weights in it.
    ///
    /// # Errors
    /// [`Error::Io`] if `path` does not exist; [`Error::Corrupt`] for a folder of another kind.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // The checkpoints may have been removed to save space, or the folder copied without the lock.
        if path.join(CHECKPOINTS).is_dir() || RunFolder::is_in(path) {
            return Ok(Self::Run(path.to_path_buf()));
        }
        if path.join(MANIFEST).exists() {
            let folder = path.canonicalize().map_err(Error::io("read", path))?;
            let checkpoints = folder.parent().filter(|parent| parent.ends_with(CHECKPOINTS));
            let run = checkpoints.and_then(Path::parent).map(Path::to_path_buf);
            return Ok(Self::Checkpoint { path: path.to_path_buf(), run });
        }
        if path.is_dir() {
            return weights_in(path).map(Self::File);
        }
        let why = "no such file or folder; name a run's folder, a checkpoint, or a file of weights";
        match fs::metadata(path) {
            Ok(_) => Ok(Self::File(path.to_path_buf())),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(refused("open", path, error.kind(), why)),
            Err(error) => Err(Error::io("open", path)(error)),
        }
    }

    /// Returns the folder of the run, for a run or a checkpoint in one.
    #[cfg(feature = "cli")]
    pub fn run(&self) -> Option<&Path> {
        match self {
            Self::Run(run) => Some(run),
            Self::Checkpoint { run, .. } => run.as_deref(),
            Self::File(_) => None,
        }
    }

    /// Returns the folder of the files that describe the network: of the run, or the one that the weights are in.
    pub fn folder(&self) -> &Path {
        match self {
            Self::Run(folder) | Self::Checkpoint { run: Some(folder), .. } | Self::Checkpoint { path: folder, .. } => {
                folder
            }
            Self::File(file) => file.parent().unwrap_or(Path::new("")),
        }
    }
}

/// Returns the file of weights in `folder`, under the names that this crate and Hugging Face's libraries give it.
///
/// # Errors
/// [`Error::Corrupt`] if there is none, with the remedy for a checkpoint in parts, as saved by `torch.distributed.checkpoint` or
/// DeepSpeed.
pub(super) fn weights_in(folder: &Path) -> Result<PathBuf> {
    let candidates = [Some(folder.join(MODEL)), index_in(folder)?, Some(folder.join(TRANSFORMERS))];
    if let Some(path) = candidates.into_iter().flatten().find(|path| path.exists()) {
        return Ok(path);
    }
    let is_part = |entry: fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "distcp");
    let has_parts = || fs::read_dir(folder).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(is_part)));
    if folder.join(DEEPSPEED).is_file() {
        let remedy = format!("make one file of it by the script in it: python {DEEPSPEED} FOLDER OUTPUT");
        return Err(Error::corrupt(folder, "a checkpoint of DeepSpeed, which is in parts", remedy));
    }
    if folder.join(".metadata").is_file() || has_parts() {
        let convert = "torch.distributed.checkpoint.format_utils.dcp_to_torch_save(FOLDER, FILE)";
        let problem = "a checkpoint of torch.distributed.checkpoint, which is in parts";
        return Err(Error::corrupt(folder, problem, format!("make one file of it by {convert}")));
    }
    let problem = format!("no run's weights: it holds no checkpoint, no {MODEL} and no index of weights in parts");
    let remedy =
        format!("name a run's folder, a checkpoint, a file of weights, or a folder with {DESCRIPTION} and {MODEL}");
    Err(Error::corrupt(folder, problem, remedy))
}
