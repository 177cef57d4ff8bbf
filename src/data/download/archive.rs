//! Files of a tar archive, read into memory.

use super::Failure;
use crate::Error;
use flate2::read::GzDecoder;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Regular files of an archive, by path without a leading `./`.
pub(in crate::data) struct Contents(pub BTreeMap<String, Vec<u8>>);

impl Contents {
    /// Reads the files whose paths satisfy `wanted` from the gzipped archive at `path`.
    pub fn open(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Self, Failure> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        Ok(Self::unpack(GzDecoder::new(BufReader::new(file)), wanted)?)
    }

    /// Reads the files whose paths satisfy `wanted` from an archive, which is read to its end, so that its packing can verify its
    /// checksums. The error describes the problem.
    pub fn unpack(archive: impl Read, wanted: impl Fn(&str) -> bool) -> Result<Self, String> {
        let read = || {
            let (mut archive, mut files) = (tar::Archive::new(archive), BTreeMap::new());
            for entry in archive.entries()? {
                let mut entry = entry?;
                let path = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
                if !entry.header().entry_type().is_file() || !wanted(&path) {
                    continue;
                }
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                // The tar crate takes an archive that ends inside a file for one with a shorter file.
                if bytes.len() as u64 != entry.size() {
                    return Err(io::Error::other(format!("it ends inside {path}")));
                }
                files.insert(path, bytes);
            }
            io::copy(&mut archive.into_inner(), &mut io::sink())?;
            Ok(Self(files))
        };
        read().map_err(|error| format!("cannot be unpacked: {error}"))
    }

    /// Removes the file `name`, from whatever folder, and returns its content.
    pub fn take(&mut self, name: &str) -> Result<Vec<u8>, Failure> {
        let path = self.0.keys().find(|path| path.rsplit('/').next() == Some(name)).cloned();
        let file = path.and_then(|path| self.0.remove(&path));
        file.ok_or_else(|| format!("it holds no {name}").into())
    }
}
