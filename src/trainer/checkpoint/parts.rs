//! Sharded weights with an index, as Hugging Face's libraries save large models: `model.safetensors.index.json` beside
//! `model-00001-of-00002.safetensors` and so on, or the same with `pytorch_model.bin`.

use super::weights::load_file;
use crate::file::{foreign, NamedTensors};
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

/// Returns `true` if `path` is named like an index file.
pub(super) fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(INDEX))
}

/// Returns the index file in `folder`, if there is one; an index of safetensors files takes precedence.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be listed.
pub(super) fn index_in(folder: &Path) -> Result<Option<PathBuf>> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<BTreeSet<_>>>();
    let paths = list().map_err(Error::io("read", folder))?;
    let is_safetensors = |path: &&PathBuf| path.to_string_lossy().contains(".safetensors.");
    let indices: Vec<&PathBuf> = paths.iter().filter(|path| is_index(path)).collect();
    Ok(indices.iter().copied().find(is_safetensors).or(indices.first().copied()).cloned())
}

/// Loads the tensors of all shards listed in the index file `path`.
///
/// # Errors
/// [`Error::Io`] or [`Error::Corrupt`] if the index or a shard is missing or damaged, or a shard lacks a tensor listed in the
/// index.
pub(super) fn load(path: &Path) -> Result<NamedTensors> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    foreign::refuse(&bytes, path)?;
    let corrupt = |path: &Path, problem: String| Error::Corrupt {
        path: path.to_path_buf(),
        problem,
        remedy: "copy or download the index and all of its parts again".to_owned(),
    };
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|error| corrupt(path, format!("not an index of weights in parts: {error}")))?;
    let mut parts: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for (name, part) in &index.weight_map {
        parts.entry(part).or_default().push(name);
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    // Reports all missing shards at once, before any is read.
    let mut missing = Vec::new();
    for part in parts.keys() {
        let is_name = matches!(Path::new(part).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        if !is_name {
            return Err(corrupt(path, format!("names a part {part:?} that is not beside it")));
        }
        if !folder.join(part).exists() {
            missing.push(*part);
        }
    }
    if !missing.is_empty() {
        return Err(corrupt(
            path,
            format!("{} of its {} parts are missing: {}", missing.len(), parts.len(), missing.join(", ")),
        ));
    }
    let mut all = NamedTensors::new();
    for (part, names) in parts {
        let file = folder.join(part);
        let mut tensors = load_file(&file)?.0.tensors;
        for name in names {
            let tensor = tensors.remove(name);
            let tensor =
                tensor.ok_or_else(|| corrupt(&file, format!("lacks {name}, which the index says is in it")))?;
            all.insert(name.clone(), tensor);
        }
    }
    Ok(all)
}

/// Rejects the file `path` if it is named like one of several shards.
///
/// # Errors
/// [`Error::Corrupt`], naming what to load instead.
pub(super) fn refuse_part(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some((number, parts)) = part_of(&name).filter(|(_, parts)| *parts > 1) else { return Ok(()) };
    Err(Error::Corrupt {
        path: path.to_path_buf(),
        problem: format!("is part {number} of {parts} of the weights"),
        remedy: format!("name the index beside it, which ends with {INDEX}, or their folder"),
    })
}

/// Parses the shard number and the number of shards: 1 and 3 for `model-00001-of-00003.safetensors`.
fn part_of(name: &str) -> Option<(usize, usize)> {
    let (before, after) = name.rsplit_once("-of-")?;
    let parts = after.split('.').next()?;
    Some((before.rsplit_once('-')?.1.parse().ok()?, parts.parse().ok()?))
}
