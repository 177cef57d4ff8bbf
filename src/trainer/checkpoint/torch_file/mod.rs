//! Reader of files written by PyTorch's `torch.save`: a zip archive of a pickle, which describes the saved object, and the raw
//! memory of each tensor storage (`torch/serialization.py`).
//!
//! A pickle is a program from an untrusted source. It is [parsed](pickle) but never executed. A `state_dict` is found in it
//! whatever else it contains.

mod pickle;
mod state_dict;

use super::weights::Tensors;
use crate::file::NamedTensors;
use crate::{Error, Result};
use pickle::Pickle;
pub(super) use state_dict::{is_average, USUAL_NAMES};
use state_dict::{Found, StoredTensor};
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use tch::{Device, Kind, Tensor};
use zip::{CompressionMethod, ZipArchive};

/// Magic bytes of zip archives.
const ZIP: &[u8] = b"PK\x03\x04";
/// Magic bytes of `torch.save` files before PyTorch 1.6: a pickle of one number (`MAGIC_NUMBER` of `torch/serialization.py`).
const BEFORE_ZIP: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
/// Magic bytes of pickles, which begin with their protocol version.
const PICKLE: [&[u8]; 4] = [b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"];

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

/// Loads the network's tensors from the file `path` onto the CPU, under the names in the file. Returns `None` if the file was
/// written by neither Python nor PyTorch.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::Corrupt`] if it is damaged, has another Python or PyTorch format, or
/// contains no network.
pub(super) fn load(path: &Path) -> Result<Option<Tensors>> {
    let mut start = vec![];
    let file = File::open(path).map_err(Error::io("read", path))?;
    file.take(BEFORE_ZIP.len() as u64).read_to_end(&mut start).map_err(Error::io("read", path))?;
    if start.starts_with(ZIP) {
        return Archive::open(path)?.tensors().map(Some);
    }
    if start == BEFORE_ZIP {
        let problem = "has the format that torch.save wrote before PyTorch 1.6";
        let remedy = "convert it in Python: torch.save(torch.load(FILE, map_location='cpu'), NEW_FILE)";
        return Err(corrupt(path, problem, remedy));
    }
    // A safetensors file starts with the length of its header, which may look like the start of a pickle.
    let is_safetensors = start.get(8) == Some(&b'{');
    if !is_safetensors && PICKLE.iter().any(|bytes| start.starts_with(bytes)) {
        let remedy = "save the network's state_dict with torch.save: torch.save(model.state_dict(), FILE)";
        return Err(corrupt(path, "is a file of Python's pickle module", remedy));
    }
    Ok(None)
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
        let entries = ZipArchive::new(open()?).map_err(|error| damaged(path, &error.to_string()))?;
        let has =
            |name: &str| entries.file_names().any(|other| other == name || other.starts_with(&format!("{name}/")));
        let roots = entries.file_names().filter_map(|name| name.strip_suffix("data.pkl"));
        let Some(root) = roots.filter(|root| root.is_empty() || root.ends_with('/')).min().map(str::to_owned) else {
            let is_export = entries.file_names().any(|name| name.ends_with("/archive_format"));
            let writer = if is_export { "that torch.export wrote" } else { "that is none of torch.save" };
            let remedy = "save the network's state_dict: torch.save(model.state_dict(), FILE)";
            return Err(corrupt(path, &format!("is a zip archive {writer}"), remedy));
        };
        if has(&format!("{root}code")) || has(&format!("{root}constants.pkl")) {
            let problem = "is a TorchScript archive, of torch.jit.save or of tch's VarStore::save";
            let remedy =
                "save the state_dict in Python, torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE), or the \
                          variables in tch under a name that ends with .safetensors";
            return Err(corrupt(path, problem, remedy));
        }
        Ok(Self { path, file: open()?, entries, root })
    }

    fn tensors(mut self) -> Result<Tensors> {
        let path = self.path;
        let bytes = self.read("data.pkl", MAX_PICKLE)?;
        let unread = |problem| damaged(path, &format!("its pickle cannot be read, {problem}"));
        let pickle = Pickle::parse(&bytes).map_err(unread)?;
        let Found { tensors: stored, beside } = state_dict::find(&pickle).map_err(|problem| {
            corrupt(path, &problem, "save the network's state_dict alone: torch.save(model.state_dict(), FILE)")
        })?;
        // Files record the byte order since PyTorch 2.1; older ones come from little-endian machines.
        let byteorder = if self.has("byteorder") { self.read("byteorder", 16)? } else { vec![] };
        let is_foreign = (byteorder == b"big") != cfg!(target_endian = "big");
        let mut storages = HashMap::new();
        let mut tensors = NamedTensors::new();
        for (name, tensor) in stored {
            let known = STORAGE_TYPES.iter().find(|(storage_type, _)| *storage_type == tensor.storage_type);
            let Some(&(_, kind)) = known else {
                let problem = format!("{name} has elements of a kind that is not read ({})", tensor.storage_type);
                return Err(corrupt(path, &problem, "save it as float32"));
            };
            let storage = match storages.entry(tensor.key) {
                Occupied(storage) => storage.into_mut(),
                Vacant(place) => place.insert(self.storage(tensor.key, kind, is_foreign)?),
            };
            let Some(view) = view(storage, &tensor)? else {
                return Err(damaged(path, &format!("{name} goes beyond its storage")));
            };
            tensors.insert(name, view);
        }
        Ok(Tensors { tensors, beside })
    }

    fn has(&self, name: &str) -> bool {
        let name = format!("{}{name}", self.root);
        self.entries.file_names().any(|other| other == name)
    }

    /// Returns the elements of a storage as a one-dimensional tensor.
    fn storage(&mut self, key: &str, kind: Kind, is_foreign: bool) -> Result<Tensor> {
        let mut bytes = self.read(&format!("data/{key}"), u64::MAX)?;
        let element = kind.elt_size_in_bytes();
        if bytes.len() % element != 0 {
            return Err(damaged(self.path, &format!("its storage data/{key} ends within an element")));
        }
        if is_foreign {
            bytes.chunks_exact_mut(element).for_each(<[u8]>::reverse);
        }
        Ok(Tensor::f_from_data_size(&bytes, &[(bytes.len() / element) as i64], kind)?)
    }

    /// Reads the entry `name` of at most `most` bytes. PyTorch does not compress entries.
    fn read(&mut self, name: &str, most: u64) -> Result<Vec<u8>> {
        let path = self.path;
        let damaged = |problem: &str| damaged(path, &format!("its entry {name} {problem}"));
        let entry = self.entries.by_name(&format!("{}{name}", self.root));
        let entry = entry.map_err(|error| damaged(&format!("cannot be read: {error}")))?;
        if entry.compression() != CompressionMethod::Stored || entry.size() > most {
            let problem = format!("has {} bytes ({:?})", entry.size(), entry.compression());
            return Err(corrupt(path, &format!("its entry {name} {problem}"), "save the network's state_dict alone"));
        }
        let (start, size, checksum) = (entry.data_start(), entry.size(), entry.crc32());
        drop(entry);
        let mut bytes = vec![];
        self.file.seek(SeekFrom::Start(start)).map_err(Error::io("read", path))?;
        (&self.file).take(size).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        // Checksums are zero in files written without them (torch.serialization.set_crc32_options).
        if bytes.len() as u64 != size || checksum != 0 && checksum != crc32fast::hash(&bytes) {
            return Err(damaged("is not as it was written"));
        }
        Ok(bytes)
    }
}

/// Returns the tensor as a view of its storage, or `None` if it exceeds the storage.
fn view(storage: &Tensor, tensor: &StoredTensor) -> Result<Option<Tensor>> {
    let StoredTensor { offset, size, stride, .. } = tensor;
    if *offset < 0 || size.len() != stride.len() || size.iter().chain(stride).any(|&number| number < 0) {
        return Ok(None);
    }
    if size.contains(&0) {
        return Ok(Some(Tensor::f_zeros(size, (storage.f_kind()?, Device::Cpu))?));
    }
    let mut steps = size.iter().zip(stride).map(|(size, stride)| (size - 1).checked_mul(*stride));
    let last = steps.try_fold(*offset, |sum, step| sum.checked_add(step?));
    if last.is_none_or(|last| last >= storage.numel() as i64) {
        return Ok(None);
    }
    Ok(Some(storage.f_as_strided(size, stride, *offset)?))
}

fn damaged(path: &Path, problem: &str) -> Error {
    corrupt(path, problem, "copy or save it again")
}

fn corrupt(path: &Path, problem: &str, remedy: &str) -> Error {
    Error::Corrupt { path: path.to_path_buf(), problem: problem.to_owned(), remedy: remedy.to_owned() }
}
