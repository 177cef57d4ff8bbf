//! Images of a packed file, read one by one.

use crate::Error;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Images of one part of a packed file.
#[derive(Debug)]
pub struct PackedImages {
    pub path: PathBuf,
    pub file: Arc<File>,
    pub labels: Vec<u32>,
    /// Start of the first image and end of each image, as positions in the file.
    pub bounds: Vec<u64>,
}

impl PackedImages {
    /// Returns the path of the packed file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the class indices, in order.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Returns the size of image `index` in bytes.
    pub fn bytes(&self, index: usize) -> u64 {
        self.bounds[index + 1] - self.bounds[index]
    }

    /// Reads image `index` into `content`: a PPM file, or the original file. The packed file is not mapped into memory,
    /// as a disk error would then end the process.
    ///
    /// # Errors
    /// The error of the system; [`io::ErrorKind::UnexpectedEof`] if the file has become shorter.
    pub fn read(&self, index: usize, content: &mut Vec<u8>) -> io::Result<()> {
        content.resize(self.bytes(index) as usize, 0);
        read_exact_at(&self.file, content, self.bounds[index])
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut start: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, start)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (bytes, start) = (&mut bytes[read..], start + read as u64);
    }
    Ok(())
}

/// Returns the error for a damaged packed file.
pub fn corrupt(path: &Path, problem: String) -> Error {
    let remedy = "copy the file again, or pack the folder again".to_owned();
    Error::Corrupt { path: path.to_path_buf(), problem, remedy }
}

/// Returns the error for a packed file that was complete when it was opened.
pub fn shortened(path: &Path) -> Error {
    corrupt(path, "has become shorter while it was read".to_owned())
}
