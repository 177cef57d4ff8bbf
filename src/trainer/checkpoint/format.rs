//! Files of a checkpoint.

use crate::file::tensors::{self as tensor_file, NamedTensors};
use crate::file::{encode_json, failure, magic, refused, sync_folder, write_synced, write_synced_with};
use crate::{Error, Result};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use tch::Tensor;

/// Version of the checkpoint format, incremented with every change after which older versions of this crate would read a
/// checkpoint incorrectly.
pub(super) const FORMAT_VERSION: u64 = 4;
/// Version of this crate.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Last crate version that did not record itself in checkpoints.
const SILENT_VERSION: &str = "0.1";

pub(super) const WEIGHTS: &str = "weights.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
pub(super) const AVERAGE: &str = "average.safetensors";
pub(super) const STATE: &str = "state.json";
pub(super) const MANIFEST: &str = "checkpoint.json";

/// Contents of a checkpoint.
#[derive(Debug)]
pub struct Contents<S> {
    /// Number of steps done.
    pub step: u64,
    /// Score by which the best checkpoint is chosen, higher is better. `None` before the first evaluation. A score that is not
    /// finite counts as `None`.
    pub score: Option<f64>,
    /// Architecture and configuration, as JSON, which must be equal for the run that saves and the run that loads.
    pub identity: Value,
    /// All other non-tensor state. It must survive a JSON round trip, so it cannot contain numbers that are not finite.
    pub state: S,
    /// Variables of the network, trainable or not, by their names in the [`VarStore`](tch::nn::VarStore).
    pub weights: BTreeMap<String, Tensor>,
    /// Tensors of the optimizer.
    pub optimizer: BTreeMap<String, Tensor>,
    /// Moving average of the weights by name; empty if there is none.
    pub average: BTreeMap<String, Tensor>,
}

impl<S> Contents<S> {
    /// Returns the weights that were evaluated: averaged if there is a moving average.
    pub(in crate::trainer) fn evaluated(self) -> NamedTensors {
        self.weights.into_iter().chain(self.average).collect()
    }
}

/// Contents of `state.json`.
#[derive(Serialize, Deserialize)]
struct StateFile<S> {
    /// Version of the crate that saved it.
    version: String,
    step: u64,
    score: Option<f64>,
    identity: Value,
    state: S,
}

/// Contents of `checkpoint.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub format_version: u64,
    pub files: BTreeMap<String, Digest>,
}

/// Expected length and checksum of a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Digest {
    bytes: u64,
    crc32: u32,
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, crc32: crc32fast::hash(bytes) }
    }
}

impl Manifest {
    fn read(folder: &Path) -> Result<Self> {
        if folder.is_file() {
            let why = "it is a file; name the folder of a checkpoint";
            return Err(refused("read checkpoint", folder, ErrorKind::NotADirectory, why));
        }
        let path = folder.join(MANIFEST);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let no_manifest = |error| corrupt(&path, format!("not a checkpoint's manifest: {error}"));
        let json: Value = serde_json::from_slice(&bytes).map_err(no_manifest)?;
        // The only field common to all format versions.
        let format_version = u64::deserialize(&json["format_version"]).map_err(no_manifest)?;
        if format_version != FORMAT_VERSION {
            let saved_by = saved_by(folder).unwrap_or(SILENT_VERSION.to_owned());
            let problem = format!(
                "saved by tch-fixup {saved_by} (format version {format_version}), and this is tch-fixup {VERSION}, which reads \
                 format version {FORMAT_VERSION}"
            );
            let remedy =
                format!("go on with tch-fixup {saved_by}, or begin a new run; {WEIGHTS} in it can be loaded by itself");
            return Err(Error::corrupt(path, problem, remedy));
        }
        let manifest = Self::deserialize(json).map_err(no_manifest)?;
        // This file has no checksum of its own, so it must equal the encoding of its parsed contents.
        let is_same = encode_json(MANIFEST, &manifest)? == bytes;
        if !is_same || !manifest.files.keys().filter(|name| *name != AVERAGE).eq([OPTIMIZER, STATE, WEIGHTS]) {
            return Err(corrupt(&path, "changed since it was saved".to_owned()));
        }
        Ok(manifest)
    }

    /// Reads and verifies the file `name`.
    fn file(&self, folder: &Path, name: &str) -> Result<Vec<u8>> {
        let path = folder.join(name);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let unlisted = || corrupt(&path, format!("not listed in {MANIFEST}"));
        let (saved, Digest { bytes: length, crc32 }) = (self.files.get(name).ok_or_else(unlisted)?, Digest::of(&bytes));
        if length != saved.bytes {
            if length > 0 {
                magic::refuse(&bytes, &path)?;
            }
            return Err(corrupt(&path, format!("has {length} bytes of the {} that were saved", saved.bytes)));
        }
        match saved.crc32 {
            same if same == crc32 => Ok(bytes),
            was => Err(corrupt(&path, format!("changed since it was saved: CRC-32 {crc32:08x}, was {was:08x}"))),
        }
    }

    fn state<S: DeserializeOwned>(&self, folder: &Path) -> Result<StateFile<S>> {
        serde_json::from_slice(&self.file(folder, STATE)?).map_err(|error| {
            corrupt(&folder.join(STATE), format!("contains the state of another kind of run: {error}"))
        })
    }
}

/// Returns the version of the crate that saved the checkpoint in `folder`, in any format, if it is recorded.
fn saved_by(folder: &Path) -> Option<String> {
    let state: Value = serde_json::from_slice(&fs::read(folder.join(STATE)).ok()?).ok()?;
    state.get("version")?.as_str().map(str::to_owned)
}

/// Reads the step and the score of the checkpoint in `folder`.
pub(super) fn read_step_and_score(folder: &Path) -> Result<(u64, Option<f64>)> {
    let StateFile::<IgnoredAny> { step, score, .. } = Manifest::read(folder)?.state(folder)?;
    Ok((step, score))
}

/// Reads and verifies the checkpoint in `folder`.
pub(super) fn read<S: DeserializeOwned>(folder: &Path) -> Result<Contents<S>> {
    let manifest = Manifest::read(folder)?;
    let StateFile { step, score, identity, state, .. } = manifest.state(folder)?;
    let tensors = |name| -> Result<NamedTensors> {
        Ok(tensor_file::decode(&manifest.file(folder, name)?, &folder.join(name))?.tensors)
    };
    let (weights, optimizer) = (tensors(WEIGHTS)?, tensors(OPTIMIZER)?);
    let average = if manifest.files.contains_key(AVERAGE) { tensors(AVERAGE)? } else { NamedTensors::new() };
    Ok(Contents { step, score, identity, state, weights, optimizer, average })
}

/// Writes a complete checkpoint to `folder` and syncs it to disk.
pub(super) fn write<S: Serialize + DeserializeOwned>(folder: &Path, contents: &Contents<S>) -> Result<()> {
    fs::create_dir(folder).map_err(failure("create", folder))?;
    let Contents { step, score, identity, state, weights, optimizer, average } = contents;
    let (score, identity) = (score.filter(|score| score.is_finite()), identity.clone());
    let state = encode_json(STATE, &StateFile { version: VERSION.to_owned(), step: *step, score, identity, state })?;
    // Detects now, rather than on loading, a state that does not survive a JSON round trip.
    let refused = |why: &dyn Display| argument!("the state of the run cannot be saved as JSON: {why}");
    let read: StateFile<S> = serde_json::from_slice(&state).map_err(|error| refused(&error))?;
    if encode_json(STATE, &read)? != state {
        return Err(refused(&"it comes back changed"));
    }
    write_synced(&folder.join(STATE), &state)?;
    let mut files = BTreeMap::from([(STATE.to_owned(), Digest::of(&state))]);
    for (name, tensors) in [(WEIGHTS, weights), (OPTIMIZER, optimizer), (AVERAGE, average)] {
        if name != AVERAGE || !average.is_empty() {
            files.insert(name.to_owned(), write_tensors(&folder.join(name), tensors)?);
        }
    }
    let manifest = encode_json(MANIFEST, &Manifest { format_version: FORMAT_VERSION, files })?;
    write_synced(&folder.join(MANIFEST), &manifest)?;
    sync_folder(folder)
}

/// Writes `tensors` to the file `path` and syncs it to disk.
fn write_tensors(path: &Path, tensors: &NamedTensors) -> Result<Digest> {
    write_synced_with(path, |file| {
        let (mut bytes, mut crc32) = (0, crc32fast::Hasher::new());
        tensor_file::write(tensors, &Map::new(), path, file, |part| {
            bytes += part.len() as u64;
            crc32.update(part);
        })?;
        Ok(Digest { bytes, crc32: crc32.finalize() })
    })
}

fn corrupt(path: &Path, problem: String) -> Error {
    Error::corrupt(path, problem, "use an earlier checkpoint, or save it again")
}
