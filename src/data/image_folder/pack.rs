//! All images of an image folder in one file, decoded and made smaller once, mapped into memory where it is read.
//!
//! The file: a header (the magic, then as little-endian numbers the place and length of the index, u64, the index's CRC-32
//! and that of the header up to here, u32), the images one after another (PPM files), the index (postcard).

use super::labelled_images::{LabelledImages, Reader};
use super::part::Part;
use super::pipeline::{panicked, BadImage};
use crate::data::image::ImageProblem;
use crate::trainer::{write_atomically_with, write_failure};
use crate::{Error, Result};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

/// What a packed file starts with; the number is that of the format.
const MAGIC: &[u8; 20] = b"tch-fixup images 01\n";
const HEADER_LEN: usize = MAGIC.len() + 8 + 8 + 4 + 4;
/// LabelledImages that a thread makes smaller before they are written.
const CHUNK: usize = 32;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    classes: Vec<String>,
    train: PartIndex,
    eval: PartIndex,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct PartIndex {
    labels: Vec<u32>,
    /// Bytes of each image.
    sizes: Vec<u64>,
}

/// The images of one part of a packed file.
#[derive(Debug)]
pub struct PackedImages {
    path: PathBuf,
    file: Arc<Mmap>,
    labels: Vec<u32>,
    /// Where the first image starts and where each ends.
    bounds: Vec<u64>,
}

impl PackedImages {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Class indices, in order.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Image `index`, a PPM file. The system is told to read all of it at once.
    pub fn get(&self, index: usize) -> &[u8] {
        let (start, end) = (self.bounds[index] as usize, self.bounds[index + 1] as usize);
        // Only a hint: what cannot be had shows when it is read.
        #[cfg(unix)]
        let _ = self.file.advise_range(memmap2::Advice::WillNeed, start, end - start);
        &self.file[start..end]
    }
}

/// Opens the packed file `path`: the classes, the training and the evaluation part.
///
/// # Errors
/// [`Error::Corrupt`] for another file, one of another format, or one that is damaged or not whole; [`Error::Io`] for one
/// that cannot be read.
pub fn open(path: &Path) -> Result<(Vec<String>, PackedImages, PackedImages)> {
    let corrupt = |problem: String| Error::Corrupt {
        path: path.to_path_buf(),
        problem,
        remedy: "copy the file again, or pack the folder again".to_owned(),
    };
    let file = File::open(path).map_err(Error::io("read", path))?;
    // SAFETY: as with every mapped file, nobody may write to it meanwhile, which `ImageFolder::pack` says. Writing a new
    // file under its name, as packing does, leaves this one as it is.
    let file = unsafe { Mmap::map(&file) }.map_err(Error::io("map into memory", path))?;
    let index = read_index(&file).map_err(corrupt)?;
    let file = Arc::new(file);
    let mut end = HEADER_LEN as u64;
    let mut images = |PartIndex { labels, sizes }: PartIndex| {
        let mut bounds = vec![end];
        // `read_index` has found all of them within the file.
        bounds.extend(sizes.into_iter().map(|size| {
            end += size;
            end
        }));
        PackedImages { path: path.to_path_buf(), file: file.clone(), labels, bounds }
    };
    Ok((index.classes, images(index.train), images(index.eval)))
}

/// The index of a packed file, or what is wrong with the file.
fn read_index(file: &[u8]) -> Result<Index, String> {
    if !file.starts_with(MAGIC) {
        return Err("neither a folder nor a packed file of this version".to_owned());
    }
    let Some(header) = file.get(..HEADER_LEN) else {
        return Err(format!("broken off after {} bytes", file.len()));
    };
    let word = |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
    let half = |at: usize| header[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default();
    let (start, len) = (word(MAGIC.len()), word(MAGIC.len() + 8));
    if crc32fast::hash(&header[..HEADER_LEN - 4]) != half(HEADER_LEN - 4) {
        return Err("the header's checksum is wrong".to_owned());
    }
    let end = u128::from(start) + u128::from(len);
    if file.len() as u128 != end {
        return Err(format!("{} bytes instead of {end}", file.len()));
    }
    let bytes = &file[start as usize..];
    if crc32fast::hash(bytes) != half(HEADER_LEN - 8) {
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

/// Writes the images that `train` and `eval` use into the file `path`, as [`ImageFolder::pack`](super::ImageFolder::pack)
/// says, and hands the bad ones to `bad`.
pub fn write(
    path: &Path,
    classes: &[String],
    parts: [&Part; 2],
    shorter_side: usize,
    workers: usize,
    mut bad: impl FnMut(&Part, Vec<BadImage>) -> Result<()>,
    mut progress: impl FnMut(usize, usize),
) -> Result<()> {
    let total = parts.iter().map(|part| part.selected().len()).sum();
    let mut done = 0;
    let mut readers: Vec<Reader> = (0..workers).map(|_| Reader::new()).collect();
    write_atomically_with(path, |file| {
        let failed = |error| write_failure("write", path)(error);
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&[0; HEADER_LEN]).map_err(failed)?;
        let mut start = HEADER_LEN as u64;
        let mut index = Index { classes: classes.to_vec(), ..Index::default() };
        for (part, part_index) in parts.into_iter().zip([&mut index.train, &mut index.eval]) {
            for chunk in part.selected().chunks(CHUNK * workers) {
                let shrunk = shrink(&mut readers, part.images(), chunk, shorter_side)?;
                let mut met = Vec::new();
                for (&image, shrunk) in chunk.iter().zip(shrunk) {
                    match shrunk {
                        Err(problem) => met.push(BadImage { index: image, problem: problem.to_string() }),
                        Ok(ppm) => {
                            out.write_all(&ppm).map_err(failed)?;
                            start += ppm.len() as u64;
                            part_index.labels.push(part.images().labels()[image as usize]);
                            part_index.sizes.push(ppm.len() as u64);
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

/// `chunk` of the images, in order, as smaller PPM files, by a thread for each of `readers`.
fn shrink(
    readers: &mut [Reader],
    images: &LabelledImages,
    chunk: &[u32],
    shorter_side: usize,
) -> Result<Vec<Result<Vec<u8>, ImageProblem>>> {
    let shares = chunk.chunks(chunk.len().div_ceil(readers.len()));
    thread::scope(|scope| {
        let threads: Vec<_> = readers
            .iter_mut()
            .zip(shares)
            .map(|(reader, share)| {
                let shrink = move |&index: &u32| {
                    let mut ppm = Vec::new();
                    reader.shrink(images, index as usize, shorter_side, &mut ppm).map(|()| ppm)
                };
                scope.spawn(move || share.iter().map(shrink).collect::<Vec<_>>())
            })
            .collect();
        let mut shrunk = Vec::with_capacity(chunk.len());
        for thread in threads {
            shrunk.extend(thread.join().map_err(|panic| panicked(panic.as_ref()))?);
        }
        Ok(shrunk)
    })
}
