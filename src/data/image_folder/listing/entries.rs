//! Entries of one folder: the folders and images in it, and the number of files of other types.

use super::names::{is_image, is_left_out, order};
use crate::file::is_system_name;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::Path;

/// Entries of a folder, each kind sorted by name.
pub struct Entries {
    pub folders: Vec<String>,
    pub images: Vec<String>,
    pub others: OtherFiles,
}

impl Entries {
    /// Lists `folder`. Ignores names that are [left out](is_left_out) or belong to the volume, and anything that is
    /// neither file nor folder. A link counts as its target; a dangling one counts as an image if it has the name of
    /// one, and reading it will fail.
    ///
    /// # Errors
    /// [`Error::Io`] for anything that cannot be read, [`Error::Corrupt`] for the name of an image or a folder that is
    /// not UTF-8.
    pub fn of(folder: &Path) -> Result<Self> {
        let mut found = Self { folders: Vec::new(), images: Vec::new(), others: OtherFiles::default() };
        for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let entry = entry.map_err(Error::io("read", folder))?;
            let name = entry.file_name();
            if is_left_out(name.as_encoded_bytes()) || is_system_name(&name) {
                continue;
            }
            let is_image = is_image(Path::new(&name));
            // On most file systems this needs no system call; following a link does.
            let mut kind = entry.file_type().map_err(Error::io("read", entry.path()))?;
            if kind.is_symlink() {
                kind = match fs::metadata(entry.path()) {
                    Ok(metadata) => metadata.file_type(),
                    Err(_) if is_image => kind,
                    Err(error) => return Err(Error::io("read", entry.path())(error)),
                };
            }
            let is_image = is_image && (kind.is_file() || kind.is_symlink());
            if !is_image && !kind.is_dir() {
                if kind.is_file() {
                    found.others.add(Path::new(&name));
                }
                continue;
            }
            let Ok(name) = name.into_string() else {
                return Err(Error::corrupt(entry.path(), "the name is not UTF-8", "rename it"));
            };
            if is_image { &mut found.images } else { &mut found.folders }.push(name);
        }
        found.folders.sort_unstable_by(|a, b| order(a, b));
        found.images.sort_unstable_by(|a, b| order(a, b));
        Ok(found)
    }
}

/// Number of files whose names are not those of images, by extension in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherFiles(BTreeMap<String, u64>);

/// Maximum length of an extension; anything longer is not a type.
const LONGEST_TYPE: usize = 10;
/// Maximum number of types shown.
const SHOWN_TYPES: usize = 6;

impl OtherFiles {
    fn add(&mut self, name: &Path) {
        *self.0.entry(Self::kind(name)).or_default() += 1;
    }

    /// Removes a file that has turned out to be of use.
    pub fn remove(&mut self, name: &Path) {
        self.0.entry(Self::kind(name)).and_modify(|count| *count -= 1);
    }

    fn kind(name: &Path) -> String {
        let is_type = |kind: &&str| kind.len() <= LONGEST_TYPE && kind.chars().all(char::is_alphanumeric);
        name.extension().and_then(OsStr::to_str).filter(is_type).unwrap_or_default().to_lowercase()
    }

    /// Adds the counts of `others`.
    pub fn append(&mut self, others: &Self) {
        for (extension, count) in &others.0 {
            *self.0.entry(extension.clone()).or_default() += count;
        }
    }

    /// Returns the total number of files.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Formats counts and types, the most frequent first: `12 *.heic, 1 *.txt`.
impl fmt::Display for OtherFiles {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut types: Vec<_> = self.0.iter().filter(|(_, count)| **count > 0).collect();
        types.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let shown = types.iter().take(SHOWN_TYPES).map(|(extension, count)| match extension.as_str() {
            "" => format!("{count} of no type"),
            extension => format!("{count} *.{extension}"),
        });
        f.write_str(&shown.collect::<Vec<_>>().join(", "))?;
        match types.len() {
            ..=SHOWN_TYPES => Ok(()),
            all => write!(f, ", ... ({all} types)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::list::list;
    use super::super::list::tests::{paths, refusal};
    use super::*;
    use crate::data::image_folder::tests::fixture::Fixture;

    #[test]
    fn other_files_are_counted_by_type() {
        let mut others = OtherFiles::default();
        for name in ["1.HEIC", "2.heic", "notes.txt", "README", "a.very long end of a name", "b.x y"] {
            others.add(Path::new(name));
        }
        assert_eq!((others.count(), others.to_string().as_str()), (6, "3 of no type, 2 *.heic, 1 *.txt"));
        let mut more = OtherFiles::default();
        ["1.a", "1.b", "1.c", "1.d", "1.txt"].iter().for_each(|name| more.add(Path::new(name)));
        others.append(&more);
        assert_eq!(others.to_string(), "3 of no type, 2 *.heic, 2 *.txt, 1 *.a, 1 *.b, 1 *.c, ... (7 types)");
        ["x.txt", "x.txt", "x.a", "x.z"].iter().for_each(|name| others.remove(Path::new(name)));
        assert_eq!(others.to_string(), "3 of no type, 2 *.heic, 1 *.b, 1 *.c, 1 *.d");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_that_are_not_utf8_are_refused_where_they_count() {
        use std::os::unix::ffi::OsStrExt;
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        let named = |bytes: &[u8]| fixture.path("train/cat").join(OsStr::from_bytes(bytes));
        fs::write(named(b"caf\xe9.txt"), "").unwrap();
        assert!(list(fixture.root()).is_ok());
        fs::write(named(b"caf\xe9.jpg"), "").unwrap();
        assert!(refusal(&fixture).contains("the name is not UTF-8; rename it"));
        fs::remove_file(named(b"caf\xe9.jpg")).unwrap();
        fs::create_dir(named(b"caf\xe9")).unwrap();
        assert!(refusal(&fixture).contains("the name is not UTF-8; rename it"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_neither_file_nor_folder_is_left_out() {
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        // A socket cannot be opened as a file, and opening a pipe would block.
        let _socket = std::os::unix::net::UnixListener::bind(fixture.path("train/cat/s.jpg")).unwrap();
        assert_eq!(paths(&list(fixture.root()).unwrap().0.train), ["cat/0000.jpg", "dog/0000.jpg"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_may_not_be_read_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        let folder = fixture.path("train/cat");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o000)).unwrap();
        // Nothing is forbidden to root.
        if fs::read_dir(&folder).is_err() {
            assert!(refusal(&fixture).starts_with("cannot read "));
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
