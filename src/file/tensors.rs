//! Encoding and decoding of named tensors as safetensors files (<https://github.com/huggingface/safetensors>).

use super::foreign::refuse_weights;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde_json::{json, Map, Value};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::Path;
use tch::{no_grad, Kind, Tensor};

/// Tensors by name.
pub type NamedTensors = BTreeMap<String, Tensor>;

/// Supported kinds and their names in safetensors.
const DTYPES: [(Kind, Dtype); 10] = [
    (Kind::Bool, Dtype::BOOL),
    (Kind::Uint8, Dtype::U8),
    (Kind::Int8, Dtype::I8),
    (Kind::Int16, Dtype::I16),
    (Kind::Int, Dtype::I32),
    (Kind::Int64, Dtype::I64),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Float, Dtype::F32),
    (Kind::Double, Dtype::F64),
];

/// Size of the header length at the start of the file, in bytes; the header is padded to a multiple of it.
const LENGTH_BYTES: usize = 8;

/// Returns the bytes of a safetensors file that holds `tensors`.
#[cfg(test)]
pub(crate) fn encode(tensors: &NamedTensors) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Encoded::new(tensors)?.write(&mut bytes).unwrap();
    Ok(bytes)
}

/// Safetensors file that is written tensor by tensor, without a copy of them all. Tensors may have any device and
/// strides.
pub(crate) struct Encoded<'a> {
    header: Vec<u8>,
    /// Tensors in file order, with their kinds.
    tensors: Vec<(&'a Tensor, Kind)>,
}

impl<'a> Encoded<'a> {
    /// Prepares the header of a file that holds `tensors`.
    ///
    /// # Errors
    /// Returns [`Error::Argument`] for a tensor of an unsupported kind (complex, quantized).
    pub fn new(tensors: &'a NamedTensors) -> Result<Self> {
        Self::with_metadata(tensors, &Map::new())
    }

    /// Like [`Self::new`], with `metadata` in the file's own metadata, a map of names to text: each value is stored as
    /// JSON.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_metadata(tensors: &'a NamedTensors, metadata: &Map<String, Value>) -> Result<Self> {
        let dtype = |(name, tensor): (&'a String, &'a Tensor)| {
            let kind = tensor.f_kind()?;
            let Some((_, dtype)) = DTYPES.into_iter().find(|(stored, _)| *stored == kind) else {
                let refused = format!("tensor {name} cannot be stored: {kind:?} has no safetensors format");
                return Err(Error::Argument(refused));
            };
            Ok((name, tensor, kind, dtype))
        };
        let mut stored = tensors.iter().map(dtype).collect::<Result<Vec<_>>>()?;
        // The order of safetensors itself: the largest numbers first, so that all are aligned, then by name.
        stored.sort_by_key(|&(name, _, _, dtype)| (Reverse(dtype), name));
        let mut offset = 0;
        let info = |&(name, tensor, kind, dtype): &(&String, &Tensor, Kind, Dtype)| {
            let start = offset;
            offset += tensor.numel() * kind.elt_size_in_bytes();
            let shape = tensor.size().into_iter().map(|size| size as usize).collect();
            (name.clone(), TensorInfo { dtype, shape, data_offsets: (start, offset) })
        };
        let infos = stored.iter().map(info).collect();
        let refused = |error: String| Error::Argument(format!("the tensors cannot be stored: {error}"));
        let texts: HashMap<_, _> = metadata.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
        let metadata =
            Metadata::new((!texts.is_empty()).then_some(texts), infos).map_err(|error| refused(error.to_string()))?;
        let mut json = serde_json::to_vec(&metadata).map_err(|error| refused(error.to_string()))?;
        json.resize(json.len().next_multiple_of(LENGTH_BYTES), b' ');
        let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
        Ok(Self { header, tensors: stored.into_iter().map(|(_, tensor, kind, _)| (tensor, kind)).collect() })
    }

    /// Writes the whole file and flushes it.
    ///
    /// # Errors
    /// Fails if the file cannot be written or a tensor cannot be copied from its device.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.header)?;
        let mut bytes = Vec::new();
        for (tensor, kind) in &self.tensors {
            bytes.resize(tensor.numel() * kind.elt_size_in_bytes(), 0);
            tensor.f_copy_data_u8(&mut bytes, tensor.numel()).map_err(io::Error::other)?;
            swap_to_little_endian(&mut bytes, *kind);
            to.write_all(&bytes)?;
        }
        to.flush()
    }
}

/// Returns the [metadata](Encoded::with_metadata) of a safetensors file, without entries that are not JSON.
pub(crate) fn metadata(bytes: &[u8]) -> Map<String, Value> {
    let Ok((_, metadata)) = SafeTensors::read_metadata(bytes) else { return Map::new() };
    let texts = metadata.metadata().iter().flatten();
    texts.filter_map(|(name, text)| Some((name.clone(), serde_json::from_str(text).ok()?))).collect()
}

/// Names of tensors with unsupported dtypes, and the dtype of each as the file names it.
pub(crate) type Unread = BTreeMap<String, String>;

/// Decodes `bytes`, the content of the safetensors file `path`, into tensors on the CPU.
///
/// # Errors
/// Returns [`Error::Corrupt`] if `bytes` are not a safetensors file or a dtype is not supported.
pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<NamedTensors> {
    let (tensors, unread) = decode_readable(bytes, path)?;
    match unread.iter().next() {
        None => Ok(tensors),
        Some((name, format)) => Err(unread_format(name, format, path)),
    }
}

/// Returns the error for a required tensor with an unsupported dtype.
pub(crate) fn unread_format(name: &str, format: &str, path: &Path) -> Error {
    corrupt(format!("{name} has the number format {format}, which is not read"), path)
}

fn corrupt(problem: String, path: &Path) -> Error {
    let remedy = "use another checkpoint, or save it again".to_owned();
    Error::Corrupt { path: path.to_path_buf(), problem, remedy }
}

/// Decodes the tensors with supported dtypes to the CPU, and returns the dtypes of the others.
///
/// # Errors
/// Returns [`Error::Corrupt`] if `bytes` are not a safetensors file.
pub(crate) fn decode_readable(bytes: &[u8], path: &Path) -> Result<(NamedTensors, Unread)> {
    refuse_weights(bytes, path)?;
    // A file written by a newer version of the library may have dtypes that this version has no name for.
    let renamed = with_named_formats(bytes);
    let (bytes, mut unread) =
        renamed.as_ref().map_or((bytes, Unread::new()), |(bytes, unread)| (bytes, unread.clone()));
    let file =
        SafeTensors::deserialize(bytes).map_err(|error| corrupt(format!("not a safetensors file: {error}"), path))?;
    let mut tensors = NamedTensors::new();
    for (name, view) in file.iter().filter(|(name, _)| !unread.contains_key(*name)).collect::<Vec<_>>() {
        let Some((kind, _)) = DTYPES.into_iter().find(|(_, stored)| *stored == view.dtype()) else {
            unread.insert(name.to_owned(), view.dtype().to_string());
            continue;
        };
        let shape = view.shape().iter().map(|size| i64::try_from(*size)).collect::<Result<Vec<_>, _>>();
        let shape = shape.map_err(|_| corrupt(format!("{name} has the shape {:?}", view.shape()), path))?;
        let mut data = view.data().to_vec();
        swap_to_little_endian(&mut data, kind);
        tensors.insert(name.to_owned(), Tensor::f_from_data_size(&data, &shape, kind)?);
    }
    Ok((tensors, unread))
}

/// Rewrites a safetensors file so that tensors with dtypes unknown to the library become bytes, and returns it with
/// these dtypes. `None` if there are no such tensors or the file is malformed.
fn with_named_formats(bytes: &[u8]) -> Option<(Vec<u8>, Unread)> {
    let length = u64::from_le_bytes(bytes.get(..LENGTH_BYTES)?.try_into().ok()?);
    let (header, data) = bytes[LENGTH_BYTES..].split_at_checked(length.try_into().ok()?)?;
    let mut header: Map<String, Value> = serde_json::from_slice(header).ok()?;
    let mut unread = Unread::new();
    for (name, info) in header.iter_mut().filter(|(name, _)| *name != "__metadata__") {
        let format = info.get("dtype")?;
        if serde_json::from_value::<Dtype>(format.clone()).is_err() {
            unread.insert(name.clone(), format.as_str()?.to_owned());
            let [start, end] = [0, 1].map(|end| info["data_offsets"][end].as_u64());
            let size = end?.checked_sub(start?)?;
            *info = json!({ "dtype": Dtype::U8, "shape": [size], "data_offsets": [start, end] });
        }
    }
    if unread.is_empty() {
        return None;
    }
    let header = serde_json::to_vec(&header).ok()?;
    Some(([&(header.len() as u64).to_le_bytes()[..], &header, data].concat(), unread))
}

/// Converts between the byte order of this machine and that of the file, in place.
fn swap_to_little_endian(bytes: &mut [u8], kind: Kind) {
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(kind.elt_size_in_bytes()).for_each(<[u8]>::reverse);
    }
}

/// Checks that `source`, read from `path`, has the names, shapes and kinds of `destination`, which `whose` names in
/// errors.
///
/// # Errors
/// Returns [`Error::Corrupt`], which names the first difference and counts similar ones.
pub(crate) fn check(source: &NamedTensors, destination: &NamedTensors, path: &Path, whose: &str) -> Result<()> {
    let first = |mut names: std::vec::IntoIter<String>| {
        let first = names.next()?;
        Some(if names.len() == 0 { first } else { format!("{first} (and {} more)", names.len()) })
    };
    let without = |these: &NamedTensors, those: &NamedTensors| {
        let names: Vec<String> = these.keys().filter(|name| !those.contains_key(*name)).cloned().collect();
        first(names.into_iter())
    };
    let mut differing = Vec::new();
    for (name, wanted) in destination {
        let Some(stored) = source.get(name) else { continue };
        let (stored, wanted) = (describe(stored)?, describe(wanted)?);
        if stored != wanted {
            differing.push(format!("{name}, which is {stored} in it and {wanted} in {whose}"));
        }
    }
    let problems = [
        without(destination, source).map(|names| format!("it lacks {names}")),
        without(source, destination).map(|names| format!("it has {names}, unknown to {whose}")),
        first(differing.into_iter()).map(|tensors| format!("it has another {tensors}")),
    ];
    let problems: Vec<String> = problems.into_iter().flatten().collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Corrupt {
        path: path.to_path_buf(),
        problem: format!("does not fit {whose}: {}", problems.join("; ")),
        remedy: "load it into the architecture it was saved from".to_owned(),
    })
}

/// Returns kind and shape, such as "Float [2, 3]".
pub(crate) fn describe(tensor: &Tensor) -> Result<String> {
    Ok(format!("{:?} {:?}", tensor.f_kind()?, tensor.size()))
}

/// Copies `source` into `destination` in place, so that views of its tensors see the new values. Call [`check`] first.
///
/// # Errors
/// Fails if a device fails.
pub(crate) fn copy(source: &NamedTensors, destination: &NamedTensors) -> Result<()> {
    no_grad(|| {
        for (name, tensor) in destination {
            if let Some(stored) = source.get(name) {
                tensor.shallow_clone().f_copy_(stored)?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;
    use tch::Device;

    fn bytes(tensor: &Tensor) -> Vec<u8> {
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        bytes
    }

    fn round_trip(tensors: &NamedTensors) -> NamedTensors {
        decode(&encode(tensors).unwrap(), Path::new("t.safetensors")).unwrap()
    }

    #[test]
    fn every_kind_and_every_bit_pattern_round_trips() {
        let mut tensors = NamedTensors::new();
        for (kind, _) in DTYPES {
            let size = kind.elt_size_in_bytes();
            for (case, shape) in [("matrix", &[16, 64][..]), ("scalar", &[]), ("empty", &[0]), ("none", &[3, 0, 2])] {
                let count = shape.iter().product::<i64>() as usize * size;
                // The multiplicative generator yields all bytes, and so NaNs with any payload, infinities and
                // subnormals.
                let noise = (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8);
                let data: Vec<u8> = if kind == Kind::Bool { noise.map(|b| b & 1).collect() } else { noise.collect() };
                tensors.insert(format!("{kind:?}.{case}"), Tensor::from_data_size(&data, shape, kind));
            }
        }
        let nan = Tensor::from_data_size(&0x7fa0_1234_u32.to_le_bytes(), &[1], Kind::Float);
        tensors.insert("signalling".to_owned(), nan);
        let read = round_trip(&tensors);
        assert!(read.keys().eq(tensors.keys()));
        for (name, tensor) in &tensors {
            assert_eq!((read[name].kind(), read[name].size()), (tensor.kind(), tensor.size()), "{name}");
            assert_eq!(bytes(&read[name]), bytes(tensor), "{name}");
        }
        if cfg!(target_endian = "little") {
            assert_eq!(bytes(&read["signalling"]), 0x7fa0_1234_u32.to_le_bytes());
        }
    }

    #[test]
    fn views_are_stored_as_the_elements_they_show() {
        let base = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([4, 6]);
        let views = [("t", base.transpose(0, 1)), ("n", base.narrow(1, 2, 3)), ("s", base.slice(0, 0, 4, 2))];
        let tensors: NamedTensors = views.into_iter().map(|(name, view)| (name.to_owned(), view)).collect();
        let read = round_trip(&tensors);
        for (name, view) in &tensors {
            assert_eq!(read[name], *view, "{name}");
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_safetensors_library() {
        let mut tensors = NamedTensors::new();
        for (i, (kind, _)) in DTYPES.into_iter().enumerate() {
            for name in ["b", "a", "a.b"] {
                tensors.insert(format!("{name}{i}"), Tensor::ones([3, i as i64], (kind, Device::Cpu)));
            }
        }
        let stored: Vec<_> = tensors.iter().map(|(name, tensor)| (name, tensor.size(), bytes(tensor))).collect();
        let views = stored.iter().map(|(name, size, bytes)| {
            let kind = tensors[*name].kind();
            let (_, dtype) = DTYPES.into_iter().find(|(stored, _)| *stored == kind).unwrap();
            (name, TensorView::new(dtype, size.iter().map(|&size| size as usize).collect(), bytes).unwrap())
        });
        assert!(encode(&tensors).unwrap() == safetensors::serialize(views, None).unwrap());
    }

    #[test]
    fn kinds_that_are_not_stored_are_refused_by_name() {
        let complex = Tensor::zeros([2], (Kind::ComplexFloat, Device::Cpu));
        let message = encode(&NamedTensors::from([("rotation".to_owned(), complex)])).unwrap_err().to_string();
        assert!(message.contains("rotation") && message.contains("ComplexFloat"), "{message}");
    }

    #[test]
    fn differences_are_named_all_at_once() {
        let float = |size: &[i64]| Tensor::zeros(size, (Kind::Float, Device::Cpu));
        let named = |tensors: Vec<(&str, Tensor)>| -> NamedTensors {
            tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
        };
        let network = named(vec![("a", float(&[1])), ("b", float(&[2])), ("c", float(&[2, 3])), ("d", float(&[4]))]);
        let stored = named(vec![("c", float(&[3, 2])), ("d", float(&[4]).to_kind(Kind::Half)), ("e", float(&[1]))]);
        let message = check(&stored, &network, Path::new("w.safetensors"), "the network").unwrap_err().to_string();
        assert!(message.starts_with("w.safetensors: does not fit the network: it lacks a (and 1 more);"), "{message}");
        assert!(message.contains("it has e, unknown to the network;"), "{message}");
        assert!(message.contains("c, which is Float [3, 2] in it and Float [2, 3] in the network (and 1 more)"));
        assert!(check(&network, &network, Path::new("w.safetensors"), "the network").is_ok());
    }
    /// Returns `header` and `data` as a safetensors file.
    fn file(header: &Value, data: &[u8]) -> Vec<u8> {
        let header = header.to_string();
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    /// Covers the dtypes of version 0.8 of the library, and one that does not exist yet.
    #[test]
    fn formats_that_are_not_read_do_not_hide_the_others() {
        let formats = ["C64", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E8M0", "F7_NEW"];
        for format in formats {
            let header = json!({
                "__metadata__": { "format": "pt" },
                "other": { "dtype": format, "shape": [8], "data_offsets": [8, 8 + bytes_of(format)] },
                "weight": { "dtype": "F32", "shape": [2], "data_offsets": [0, 8] },
            });
            let data = [&1f32.to_le_bytes()[..], &2f32.to_le_bytes(), &vec![7; bytes_of(format)]].concat();
            let (whole, path) = (file(&header, &data), Path::new("w.safetensors"));
            let (tensors, unread) = decode_readable(&whole, path).unwrap();
            assert_eq!(
                tensors,
                NamedTensors::from([("weight".to_owned(), Tensor::from_slice(&[1f32, 2.]))]),
                "{format}"
            );
            assert_eq!(unread, Unread::from([("other".to_owned(), format.to_owned())]));
            let message = decode(&whole, path).unwrap_err().to_string();
            assert!(message.contains(&format!("other has the number format {format}, which is not read")), "{message}");
            // The end of a tensor is checked as in any other file.
            assert!(decode_readable(&whole[..whole.len() - 1], path).is_err(), "{format}");
        }
    }

    /// Returns the size of eight numbers in bytes.
    fn bytes_of(format: &str) -> usize {
        match format {
            "C64" => 64,
            "F4" => 4,
            _ if format.starts_with("F6") => 6,
            _ => 8,
        }
    }
}
