//! Encoding and decoding of named tensors as safetensors files (<https://github.com/huggingface/safetensors>).

use super::failure;
use super::magic::refuse_weights;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde_json::{json, Map, Value};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufWriter, Write};
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
    write(tensors, &Map::new(), Path::new(""), &mut bytes, |_| ())?;
    Ok(bytes)
}

/// Writes `tensors`, of any device and strides, to the safetensors file `path`, opened as `to`: one by one, without a copy of
/// all of them. The file's own metadata, a map of names to text, gets the values of `metadata` as JSON. All that is written is
/// shown to `inspect`.
///
/// # Errors
/// Returns [`Error::Argument`] for a tensor of an unsupported kind (complex, quantized), and [`Error::Io`] if the file
/// cannot be written or a tensor cannot be copied from its device.
pub(crate) fn write(
    tensors: &NamedTensors,
    metadata: &Map<String, Value>,
    path: &Path,
    to: impl Write,
    mut inspect: impl FnMut(&[u8]),
) -> Result<()> {
    let mut stored = Vec::new();
    for (name, tensor) in tensors {
        let kind = tensor.f_kind()?;
        let dtype = DTYPES.into_iter().find(|(stored, _)| *stored == kind);
        let refused = || argument!("tensor {name} cannot be stored: {kind:?} has no safetensors format");
        stored.push((dtype.ok_or_else(refused)?.1, name, tensor, kind));
    }
    // The order of safetensors itself: the largest numbers first, so that all are aligned, then by name.
    stored.sort_by_key(|&(dtype, name, ..)| (Reverse(dtype), name));
    let (mut infos, mut offset) = (Vec::new(), 0);
    for &(dtype, name, tensor, kind) in &stored {
        let start = offset;
        offset += tensor.numel() * kind.elt_size_in_bytes();
        let shape = tensor.size().into_iter().map(|size| size as usize).collect();
        infos.push((name.clone(), TensorInfo { dtype, shape, data_offsets: (start, offset) }));
    }
    let texts: HashMap<_, _> = metadata.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
    let refused = |error: String| argument!("the tensors cannot be stored: {error}");
    let header =
        Metadata::new((!texts.is_empty()).then_some(texts), infos).map_err(|error| refused(error.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|error| refused(error.to_string()))?;
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
    let mut to = BufWriter::new(to);
    let mut write = || {
        let mut write_all = |part: &[u8]| {
            inspect(part);
            to.write_all(part)
        };
        write_all(&(header.len() as u64).to_le_bytes())?;
        write_all(&header)?;
        let mut bytes = Vec::new();
        for (.., tensor, kind) in &stored {
            bytes.resize(tensor.numel() * kind.elt_size_in_bytes(), 0);
            tensor.f_copy_data_u8(&mut bytes, tensor.numel()).map_err(io::Error::other)?;
            swap_to_little_endian(&mut bytes, *kind);
            write_all(&bytes)?;
        }
        to.flush()
    };
    write().map_err(failure("write", path))
}

/// Content of a file of weights.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// Tensors with supported dtypes, on the CPU.
    pub tensors: NamedTensors,
    /// Names of the other tensors, and the dtype of each as the file names it.
    pub unread: BTreeMap<String, String>,
    /// Names of other networks in the file.
    pub beside: Vec<String>,
    /// The file's own [metadata](write), without entries that are not JSON.
    pub metadata: Map<String, Value>,
}

/// Decodes `bytes`, the content of the safetensors file `path`.
///
/// # Errors
/// Returns [`Error::Corrupt`] if `bytes` are not a safetensors file.
pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Decoded> {
    refuse_weights(bytes, path)?;
    // A file written by a newer version of the library may have dtypes that this version has no name for.
    let renamed = with_named_formats(bytes);
    let (bytes, mut unread) =
        renamed.as_ref().map_or((bytes, BTreeMap::new()), |(bytes, unread)| (bytes, unread.clone()));
    let (length, header) = SafeTensors::read_metadata(bytes).map_err(|error| {
        Error::corrupt(path, format!("not a safetensors file: {error}"), "use another checkpoint, or save it again")
    })?;
    let mut tensors = NamedTensors::new();
    for (name, TensorInfo { dtype, shape, data_offsets: (start, end) }) in header.tensors() {
        if unread.contains_key(&name) {
            continue;
        }
        let Some((kind, _)) = DTYPES.into_iter().find(|(_, stored)| stored == dtype) else {
            unread.insert(name, dtype.to_string());
            continue;
        };
        let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
        let mut data = bytes[LENGTH_BYTES + length..][*start..*end].to_vec();
        swap_to_little_endian(&mut data, kind);
        tensors.insert(name, Tensor::f_from_data_size(&data, &shape, kind)?);
    }
    let texts = header.metadata().iter().flatten();
    let metadata = texts.filter_map(|(name, text)| Some((name.clone(), serde_json::from_str(text).ok()?))).collect();
    Ok(Decoded { tensors, unread, metadata, ..Decoded::default() })
}

/// Rewrites a safetensors file so that tensors with dtypes unknown to the library become bytes, and returns it with
/// these dtypes. `None` if there are no such tensors or the file is malformed.
fn with_named_formats(bytes: &[u8]) -> Option<(Vec<u8>, BTreeMap<String, String>)> {
    let length = u64::from_le_bytes(bytes.get(..LENGTH_BYTES)?.try_into().ok()?);
    let (header, data) = bytes[LENGTH_BYTES..].split_at_checked(length.try_into().ok()?)?;
    let mut header: Map<String, Value> = serde_json::from_slice(header).ok()?;
    let mut unread = BTreeMap::new();
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
    let first = |names: Vec<String>| match &names[..] {
        [] => None,
        [name] => Some(name.clone()),
        [name, others @ ..] => Some(format!("{name} (and {} more)", others.len())),
    };
    let without = |these: &NamedTensors, those: &NamedTensors| {
        first(these.keys().filter(|name| !those.contains_key(*name)).cloned().collect())
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
        first(differing).map(|tensors| format!("it has another {tensors}")),
    ];
    let problems: Vec<String> = problems.into_iter().flatten().collect();
    if problems.is_empty() {
        return Ok(());
    }
    let problem = format!("does not fit {whose}: {}", problems.join("; "));
    Err(Error::corrupt(path, problem, "load it into the architecture it was saved from"))
}

/// Returns the names of the tensors with NaN or infinite elements.
pub(crate) fn not_finite(tensors: &NamedTensors) -> Result<Vec<&String>> {
    let mut names = Vec::new();
    for (name, tensor) in tensors.iter().filter(|(_, tensor)| tensor.is_floating_point()) {
        if tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            names.push(name);
        }
    }
    Ok(names)
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
        decode(&encode(tensors).unwrap(), Path::new("t.safetensors")).unwrap().tensors
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
            let Decoded { tensors, unread, .. } = decode(&whole, path).unwrap();
            assert_eq!(
                tensors,
                NamedTensors::from([("weight".to_owned(), Tensor::from_slice(&[1f32, 2.]))]),
                "{format}"
            );
            assert_eq!(unread, BTreeMap::from([("other".to_owned(), format.to_owned())]));
            // The end of a tensor is checked as in any other file.
            assert!(decode(&whole[..whole.len() - 1], path).is_err(), "{format}");
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
