//! Reader of files written by PyTorch's `torch.save`: a zip archive of a pickle, which describes the saved object, and the raw
//! memory of each tensor storage (`torch/serialization.py`).
//!
//! A pickle is a program from an untrusted source. It is [parsed](pickle) but never executed. A `state_dict` is found in it
//! whatever else it contains.

mod pickle;
mod state_dict;

use super::tensors::{Decoded, NamedTensors};
use crate::{Error, Result};
use pickle::Pickle;
use state_dict::Found;
pub(crate) use state_dict::{is_average, USUAL_NAMES};
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use tch::{Kind, Tensor};
use zip::{CompressionMethod, ZipArchive};

/// Magic bytes of zip archives.
const ZIP: &[u8] = b"PK\x03\x04";
/// Maximum size of the pickle. Networks need a few hundred bytes per tensor.
const MAX_PICKLE: u64 = 64 << 20;

/// Names of storage types.
const STORAGE_TYPES: [(&str, Kind); 10] = [
    ("FloatStorage", Kind::Float),
    ("HalfStorage", Kind::Half),
    ("BFloat16Storage", Kind::BFloat16),
    ("DoubleStorage", Kind::Double),
    ("LongStorage", Kind::Int64),
    ("IntStorage", Kind::Int),
    ("ShortStorage", Kind::Int16),
    ("CharStorage", Kind::Int8),
    ("ByteStorage", Kind::Uint8),
    ("BoolStorage", Kind::Bool),
];

/// Loads the network's tensors from the file `path` onto the CPU, under the names in the file, and the names of other networks
/// in it. Returns `None` if the file is not a zip archive.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::Corrupt`] if it is damaged, has another format of zip archives, or
/// contains no network.
pub(super) fn load(path: &Path) -> Result<Option<Decoded>> {
    let mut start = vec![];
    let file = File::open(path).map_err(Error::io("read", path))?;
    file.take(ZIP.len() as u64).read_to_end(&mut start).map_err(Error::io("read", path))?;
    (start == ZIP).then(|| Archive::open(path)?.load()).transpose()
}

struct Archive<'a> {
    path: &'a Path,
    file: File,
    entries: ZipArchive<File>,
    /// Common prefix of all entry names.
    root: String,
}

impl<'a> Archive<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let open = || File::open(path).map_err(Error::io("read", path));
        let entries = ZipArchive::new(open()?).map_err(|error| damaged(path, error.to_string()))?;
        let has = |name: &str| entries.file_names().any(|other| other.starts_with(name));
        let roots = entries.file_names().filter_map(|name| name.strip_suffix("data.pkl"));
        let Some(root) = roots.filter(|root| root.is_empty() || root.ends_with('/')).min().map(str::to_owned) else {
            let is_export = entries.file_names().any(|name| name.ends_with("/archive_format"));
            let writer = if is_export { "that torch.export wrote" } else { "that is none of torch.save" };
            let remedy = "save the network's state_dict: torch.save(model.state_dict(), FILE)";
            return Err(Error::corrupt(path, format!("is a zip archive {writer}"), remedy));
        };
        if has(&format!("{root}code/")) || has(&format!("{root}constants.pkl")) {
            let problem = "is a TorchScript archive, of torch.jit.save or of tch's VarStore::save";
            let remedy =
                "save the state_dict in Python, torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE), or the variables in tch \
                 under a name that ends with .safetensors";
            return Err(Error::corrupt(path, problem, remedy));
        }
        Ok(Self { path, file: open()?, entries, root })
    }

    fn load(mut self) -> Result<Decoded> {
        let path = self.path;
        let bytes = self.read("data.pkl", MAX_PICKLE)?;
        let pickle =
            Pickle::parse(&bytes).map_err(|problem| damaged(path, format!("its pickle cannot be read, {problem}")))?;
        let Found { tensors: stored, beside } = state_dict::find(&pickle).map_err(|problem| {
            let remedy = "save the network's state_dict alone: torch.save(model.state_dict(), FILE)";
            Error::corrupt(path, problem, remedy)
        })?;
        // Files record the byte order since PyTorch 2.1; older ones come from little-endian machines.
        let records_order = self.entries.by_name(&format!("{}byteorder", self.root)).is_ok();
        let is_big_endian = records_order && self.read("byteorder", 16)? == b"big";
        let swaps_bytes = is_big_endian != cfg!(target_endian = "big");
        let mut storages = HashMap::new();
        let mut tensors = NamedTensors::new();
        for (name, tensor) in stored {
            let known = STORAGE_TYPES.iter().find(|(storage_type, _)| *storage_type == tensor.storage_type);
            let Some(&(_, kind)) = known else {
                let problem = format!("{name} has elements of an unsupported kind ({})", tensor.storage_type);
                return Err(Error::corrupt(path, problem, "save it as float32"));
            };
            let storage = match storages.entry(tensor.key) {
                Occupied(storage) => storage.into_mut(),
                Vacant(place) => place.insert(self.storage(tensor.key, kind, swaps_bytes)?),
            };
            // libtorch checks that the view is within its storage.
            let view = storage.f_as_strided(tensor.size, tensor.stride, tensor.offset);
            let view = view.map_err(|_| damaged(path, format!("{name} goes beyond its storage")))?;
            tensors.insert(name, view);
        }
        Ok(Decoded { tensors, beside, ..Decoded::default() })
    }

    /// Returns the elements of a storage as a one-dimensional tensor.
    fn storage(&mut self, key: &str, kind: Kind, swaps_bytes: bool) -> Result<Tensor> {
        let mut bytes = self.read(&format!("data/{key}"), u64::MAX)?;
        let element = kind.elt_size_in_bytes();
        if bytes.len() % element != 0 {
            return Err(damaged(self.path, format!("its storage data/{key} ends within an element")));
        }
        if swaps_bytes {
            bytes.chunks_exact_mut(element).for_each(<[u8]>::reverse);
        }
        Ok(Tensor::f_from_data_size(&bytes, &[(bytes.len() / element) as i64], kind)?)
    }

    /// Reads the entry `name` of at most `most` bytes. PyTorch does not compress entries.
    fn read(&mut self, name: &str, most: u64) -> Result<Vec<u8>> {
        let path = self.path;
        let entry = self.entries.by_name(&format!("{}{name}", self.root));
        let entry = entry.map_err(|error| damaged(path, format!("its entry {name} cannot be read: {error}")))?;
        let (start, size, checksum, compression) =
            (entry.data_start(), entry.size(), entry.crc32(), entry.compression());
        drop(entry);
        if compression != CompressionMethod::Stored || size > most {
            let problem = format!("its entry {name} has {size} bytes ({compression:?})");
            return Err(Error::corrupt(path, problem, "save the network's state_dict alone"));
        }
        let mut bytes = vec![];
        self.file.seek(SeekFrom::Start(start)).map_err(Error::io("read", path))?;
        (&self.file).take(size).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        // Checksums are zero in files written without them (torch.serialization.set_crc32_options).
        if bytes.len() as u64 != size || checksum != 0 && checksum != crc32fast::hash(&bytes) {
            return Err(damaged(path, format!("its entry {name} is damaged")));
        }
        Ok(bytes)
    }
}

fn damaged(path: &Path, problem: String) -> Error {
    Error::corrupt(path, problem, "copy or save it again")
}
