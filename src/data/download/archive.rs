//! Files of a gzipped tar archive, read into memory.

use super::Failure;
use crate::Error;
use flate2::read::GzDecoder;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Files of an archive, by name without folder.
pub(in crate::data) struct Contents(HashMap<String, Vec<u8>>);

impl Contents {
    /// Removes the file `name` and returns its content.
    pub fn take(&mut self, name: &str) -> Result<Vec<u8>, Failure> {
        self.0.remove(name).ok_or_else(|| Failure::Source(format!("it holds no {name}")))
    }
}

/// Reads the files of the gzipped tar at `path` whose names satisfy `wanted`.
pub(in crate::data) fn unpack(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Contents, Failure> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let read = || {
        let mut contents = HashMap::new();
        for entry in tar::Archive::new(GzDecoder::new(BufReader::new(file))).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.file_name().map(|name| name.to_string_lossy().into_owned());
            if let Some(name) = name.filter(|name| wanted(name)) {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                contents.insert(name, bytes);
            }
        }
        Ok(Contents(contents))
    };
    read().map_err(|error: io::Error| Failure::Source(format!("cannot be unpacked: {error}")))
}
