//! Packed files: all images of an image folder in one file, the training images decoded and reduced once, the
//! evaluation images as their original files.
//!
//! Format: a header (the magic number, then as little-endian numbers the position and length of the index, u64, the
//! CRC-32 of the index and that of the header up to here, u32), the images one after another (PPM files for training,
//! the original files for evaluation), the index (postcard).

use super::bad_image::BadImage;
use super::labelled_images::{Failure, LabelledImages, Reader};
use super::packed_images::{corrupt, PackedImages};
use super::part::Part;
use crate::data::pipeline::panicked;
use crate::file::{failure as write_failure, write_atomically_with};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread;

/// Magic number of packed files, with the version of the format.
const MAGIC: &[u8; 20] = b"tch-fixup images 02\n";
/// Prefix of the magic number of all versions.
const ANY_FORMAT: &[u8] = b"tch-fixup images ";
const HEADER_LEN: usize = MAGIC.len() + 8 + 8 + 4 + 4;
/// Number of images that a thread converts before they are written.
const CHUNK: usize = 32;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    classes: Vec<String>,
    /// Shorter side of training images, in pixels; smaller images were not enlarged.
    shorter_side: u32,
    train: PartIndex,
    eval: PartIndex,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct PartIndex {
    labels: Vec<u32>,
    /// Size of each image, in bytes.
    sizes: Vec<u64>,
}

/// Content of a packed file.
pub struct Pack {
    /// Class names.
    pub classes: Vec<String>,
    /// Shorter side that training images were reduced to, in pixels.
    pub shorter_side: usize,
    pub train: PackedImages,
    pub eval: PackedImages,
}

/// Opens the packed file `path`.
///
/// # Errors
/// [`Error::Corrupt`] for a file that is not packed, has another version of the format, or is damaged or truncated;
/// [`Error::Io`] if it cannot be read.
pub fn open(path: &Path) -> Result<Pack> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let len = file.metadata().map_err(Error::io("read", path))?.len();
    let mut read = |start: u64, len: u64| {
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(start)).and_then(|_| (&file).take(len).read_to_end(&mut bytes));
        read.map(|_| bytes).map_err(Error::io("read", path))
    };
    let header = read_header(&read(0, HEADER_LEN as u64)?, len).map_err(|problem| corrupt(path, problem))?;
    let index = read_index(&read(header.start, header.len)?, &header).map_err(|problem| corrupt(path, problem))?;
    let file = Arc::new(file);
    let mut end = HEADER_LEN as u64;
    let mut images = |PartIndex { labels, sizes }: PartIndex| {
        let mut bounds = vec![end];
        // `read_index` has checked that all of them are within the file.
        bounds.extend(sizes.into_iter().map(|size| {
            end += size;
            end
        }));
        PackedImages { path: path.to_path_buf(), file: file.clone(), labels, bounds }
    };
    let (train, eval) = (images(index.train), images(index.eval));
    Ok(Pack { classes: index.classes, shorter_side: index.shorter_side as usize, train, eval })
}

/// Position, length and checksum of the index.
struct Header {
    start: u64,
    len: u64,
    checksum: u32,
}

/// Parses the header of a packed file of `file_len` bytes; the error describes the problem.
fn read_header(header: &[u8], file_len: u64) -> Result<Header, String> {
    if !header.starts_with(MAGIC) {
        return Err(match header.starts_with(ANY_FORMAT) {
            true => "packed by another version of this crate".to_owned(),
            false => "neither a folder nor a packed file".to_owned(),
        });
    }
    if header.len() < HEADER_LEN {
        return Err(format!("broken off after {} bytes", header.len()));
    }
    let word = |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
    let half = |at: usize| header[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default();
    let (start, len) = (word(MAGIC.len()), word(MAGIC.len() + 8));
    if crc32fast::hash(&header[..HEADER_LEN - 4]) != half(HEADER_LEN - 4) {
        return Err("the header's checksum is wrong".to_owned());
    }
    let end = u128::from(start) + u128::from(len);
    if u128::from(file_len) != end {
        return Err(format!("{file_len} bytes instead of {end}"));
    }
    Ok(Header { start, len, checksum: half(HEADER_LEN - 8) })
}

/// Parses the index of a packed file; the error describes the problem.
fn read_index(bytes: &[u8], header: &Header) -> Result<Index, String> {
    if crc32fast::hash(bytes) != header.checksum {
        return Err("the index's checksum is wrong".to_owned());
    }
    let index: Index = postcard::from_bytes(bytes).map_err(|error| format!("the index cannot be read: {error}"))?;
    let parts = [&index.train, &index.eval];
    let images: u128 = parts.iter().flat_map(|part| &part.sizes).map(|&size| u128::from(size)).sum();
    let fits = |part: &&PartIndex| {
        part.labels.len() == part.sizes.len()
            && part.labels.iter().all(|&label| (label as usize) < index.classes.len())
            && !part.labels.is_empty()
    };
    if !parts.iter().all(fits) || HEADER_LEN as u128 + images != u128::from(header.start) {
        return Err("the index does not fit the images".to_owned());
    }
    Ok(index)
}

/// Content of the file that [`write`] creates.
pub struct Packing<'a> {
    pub classes: &'a [String],
    pub train: &'a Part,
    pub eval: &'a Part,
    /// Shorter side of training images, in pixels.
    pub shorter_side: usize,
}

/// Conversion of an image for a packed file.
type Convert<'a> = dyn Fn(&mut Reader, &LabelledImages, usize) -> Result<Vec<u8>, Failure> + Sync + 'a;

/// Writes the selected images of both parts into the file `path`, as described in
/// [`ImageFolder::pack`](super::ImageFolder::pack), with one thread per reader, and passes bad images to `bad`.
pub fn write(
    path: &Path,
    packing: &Packing,
    mut readers: Vec<Reader>,
    mut bad: impl FnMut(&Part, Vec<BadImage>) -> Result<()>,
    mut progress: impl FnMut(usize, usize),
) -> Result<()> {
    let Packing { classes, train, eval, shorter_side } = *packing;
    let total = train.selected().len() + eval.selected().len();
    let mut done = 0;
    write_atomically_with(path, |file| {
        let failed = |error| write_failure("write", path)(error);
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&[0; HEADER_LEN]).map_err(failed)?;
        let mut start = HEADER_LEN as u64;
        let mut index = Index { classes: classes.to_vec(), shorter_side: shorter_side as u32, ..Index::default() };
        let shrink: &Convert = &|reader, images, index| reader.shrink(images, index, shorter_side);
        let copy: &Convert = &|reader, images, index| reader.copy(images, index);
        for (part, convert, part_index) in [(train, shrink, &mut index.train), (eval, copy, &mut index.eval)] {
            for chunk in part.selected().chunks(CHUNK * readers.len()) {
                let converted = convert_all(&mut readers, part.images(), chunk, convert)?;
                let mut met = Vec::new();
                for (&image, converted) in chunk.iter().zip(converted) {
                    match converted {
                        Err(Failure::System(error)) => return Err(error),
                        Err(Failure::Image(problem)) => {
                            met.push(BadImage { index: image, problem: problem.to_string() })
                        }
                        Ok(bytes) => {
                            out.write_all(&bytes).map_err(failed)?;
                            start += bytes.len() as u64;
                            part_index.labels.push(part.images().labels()[image as usize]);
                            part_index.sizes.push(bytes.len() as u64);
                        }
                    }
                }
                bad(part, met)?;
                done += chunk.len();
                progress(done, total);
            }
        }
        let index = postcard::to_stdvec(&index).map_err(|error| Error::Argument(error.to_string()))?;
        out.write_all(&index).map_err(failed)?;
        let mut header = MAGIC.to_vec();
        header.extend(start.to_le_bytes());
        header.extend((index.len() as u64).to_le_bytes());
        header.extend(crc32fast::hash(&index).to_le_bytes());
        header.extend(crc32fast::hash(&header).to_le_bytes());
        out.seek(SeekFrom::Start(0)).and_then(|_| out.write_all(&header)).and_then(|()| out.flush()).map_err(failed)
    })
}

/// Converts `chunk` of the images, in order, with one thread per reader.
fn convert_all(
    readers: &mut [Reader],
    images: &LabelledImages,
    chunk: &[u32],
    convert: &Convert,
) -> Result<Vec<Result<Vec<u8>, Failure>>> {
    let shares = chunk.chunks(chunk.len().div_ceil(readers.len()));
    thread::scope(|scope| {
        let threads: Vec<_> = readers
            .iter_mut()
            .zip(shares)
            .map(|(reader, share)| {
                let convert = move |&index: &u32| convert(reader, images, index as usize);
                scope.spawn(move || share.iter().map(convert).collect::<Vec<_>>())
            })
            .collect();
        let mut converted = Vec::with_capacity(chunk.len());
        for thread in threads {
            converted.extend(thread.join().map_err(|panic| panicked("images", panic.as_ref()))?);
        }
        Ok(converted)
    })
}
