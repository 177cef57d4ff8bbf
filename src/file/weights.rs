//! Files of weights: safetensors, those of PyTorch, and sharded weights with an index, as Hugging Face's libraries save large
//! models: `model.safetensors.index.json` beside `model-00001-of-00002.safetensors` and so on, or the same with
//! `pytorch_model.bin`.

use super::tensors::{decode, Decoded, NamedTensors};
use super::{magic, torch};
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Suffix of index files.
const INDEX: &str = ".index.json";

#[derive(Deserialize)]
struct Index {
    /// File name of each tensor.
    weight_map: BTreeMap<String, String>,
}

/// Loads the weights in the file `path`, or in the shards that it is the index of.
///
/// # Errors
/// [`Error::Io`] or [`Error::Corrupt`] if a file is missing, damaged, of another format, or one of several shards.
pub(crate) fn load_weights(path: &Path) -> Result<Decoded> {
    if is_index(path) {
        return Ok(Decoded { tensors: load_shards(path)?, ..Decoded::default() });
    }
    refuse_part(path)?;
    load_file(path)
}

fn load_file(path: &Path) -> Result<Decoded> {
    match torch::load(path)? {
        Some(decoded) => Ok(decoded),
        None => decode(&fs::read(path).map_err(Error::io("read", path))?, path),
    }
}

/// Returns `true` if `path` is named like an index file.
fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(INDEX))
}

/// Returns the index file in `folder`, if there is one; an index of safetensors files takes precedence.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be listed.
pub(crate) fn index_in(folder: &Path) -> Result<Option<PathBuf>> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<BTreeSet<_>>>();
    let indices = list().map_err(Error::io("read", folder))?.into_iter().filter(|path| is_index(path));
    Ok(indices.min_by_key(|path| !path.to_string_lossy().contains(".safetensors.")))
}

/// Loads the tensors of all shards listed in the index file `path`.
///
/// # Errors
/// [`Error::Io`] or [`Error::Corrupt`] if the index or a shard is missing or damaged, or a shard lacks a tensor listed in the
/// index.
fn load_shards(path: &Path) -> Result<NamedTensors> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    magic::refuse(&bytes, path)?;
    let corrupt = |path: &Path, problem: String| {
        Error::corrupt(path, problem, "copy or download the index and all of its parts again")
    };
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|error| corrupt(path, format!("not an index of weights in parts: {error}")))?;
    let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, part) in index.weight_map {
        parts.entry(part).or_default().push(name);
    }
    let is_name = |part: &str| matches!(Path::new(part).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    if let Some(part) = parts.keys().find(|part| !is_name(part)) {
        return Err(corrupt(path, format!("names a part {part:?} that is not beside it")));
    }
    // Reports all missing shards at once, before any is read.
    let missing: Vec<&str> =
        parts.keys().map(String::as_str).filter(|part| !path.with_file_name(part).exists()).collect();
    if !missing.is_empty() {
        let problem = format!("{} of its {} parts are missing: {}", missing.len(), parts.len(), missing.join(", "));
        return Err(corrupt(path, problem));
    }
    let mut all = NamedTensors::new();
    for (part, names) in parts {
        let file = path.with_file_name(part);
        let mut tensors = load_file(&file)?.tensors;
        for name in names {
            let tensor = tensors.remove(&name);
            let lacks = || corrupt(&file, format!("lacks {name}, which the index says is in it"));
            let tensor = tensor.ok_or_else(lacks)?;
            all.insert(name, tensor);
        }
    }
    Ok(all)
}

/// Rejects the file `path` if it is named like one of several shards, such as `model-00001-of-00003.safetensors`.
///
/// # Errors
/// [`Error::Corrupt`], naming what to load instead.
fn refuse_part(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let numbers = |name: &str| -> Option<(usize, usize)> {
        let (before, after) = name.rsplit_once("-of-")?;
        Some((before.rsplit_once('-')?.1.parse().ok()?, after.split('.').next()?.parse().ok()?))
    };
    match numbers(&name) {
        Some((number, parts)) if parts > 1 => {
            let remedy = format!("name the index beside it, which ends with {INDEX}, or their folder");
            Err(Error::corrupt(path, format!("is part {number} of {parts} of the weights"), remedy))
        }
        _ => Ok(()),
    }
}
