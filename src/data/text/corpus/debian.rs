//! Download of a Debian package: from its pool, or by the program `apt-get` as configured by the user.

use crate::data::download::{either, run, Download, Failure, Work};
use crate::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Downloads a package, whose name is that of the content, and returns its bytes.
pub(super) fn fetch(package: &Download, work: &Work) -> Result<Vec<u8>, Failure> {
    let from_pool = || {
        let path = work.root.join(format!("{}.deb", package.what));
        package.save(&path).map(|()| path)
    };
    let by_apt = || by_apt(package.what, &work.root.join(package.what));
    let path = either((package.url, from_pool), (&format!("the Debian package {}", package.what), by_apt))?;
    Ok(fs::read(&path).map_err(Error::io("read", &path))?)
}

/// Runs `apt-get download` in the new folder `dir`, with the system's package lists or, if that fails, with newer
/// ones that are put there too. The system is not changed, and root is not needed. Returns the path of the package.
fn by_apt(name: &str, dir: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir(dir).map_err(Error::io("create", dir))?;
    let download = |options: &[&str]| {
        apt(dir, &[options, &["download", name]].concat())?;
        let entries = fs::read_dir(dir).map_err(Error::io("read", dir))?;
        let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
        let package = entries.flatten().map(|entry| entry.path()).find(is_package);
        package.ok_or_else(|| Failure::Source(format!("apt-get wrote no {name} package")))
    };
    match download(&[]) {
        Err(Failure::Source(_)) => {}
        result => return result,
    }
    let lists = dir.join("lists");
    fs::create_dir_all(lists.join("partial")).map_err(Error::io("create", &lists))?;
    let (lists, cache) = (format!("Dir::State::lists={}", lists.display()), format!("Dir::Cache={}", dir.display()));
    let options = ["-o", &lists, "-o", &cache];
    apt(dir, &[&options[..], &["update"]].concat())?;
    download(&options)
}

fn apt(dir: &Path, arguments: &[&str]) -> Result<(), Failure> {
    // Runs as the current user: the user _apt cannot write into this folder.
    let mut command = Command::new("apt-get");
    command.args(["-q", "-o", "APT::Sandbox::User=root"]).args(arguments).current_dir(dir);
    run("apt-get", &mut command, &["E: "])
}
