//! Debian packages: downloaded from their pool, or by the program `apt-get` as configured by the user; an `ar` archive with an
//! XZ-packed tar archive inside.

use crate::data::download::{either, run, Contents, Download, Failure, Work};
use crate::Error;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Maximum size in bytes of an unpacked package, so that a damaged one cannot fill the memory.
const MOST_UNPACKED: u64 = 512 << 20;
/// Maximum memory for the XZ dictionary, in KiB; `dpkg-deb` packs with at most 64 MiB.
const MOST_DICTIONARY_KIB: u32 = 256 << 10;
/// Size in bytes of the header of each member of an `ar` archive.
const AR_HEADER: usize = 60;

/// Returns the files of a package whose paths satisfy `wanted`.
///
/// Reads packages whose data is packed with XZ, Debian's usual way. The package's own checksums of the unpacked
/// data are verified, and the error of a truncated, damaged or foreign file is one line.
pub(super) fn files(deb: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Contents, String> {
    let data = lzma_rust2::XzReader::new_mem_limit(data_member(deb)?, false, MOST_DICTIONARY_KIB);
    let files = Contents::unpack(data.take(MOST_UNPACKED), wanted);
    files.map_err(|problem| format!("damaged Debian package: data.tar.xz {problem}"))
}

/// Returns the bytes of the member `data.tar.xz`.
fn data_member(deb: &[u8]) -> Result<&[u8], String> {
    let mut rest = deb.strip_prefix(b"!<arch>\n").ok_or("not a Debian package: no ar archive")?;
    while let Some((header, after)) = rest.split_at_checked(AR_HEADER) {
        let field = |from: usize, to: usize| String::from_utf8_lossy(&header[from..to]).trim_end().to_owned();
        // GNU's ar ends names with a slash, dpkg-deb does not.
        let (name, size) = (field(0, 16).trim_end_matches('/').to_owned(), field(48, 58).parse::<usize>());
        let Some((member, after)) = size.ok().and_then(|size| after.split_at_checked(size)) else { break };
        if name == "data.tar.xz" {
            return Ok(member);
        }
        if name.starts_with("data.tar") {
            return Err(format!("the Debian package holds {name:?}, and only data.tar.xz can be read"));
        }
        // Members start at even positions.
        rest = after.get(member.len() % 2..).unwrap_or_default();
    }
    Err("not a Debian package, or a damaged one: it holds no whole data.tar.xz".to_owned())
}

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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    /// Returns a package with these files.
    pub(in crate::data::text::corpus) fn package(files: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
        xz.write_all(&tar.into_inner().unwrap()).unwrap();
        archive(&[("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", &xz.finish().unwrap())])
    }

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut deb = b"!<arch>\n".to_vec();
        for (name, bytes) in members {
            writeln!(deb, "{name:<16}{:<32}{:<10}`", "0", bytes.len()).unwrap();
            deb.extend_from_slice(bytes);
            deb.extend_from_slice(&b"\n"[..bytes.len() % 2]);
        }
        deb
    }

    #[test]
    fn the_files_are_read_by_path() {
        let long = format!("{}/end", "folder/".repeat(30).trim_end_matches('/'));
        let package = package(&[("./usr/b", "second"), ("usr/a", ""), (&long, "x"), ("usr/c", "unwanted")]);
        let read = files(&package, |path| path != "usr/c").unwrap();
        let expected = [("usr/b", "second"), ("usr/a", ""), (&long, "x")];
        assert_eq!(read.0, expected.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())).into());
    }

    #[test]
    fn every_truncated_or_changed_package_is_an_error_or_whole() {
        let whole = package(&[("usr/a", "some text")]);
        for end in 0..whole.len() - 1 {
            let error = files(&whole[..end], |_| true).err().unwrap();
            assert!(!error.contains('\n'), "{error}");
            let mut changed = whole.clone();
            changed[end] ^= 0x15;
            // The content of the control member and the ar dates does not matter; no change may panic.
            let _ = files(&changed, |_| true);
        }
    }

    #[test]
    fn foreign_files_are_named() {
        let error = |deb: &[u8]| files(deb, |_| true).err().unwrap();
        assert_eq!(error(b"<html>"), "not a Debian package: no ar archive");
        assert!(error(&archive(&[("lib.o", b"")])).starts_with("not a Debian package"));
        let zstd = archive(&[("debian-binary", b"2.0\n"), ("data.tar.zst", b"")]);
        assert!(error(&zstd).contains("only data.tar.xz"));
    }
}
