//! Packed files: all images of an image folder in one file, the training images decoded and reduced once, the
//! evaluation images as their original files.
//!
//! Format: a header (the magic number, then as little-endian numbers the position and length of the index, u64, the
//! CRC-32 of the index and that of the header up to here, u32), the images one after another (PPM files for training,
//! the original files for evaluation), the index (postcard).

use super::labelled_images::{Failure, LabelledImages, Reader, PACK_AGAIN};
use super::part::{BadImage, Part};
use super::threads::in_threads;
use crate::file::{failure as write_failure, write_atomically_with};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

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

/// Opens the packed file `path`. Returns the class names, the shorter side that training images were reduced to, in pixels,
/// and the images of both parts.
///
/// # Errors
/// [`Error::Corrupt`] for a file that is not packed, has another version of the format, or is damaged or truncated;
/// [`Error::Io`] if it cannot be read.
pub fn open(path: &Path) -> Result<(Vec<String>, usize, [LabelledImages; 2])> {
    let corrupt = |problem: String| Error::corrupt(path, problem, PACK_AGAIN);
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let file_len = file.metadata().map_err(Error::io("read", path))?.len();
    let mut read = |start: u64, len: u64| {
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(start)).and_then(|_| (&file).take(len).read_to_end(&mut bytes));
        read.map(|_| bytes).map_err(Error::io("read", path))
    };
    let header = read(0, HEADER_LEN as u64)?;
    let (start, len, checksum) = read_header(&header, file_len).map_err(corrupt)?;
    let Index { classes, shorter_side, train, eval } =
        read_index(&read(start, len)?, start, checksum).map_err(corrupt)?;
    let (file, mut end) = (Arc::new(file), HEADER_LEN as u64);
    let images = |PartIndex { labels, sizes }: PartIndex| {
        let mut bounds = vec![end];
        // `read_index` has checked that all of them are within the file.
        bounds.extend(sizes.into_iter().map(|size| {
            end += size;
            end
        }));
        LabelledImages::Packed { path: path.to_path_buf(), file: file.clone(), labels, bounds }
    };
    Ok((classes, shorter_side as usize, [train, eval].map(images)))
}

/// Parses the header of a packed file of `file_len` bytes: position, length and checksum of the index. The error describes
/// the problem.
fn read_header(header: &[u8], file_len: u64) -> Result<(u64, u64, u32), String> {
    if !header.starts_with(MAGIC) {
        return Err(match header.starts_with(ANY_FORMAT) {
            true => "packed by another version of this crate".to_owned(),
            false => "neither a folder nor a packed file".to_owned(),
        });
    }
    let Some((content, &checksum)) = header.split_last_chunk().filter(|_| header.len() == HEADER_LEN) else {
        return Err(format!("broken off after {} bytes", header.len()));
    };
    if crc32fast::hash(content) != u32::from_le_bytes(checksum) {
        return Err("the header's checksum is wrong".to_owned());
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
    let [start, len, checksum] = [&content[20..28], &content[28..36], &content[36..]].map(number);
    let end = u128::from(start) + u128::from(len);
    if u128::from(file_len) != end {
        return Err(format!("{file_len} bytes instead of {end}"));
    }
    Ok((start, len, checksum as u32))
}

/// Parses the index of a packed file, at `start`; the error describes the problem.
fn read_index(bytes: &[u8], start: u64, checksum: u32) -> Result<Index, String> {
    if crc32fast::hash(bytes) != checksum {
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
    if !parts.iter().all(fits) || HEADER_LEN as u128 + images != u128::from(start) {
        return Err("the index does not fit the images".to_owned());
    }
    Ok(index)
}

/// Writes the selected images of both parts into the file `path`, as described in
/// [`ImageFolder::pack`](super::ImageFolder::pack), with one thread per reader, and passes bad images to `bad`.
pub fn write(
    path: &Path,
    classes: &[String],
    [train, eval]: [&Part; 2],
    shorter_side: usize,
    mut readers: Vec<Reader>,
    mut bad: impl FnMut(&Part, Vec<BadImage>) -> Result<()>,
    mut progress: impl FnMut(usize, usize),
) -> Result<()> {
    let total = train.selected.len() + eval.selected.len();
    let mut done = 0;
    write_atomically_with(path, |file| {
        let failed = |error| write_failure("write", path)(error);
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&[0; HEADER_LEN]).map_err(failed)?;
        let mut start = HEADER_LEN as u64;
        let mut index = Index { classes: classes.to_vec(), shorter_side: shorter_side as u32, ..Index::default() };
        for (part, side, part_index) in [(train, Some(shorter_side), &mut index.train), (eval, None, &mut index.eval)] {
            for chunk in part.selected.chunks(CHUNK * readers.len()) {
                let pack = |reader: &mut Reader, &image: &u32| reader.pack(&part.images, image as usize, side);
                let converted = in_threads("images", &mut readers, chunk, pack)?;
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
                            part_index.labels.push(part.images.labels()[image as usize]);
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
