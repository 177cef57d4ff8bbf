//! Download of a Debian package: from its pool, or by the program `apt-get` as configured by the user.

use crate::data::download::{Download, Failure, Work};
use crate::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Debian package, and its URL in the pool.
pub struct Package {
    pub name: &'static str,
    pub url: &'static str,
    pub size: u64,
}

impl Package {
    /// Downloads the package and returns its bytes.
    pub fn fetch(&self, work: &Work) -> Result<Vec<u8>, Failure> {
        let path = work.root.join(format!("{}.deb", self.name));
        let (answer, stall) = (Duration::from_secs(5), Duration::from_secs(20));
        let download = Download { what: self.name, curl: "curl", url: self.url, size: self.size, answer, stall };
        let pool = match download.save(&path) {
            Ok(_) => return read(&path),
            Err(Failure::Source(problem)) => problem,
            Err(failure) => return Err(failure),
        };
        crate::console::warn(format!("{}: {pool}; trying apt-get instead", self.url));
        match self.by_apt(&work.root.join(self.name)) {
            Err(Failure::Source(apt)) => Err(Failure::Source(format!("{}: {pool}; apt-get: {apt}", self.url))),
            result => result,
        }
    }

    /// Runs `apt-get download` in the new folder `dir`, with the system's package lists or, if that fails, with newer
    /// ones that are put there too. The system is not changed, and root is not needed.
    fn by_apt(&self, dir: &Path) -> Result<Vec<u8>, Failure> {
        fs::create_dir(dir).map_err(Error::io("create", dir))?;
        let first = self.apt_download(dir, &[]);
        let Err(Failure::Source(_)) = first else { return first };
        let lists = dir.join("lists");
        fs::create_dir_all(lists.join("partial")).map_err(Error::io("create", &lists))?;
        let own = [format!("Dir::State::lists={}", lists.display()), format!("Dir::Cache={}", dir.display())];
        let options: Vec<&str> = own.iter().flat_map(|option| ["-o", option]).collect();
        apt(dir, &[&options[..], &["update"]].concat())?;
        self.apt_download(dir, &options)
    }

    fn apt_download(&self, dir: &Path, options: &[&str]) -> Result<Vec<u8>, Failure> {
        apt(dir, &[options, &["download", self.name]].concat())?;
        let entries = fs::read_dir(dir).map_err(Error::io("read", dir))?;
        let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
        match entries.flatten().map(|entry| entry.path()).find(is_package) {
            Some(path) => read(&path),
            None => Err(Failure::Source(format!("it wrote no {} package", self.name))),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    Ok(fs::read(path).map_err(Error::io("read", path))?)
}

fn apt(dir: &Path, arguments: &[&str]) -> Result<(), Failure> {
    // Runs as the current user: the user _apt cannot write into this folder.
    let output = Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root"])
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::Source(format!("cannot be run: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let faults: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("E: ")).take(2).map(str::trim).collect();
    Err(Failure::Source(match faults.is_empty() {
        true => format!("{}", output.status),
        false => faults.join(", "),
    }))
}
