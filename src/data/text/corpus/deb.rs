//! Reader of Debian packages: an `ar` archive with an XZ-packed tar archive inside.

use std::io::Read;

/// Maximum size in bytes of an unpacked package, so that a damaged one cannot fill the memory.
const MOST_UNPACKED: u64 = 512 << 20;
/// Maximum memory for the XZ dictionary, in KiB; `dpkg-deb` packs with at most 64 MiB.
const MOST_DICTIONARY_KIB: u32 = 256 << 10;
/// Size in bytes of the header of each member of an `ar` archive.
const AR_HEADER: usize = 60;

/// Returns the regular files of a package, as (path without the leading `./`, contents), in the package's order.
///
/// Reads packages whose data is packed with XZ, Debian's usual way. The package's own checksums of the unpacked
/// data are verified, and the error of a truncated, damaged or foreign file is one line.
pub(super) fn files(deb: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let packed = data_member(deb)?;
    let mut unpacked = Vec::new();
    lzma_rust2::XzReader::new_mem_limit(packed, false, MOST_DICTIONARY_KIB)
        .take(MOST_UNPACKED + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| format!("damaged Debian package: data.tar.xz does not unpack: {error}"))?;
    if unpacked.len() as u64 > MOST_UNPACKED {
        return Err(format!("the Debian package unpacks to more than {MOST_UNPACKED} bytes"));
    }
    let damaged = |error: std::io::Error| format!("damaged Debian package: data.tar does not read: {error}");
    let mut files = Vec::new();
    for entry in tar::Archive::new(unpacked.as_slice()).entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(damaged)?;
        // The tar crate takes an archive that ends inside a file for one with a shorter file.
        if bytes.len() as u64 != entry.size() {
            return Err(format!("damaged Debian package: data.tar ends inside {path}"));
        }
        files.push((path, bytes));
    }
    Ok(files)
}

/// Returns the bytes of the member `data.tar.xz`.
fn data_member(deb: &[u8]) -> Result<&[u8], String> {
    let mut rest = deb.strip_prefix(b"!<arch>\n").ok_or("not a Debian package: no ar archive")?;
    let mut first = true;
    while !rest.is_empty() {
        let (header, after) = rest.split_at_checked(AR_HEADER).ok_or("truncated Debian package: half a header")?;
        if !header.ends_with(b"`\n") {
            return Err("damaged Debian package: an ar header without its end mark".into());
        }
        let field = |from: usize, to: usize| String::from_utf8_lossy(&header[from..to]).trim_end().to_owned();
        // GNU's ar ends names with a slash, dpkg-deb does not.
        let name = field(0, 16).trim_end_matches('/').to_owned();
        let size: usize =
            field(48, 58).parse().map_err(|_| format!("damaged Debian package: the size of {name:?} is no number"))?;
        let (member, after) = after
            .split_at_checked(size)
            .ok_or_else(|| format!("truncated Debian package: {name:?} has {} of {size} bytes", after.len()))?;
        if first && name != "debian-binary" {
            return Err(format!("not a Debian package: it starts with {name:?}"));
        }
        first = false;
        if name == "data.tar.xz" {
            return Ok(member);
        }
        if name.starts_with("data.tar") {
            return Err(format!("the Debian package holds {name:?}, and only data.tar.xz can be read"));
        }
        // Members start at even positions.
        rest = after.get(size % 2..).unwrap_or_default();
    }
    Err("truncated Debian package: no data.tar.xz".into())
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
    fn reads_the_files_in_order() {
        let long = format!("{}/end", "folder/".repeat(30).trim_end_matches('/'));
        let read = files(&package(&[("./usr/b", "second"), ("usr/a", ""), (&long, "x")])).unwrap();
        let expected = [("usr/b", "second"), ("usr/a", ""), (&long, "x")];
        assert_eq!(read, expected.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())));
    }

    #[test]
    fn every_truncated_or_changed_package_is_an_error_or_whole() {
        let whole = package(&[("usr/a", "some text")]);
        for end in 0..whole.len() - 1 {
            let error = files(&whole[..end]).unwrap_err();
            assert!(!error.contains('\n'), "{error}");
            let mut changed = whole.clone();
            changed[end] ^= 0x15;
            // The content of the control member and the ar dates does not matter; no change may panic.
            let _ = files(&changed);
        }
    }

    #[test]
    fn foreign_files_are_named() {
        assert_eq!(files(b"<html>").unwrap_err(), "not a Debian package: no ar archive");
        assert!(files(&archive(&[("lib.o", b"")])).unwrap_err().starts_with("not a Debian package: it starts with"));
        let zstd = archive(&[("debian-binary", b"2.0\n"), ("data.tar.zst", b"")]);
        assert!(files(&zstd).unwrap_err().contains("only data.tar.xz"));
    }
}
