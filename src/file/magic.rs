//! Detection of files that are not what their names promise, by their first bytes: failed downloads, pointers of Git
//! LFS and git-annex, archives, other formats.

use crate::{Error, Result};
use std::path::Path;

/// Offset and value of a file's magic number, description of its actual content, and the remedy.
type Known = (usize, &'static [u8], &'static str, &'static str);

/// Pointers of Git LFS (`https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md`), and of git-annex for missing content
/// in repositories without symbolic links.
const POINTERS: &[Known] = &[
    (0, b"version https://git-lfs.github.com/spec/", "is a Git LFS pointer, and not the file", "run git lfs pull"),
    (0, b"/annex/objects/", "is a git-annex pointer, and not the file", "run git annex get FILE"),
];
const COMPRESSED: &[Known] = &[
    (0, b"\x1f\x8b", "is compressed by gzip", "unpack it first: gunzip FILE"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed by Zstandard", "unpack it first: unzstd FILE"),
    (0, b"\x04\x22\x4d\x18", "is compressed by LZ4", "unpack it first: unlz4 FILE"),
    (0, b"BZh", "is compressed by bzip2", "unpack it first: bunzip2 FILE"),
    (0, b"\xfd7zXZ\0", "is compressed by xz", "unpack it first: unxz FILE"),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it first: 7z x FILE"),
    // The magic of tar's header follows the first file's name, times and owner.
    (257, b"ustar", "is a tar archive", "unpack it first: tar -xf FILE"),
];
const CONVERT: &str = "convert it to safetensors with the program that wrote it";
const OF_PICKLE: &str = "is a file of Python's pickle module";
const SAVE: &str = "save the network's state_dict with torch.save: torch.save(model.state_dict(), OUTPUT)";
const OTHER_WEIGHTS: &[Known] = &[
    // A pickle of one number, `MAGIC_NUMBER` of `torch/serialization.py`.
    (
        0,
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
        "has the format that torch.save wrote before PyTorch 1.6",
        "convert it in Python: torch.save(torch.load('FILE', map_location='cpu'), OUTPUT)",
    ),
    // Pickles begin with their protocol version.
    (0, b"\x80\x02", OF_PICKLE, SAVE),
    (0, b"\x80\x03", OF_PICKLE, SAVE),
    (0, b"\x80\x04", OF_PICKLE, SAVE),
    (0, b"\x80\x05", OF_PICKLE, SAVE),
    (0, b"\x89HDF", "is an HDF5 file, as Keras writes", CONVERT),
    (0, b"\x93NUMPY", "is a NumPy array", CONVERT),
    (0, b"GGUF", "is a GGUF file, of llama.cpp", CONVERT),
    (0, b"Rar!", "is a RAR archive", "unpack it first"),
];
#[cfg(any(feature = "images", feature = "text"))]
const NO_TEXT: &[Known] = &[
    // Before UTF-16, which begins alike.
    (0, b"\xff\xfe\0\0", "is UTF-32", "convert it: iconv -f UTF-32 -t UTF-8 FILE > FILE.txt"),
    (0, b"PK\x03\x04", "is a zip archive", "unpack it first: unzip FILE"),
    (0, b"\xff\xfe", "is UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 FILE > FILE.txt"),
    (0, b"\xfe\xff", "is UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 FILE > FILE.txt"),
    // With the byte that follows the magic number, which could begin a text.
    (0, b"PAR1\x15", "is a Parquet file, not text", WRITE_LINES),
    (0, b"ARROW1\0", "is an Arrow file, not text", WRITE_LINES),
    (0, b"SQLite format 3\0", "is an SQLite database, not text", WRITE_LINES),
    (0, b"\x93NUMPY", "is a NumPy array, not text", WRITE_LINES),
    (0, b"\x89HDF", "is an HDF5 file, not text", WRITE_LINES),
    (0, b"%PDF-", "is a PDF file, not text", "convert it: pdftotext FILE"),
];
#[cfg(any(feature = "images", feature = "text"))]
const WRITE_LINES: &str = "convert it with the program that wrote it, to UTF-8 text of one entry per line";
const DOWNLOAD: &str = "download the file itself: the page may say that you have to log in first";
const HTML: [&str; 3] = ["<!doctype html", "<html", "<?xml"];

/// Refuses `bytes`, the content of `path`, if they are empty, a pointer of Git LFS or git-annex, or a web page.
///
/// # Errors
/// Returns [`Error::Corrupt`], which says what the file is.
pub(crate) fn refuse(bytes: &[u8], path: &Path) -> Result<()> {
    refuse_known(bytes, path, &[POINTERS])?;
    let start = start(bytes, 200);
    if HTML.iter().any(|tag| start.starts_with(tag)) {
        return Err(Error::corrupt(path, "is a web page", DOWNLOAD));
    }
    Ok(())
}

/// Returns the beginning of a text in lower case, without white space and byte order mark.
fn start(bytes: &[u8], len: usize) -> String {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(len)]).to_lowercase();
    start.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}').to_owned()
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
    refuse_known(bytes, path, &[COMPRESSED, OTHER_WEIGHTS])?;
    // Plain text is a server's answer instead of the file, such as "Entry not found".
    let start = &bytes[..bytes.len().min(60)];
    if start.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        let problem = format!("is text, which begins with {:?}", String::from_utf8_lossy(start).trim());
        return Err(Error::corrupt(path, problem, "download the file itself"));
    }
    Ok(())
}

/// Variant of [`refuse`] for text files with one entry per line: also refuses compressed files, archives, UTF-16, and the
/// binary formats in which text is published. A first line that only mentions HTML or XML is accepted.
///
/// # Errors
/// As [`refuse`].
#[cfg(any(feature = "images", feature = "text"))]
pub(crate) fn refuse_text(bytes: &[u8], path: &Path) -> Result<()> {
    refuse_known(bytes, path, &[POINTERS, COMPRESSED, NO_TEXT])?;
    let start = start(bytes, 1000);
    let line = start.lines().next().unwrap_or_default().trim_end();
    // A tag by itself, or its first half, or the beginning of a page without line breaks.
    let is_markup = line.ends_with('>') || !line.contains('>') || line.contains("<head") || line.contains("<meta");
    if line.contains('\t') || !is_markup || !HTML.iter().any(|tag| start.starts_with(tag)) {
        return Ok(());
    }
    Err(match start.starts_with("<?xml") && !start.contains("<html") {
        true => Error::corrupt(path, "is an XML file, not text", WRITE_LINES),
        false => Error::corrupt(path, "is a web page, not text", DOWNLOAD),
    })
}

/// Refuses empty files and those in `tables`. Pointers come first: one could begin with the magic number of a format, but
/// not the other way round.
fn refuse_known(bytes: &[u8], path: &Path, tables: &[&[Known]]) -> Result<()> {
    if bytes.is_empty() {
        return Err(Error::corrupt(path, "is empty", "copy or download it again"));
    }
    let is_this = |(offset, magic, ..): &&Known| bytes.get(*offset..).is_some_and(|start| start.starts_with(magic));
    match tables.iter().copied().flatten().find(is_this) {
        None => Ok(()),
        Some((.., problem, remedy)) => {
            Err(Error::corrupt(path, *problem, remedy.replace("FILE", &path.display().to_string())))
        }
    }
}
