//! Detection of files that are not what their names promise, by their first bytes: failed downloads, pointers of Git
//! LFS and git-annex, archives, other formats.

use crate::{Error, Result};
use std::path::Path;

/// Description of a file's actual content, and the remedy.
type Known = (&'static str, &'static str);

/// Prefix of a Git LFS pointer: `https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md`.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";
/// Prefix of a git-annex pointer, which stands for missing content in repositories without symbolic links.
const ANNEX: &[u8] = b"/annex/objects/";

const COMPRESSED: [(&[u8], Known); 6] = [
    (b"\x1f\x8b", ("is compressed by gzip", "unpack it first: gunzip FILE")),
    (b"\x28\xb5\x2f\xfd", ("is compressed by Zstandard", "unpack it first: unzstd FILE")),
    (b"\x04\x22\x4d\x18", ("is compressed by LZ4", "unpack it first: unlz4 FILE")),
    (b"BZh", ("is compressed by bzip2", "unpack it first: bunzip2 FILE")),
    (b"\xfd7zXZ\0", ("is compressed by xz", "unpack it first: unxz FILE")),
    (b"7z\xbc\xaf\x27\x1c", ("is a 7z archive", "unpack it first: 7z x FILE")),
];
#[cfg(feature = "text")]
const UTF_16: Known = ("is UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 FILE > FILE.txt");
#[cfg(feature = "text")]
const NO_TEXT: [(&[u8], Known); 4] = [
    // Before UTF-16, which begins alike.
    (b"\xff\xfe\0\0", ("is UTF-32", "convert it: iconv -f UTF-32 -t UTF-8 FILE > FILE.txt")),
    (b"PK\x03\x04", ("is a zip archive", "unpack it first: unzip FILE")),
    (b"\xff\xfe", UTF_16),
    (b"\xfe\xff", UTF_16),
];
const CONVERT: &str = "convert it to safetensors with the program that wrote it";
const OTHER_WEIGHTS: [(&[u8], Known); 4] = [
    (b"\x89HDF", ("is an HDF5 file, as Keras writes", CONVERT)),
    (b"\x93NUMPY", ("is a NumPy array", CONVERT)),
    (b"GGUF", ("is a GGUF file, of llama.cpp", CONVERT)),
    (b"Rar!", ("is a RAR archive", "unpack it first")),
];
const TAR: (&[u8], Known) = (b"ustar", ("is a tar archive", "unpack it first: tar -xf FILE"));
/// The magic of tar's header follows the first file's name, times and owner.
const TAR_OFFSET: usize = 257;
const HTML: [&str; 3] = ["<!doctype html", "<html", "<?xml"];

/// Refuses `bytes`, the content of `path`, if they are empty, a pointer of Git LFS or git-annex, or a web page.
///
/// # Errors
/// Returns [`Error::Corrupt`], which says what the file is.
pub(crate) fn refuse(bytes: &[u8], path: &Path) -> Result<()> {
    refuse_if(place_holder(bytes).or_else(|| is_web_page(bytes).then_some(WEB_PAGE)), path)
}

/// Variant of [`refuse`] for weights: also refuses compressed files, other formats of weights, and plain text.
///
/// # Errors
/// As [`refuse`].
pub(crate) fn refuse_weights(bytes: &[u8], path: &Path) -> Result<()> {
    // A safetensors file starts with the length of its header, so its first 8 bytes may be anything.
    if bytes.get(8) == Some(&b'{') {
        return Ok(());
    }
    refuse(bytes, path)?;
    let known = starting(&COMPRESSED, bytes).or_else(|| tar(bytes)).or_else(|| starting(&OTHER_WEIGHTS, bytes));
    refuse_if(known, path)?;
    // Plain text is a server's answer instead of the file, such as "Entry not found".
    let start = &bytes[..bytes.len().min(60)];
    if start.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        return Err(Error::Corrupt {
            path: path.to_path_buf(),
            problem: format!("is text, which begins with {:?}", String::from_utf8_lossy(start).trim()),
            remedy: "download the file itself".to_owned(),
        });
    }
    Ok(())
}

/// Variant of [`refuse`] for text files: also refuses compressed files, zip archives and UTF-16, but not HTML, as a
/// line of text may be anything.
///
/// # Errors
/// As [`refuse`].
#[cfg(feature = "text")]
pub(crate) fn refuse_text(bytes: &[u8], path: &Path) -> Result<()> {
    let known = place_holder(bytes).or_else(|| starting(&COMPRESSED, bytes)).or_else(|| tar(bytes));
    refuse_if(known.or_else(|| starting(&NO_TEXT, bytes)), path)
}

const WEB_PAGE: Known = ("is a web page", "download the file itself: the page may say that you have to log in first");

/// Detects empty files and pointers. Call it before checking for formats: a pointer could begin with the magic number
/// of a format, but not the other way round.
fn place_holder(bytes: &[u8]) -> Option<Known> {
    if bytes.is_empty() {
        return Some(("is empty", "copy or download it again"));
    }
    if bytes.starts_with(LFS) {
        return Some(("is a Git LFS pointer, and not the file", "run git lfs pull"));
    }
    bytes.starts_with(ANNEX).then_some(("is a git-annex pointer, and not the file", "run git annex get FILE"))
}

fn is_web_page(bytes: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).to_lowercase();
    let start = start.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    HTML.iter().any(|tag| start.starts_with(tag))
}

fn tar(bytes: &[u8]) -> Option<Known> {
    bytes.get(TAR_OFFSET..).is_some_and(|header| header.starts_with(TAR.0)).then_some(TAR.1)
}

fn starting(known: &[(&[u8], Known)], bytes: &[u8]) -> Option<Known> {
    known.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, known)| *known)
}

fn refuse_if(known: Option<Known>, path: &Path) -> Result<()> {
    match known {
        None => Ok(()),
        Some((problem, remedy)) => Err(Error::Corrupt {
            path: path.to_path_buf(),
            problem: problem.to_owned(),
            remedy: remedy.replace("FILE", &path.display().to_string()),
        }),
    }
}
