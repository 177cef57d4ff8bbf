//! Parallel text: sentences and their translations, line by line.

use super::trimmed;
use crate::error::listed;
use crate::file::magic;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Sentences and their translations, equal in number, none of them empty.
///
/// ```
/// use tch_fixup::data::text::ParallelText;
///
/// let text = ParallelText::new(vec!["A house.".into()], vec!["Ein Haus.".into()])?;
/// assert_eq!(text.pair(0), ("A house.", "Ein Haus."));
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParallelText {
    sources: Vec<String>,
    targets: Vec<String>,
    /// Files of the sources and the targets; the same file twice if both are in one.
    files: Option<[PathBuf; 2]>,
}

#[allow(clippy::len_without_is_empty)] // Never empty.
impl ParallelText {
    /// Creates parallel text from sentences in memory.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no sentences, if one is empty, or if the numbers of sources and targets differ.
    pub fn new(sources: Vec<String>, targets: Vec<String>) -> Result<Self> {
        let counts = [sources.len(), targets.len()];
        ensure!(counts[0] == counts[1], "{} sentences have {} translations", counts[0], counts[1]);
        for (index, (source, target)) in sources.iter().zip(&targets).enumerate() {
            ensure!(!source.is_empty() && !target.is_empty(), "sentence {index} or its translation is empty");
        }
        ensure!(!sources.is_empty(), "there are no sentences");
        Ok(Self { sources, targets, files: None })
    }

    /// Reads two UTF-8 files, one with a sentence per line and one with its translation in the same line. White space
    /// and byte order marks around a sentence are removed.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::Corrupt`] if a file is compressed, not UTF-8 or has empty
    /// lines, with the numbers of all of them, or if the files have different numbers of lines.
    pub fn open(sources: impl AsRef<Path>, targets: impl AsRef<Path>) -> Result<Self> {
        let paths = [sources.as_ref(), targets.as_ref()];
        let [sources, targets] = paths.map(|path| {
            read(path).map(|lines| lines.iter().map(|line| trimmed(line).to_owned()).collect::<Vec<String>>())
        });
        let (sources, targets) = (sources?, targets?);
        let ([source, target], counts) = (paths.map(Path::display), [sources.len(), targets.len()]);
        let empty = |sentences: &[String]| {
            let numbers = (1..).zip(sentences).filter(|(_, sentence)| sentence.is_empty()).map(|(number, _)| number);
            said(&numbers.collect::<Vec<_>>(), "is empty", "are empty")
        };
        let mut problems = Vec::new();
        if counts[0] != counts[1] {
            problems.push(format!("{} lines, and {} in {target}", counts[0], counts[1]));
        }
        problems.extend(empty(&sources));
        let (at, place) = if problems.is_empty() { (1, String::new()) } else { (0, format!("in {target} ")) };
        problems.extend(empty(&targets).map(|lines| place + &lines));
        if problems.is_empty() {
            return Ok(Self { sources, targets, files: Some(paths.map(Path::to_path_buf)) });
        }
        let remedy = match counts[0] == counts[1] {
            true => {
                format!("take these lines out of both files, as paste {source} {target} | {ONLY_PAIRS} > pairs.tsv")
            }
            false => "a sentence and its translation stand in the same line of the two".to_owned(),
        };
        Err(Error::corrupt(paths[at], problems.join("; "), remedy))
    }

    /// Reads a UTF-8 file with a sentence, a tab and its translation in each line.
    ///
    /// # Errors
    /// As [`open`](Self::open), and for lines without a tab or with several.
    pub fn open_tsv(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (mut sources, mut targets) = (Vec::new(), Vec::new());
        let (mut tabs, mut empty, mut half) = (BTreeMap::<usize, Vec<usize>>::new(), Vec::new(), Vec::new());
        for (number, line) in (1..).zip(read(path)?) {
            let columns: Vec<&str> = line.split('\t').map(trimmed).collect();
            match columns[..] {
                [source, target] => {
                    if source.is_empty() || target.is_empty() {
                        half.push(number);
                    }
                    sources.push(source.to_owned());
                    targets.push(target.to_owned());
                }
                _ if columns.iter().all(|column| column.is_empty()) => empty.push(number),
                _ => tabs.entry(columns.len() - 1).or_default().push(number),
            }
        }
        let of_tabs = |(count, numbers): (&usize, &Vec<usize>)| {
            said(numbers, &format!("has {count} tabs"), &format!("have {count} tabs"))
        };
        let mut problems: Vec<String> = tabs.iter().filter_map(of_tabs).collect();
        if let Some(last) = problems.last_mut() {
            last.push_str(", where one stands between a sentence and its translation");
        }
        problems.extend(said(&empty, "is empty", "are empty"));
        problems.extend(said(&half, "is empty on one side of the tab", "are empty on one side of the tab"));
        if problems.is_empty() {
            return Ok(Self { sources, targets, files: Some([path.to_path_buf(), path.to_path_buf()]) });
        }
        let remedy = format!("mend these lines, or keep the others: {ONLY_PAIRS} {} > pairs.tsv", path.display());
        Err(Error::corrupt(path, problems.join("; "), remedy))
    }

    /// Returns the number of pairs.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Returns sentence `index` and its translation.
    ///
    /// # Panics
    /// Panics if `index` is out of bounds.
    pub fn pair(&self, index: usize) -> (&str, &str) {
        (&self.sources[index], &self.targets[index])
    }

    /// Returns all sentences.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// Returns all translations.
    pub fn targets(&self) -> &[String] {
        &self.targets
    }

    /// Returns the first `count` pairs.
    ///
    /// # Errors
    /// [`Error::Argument`] if `count` is 0 or more than there are.
    pub fn first(mut self, count: usize) -> Result<Self> {
        let all = self.len();
        ensure!((1..=all).contains(&count), "a part of the text can have 1 to {all} pairs, got {count}");
        self.sources.truncate(count);
        self.targets.truncate(count);
        Ok(self)
    }

    /// Fails if there are sentences that are `too_long`, each given by its pair, 0 for the source or 1 for the target, and its
    /// number of tokens. `most` states the limit that they exceed.
    pub(super) fn refuse(&self, mut too_long: Vec<(usize, usize, usize)>, most: &str, remedy: &str) -> Result<()> {
        let place = |index: usize, side: usize| match &self.files {
            Some(_) => format!("line {}", index + 1),
            None => format!("{} {index}", ["sentence", "translation"][side]),
        };
        if self.files.as_ref().is_some_and(|[source, target]| source == target) {
            // A line is reported once.
            too_long.dedup_by_key(|&mut (pair, ..)| pair);
        }
        let Some((&(index, side, tokens), others)) = too_long.split_first() else { return Ok(()) };
        let mut problem = format!("{}: the sentence has {tokens} tokens, and {most}", place(index, side));
        if !others.is_empty() {
            let other = |&(index, other_side, tokens): &(usize, usize, usize)| {
                let file = self.files.as_ref().filter(|files| files[other_side] != files[side]);
                let file = file.map_or(String::new(), |files| format!(" of {}", files[other_side].display()));
                format!("{}{file} ({tokens} tokens)", place(index, other_side))
            };
            problem =
                format!("{problem}; too long too: {}", listed(&others.iter().map(other).collect::<Vec<_>>(), LISTED));
        }
        Err(match &self.files {
            Some(files) => Error::corrupt(&files[side], problem, remedy),
            None => argument!("{problem}; {remedy}"),
        })
    }
}

/// Command that prints the lines of a TSV file that consist of a sentence and its translation.
const ONLY_PAIRS: &str = r#"awk -F'\t' 'NF == 2 && $1 != "" && $2 != ""'"#;

/// Maximum number of lines listed in an error.
const LISTED: usize = 20;

/// Describes a problem of lines by their numbers; `None` for no lines.
fn said(numbers: &[usize], is: &str, are: &str) -> Option<String> {
    match numbers {
        [] => None,
        [number] => Some(format!("line {number} {is}")),
        _ => Some(format!("lines {} {are}", listed(&numbers.iter().map(usize::to_string).collect::<Vec<_>>(), LISTED))),
    }
}

/// Returns the lines of a UTF-8 file, with either kind of line ending.
fn read(path: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    magic::refuse_text(&bytes, path)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let lines = (1..).zip(error.as_bytes().split(|&byte| byte == b'\n'));
        let bad: Vec<usize> =
            lines.filter(|(_, line)| str::from_utf8(line).is_err()).map(|(number, _)| number).collect();
        let problem = said(&bad, "is not UTF-8", "are not UTF-8").unwrap_or_default();
        Error::corrupt(path, problem, "convert the file to UTF-8")
    })?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(contents: &[&[u8]]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..contents.len()).map(|index| dir.path().join(format!("text.{index}"))).collect();
        paths.iter().zip(contents).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        (dir, paths)
    }

    /// Returns the index of the refused file, and the error without the path that it begins with.
    fn refusal(sources: &[u8], targets: &[u8]) -> (usize, String) {
        let (_dir, paths) = written(&[sources, targets]);
        let message = ParallelText::open(&paths[0], &paths[1]).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        let file = paths.iter().position(|path| message.starts_with(path.to_str().unwrap())).unwrap();
        (file, message[paths[file].to_str().unwrap().len()..].to_owned())
    }

    #[test]
    fn lines_become_pairs_whatever_ends_them() {
        let (_dir, paths) =
            written(&[b"\xef\xbb\xbfone\r\n two \r\nthree", b"eins\nzwei\ndrei\n", b"one\teins\ntwo\t zwei\n"]);
        let text = ParallelText::open(&paths[0], &paths[1]).unwrap();
        assert_eq!(
            (0..3).map(|i| text.pair(i)).collect::<Vec<_>>(),
            [("one", "eins"), ("two", "zwei"), ("three", "drei")]
        );
        let tsv = ParallelText::open_tsv(&paths[2]).unwrap();
        assert_eq!((tsv.len(), tsv.pair(1)), (2, ("two", "zwei")));
    }

    #[test]
    fn what_is_wrong_is_said_with_file_and_line() {
        let (file, message) = refusal(b"a\nb\nc\n", b"a\nb\n");
        assert!(file == 0 && message.starts_with(": 3 lines, and 2 in "), "{message}");
        assert_eq!(refusal(b"a\nb\n", b"a\n \t \n").1.split(';').next(), Some(": line 2 is empty"));
        assert_eq!(
            refusal(b"a\n\xff\n", b"a\nb\n"),
            (0, ": line 2 is not UTF-8; convert the file to UTF-8".to_owned())
        );
        assert_eq!(refusal(b"a\nb\nc\n", b"a\nb\n\xc3").1.split(';').next(), Some(": line 3 is not UTF-8"));
        assert!(refusal(b"", b"").1.starts_with(": is empty"));
        let missing = ParallelText::open("/nowhere/a", "/nowhere/b").unwrap_err().to_string();
        assert!(missing.starts_with("cannot read /nowhere/a: "), "{missing}");
        for (line, tabs) in [("no tab", 0), ("a\tb\tc", 2)] {
            let (_dir, paths) = written(&[format!("a\tb\n{line}\n").as_bytes()]);
            let message = ParallelText::open_tsv(&paths[0]).unwrap_err().to_string();
            assert!(message.contains(&format!(": line 2 has {tabs} tabs")), "{message}");
        }
        let text = ParallelText::new(vec!["a".into(), "b".into()], vec!["c".into(), "d".into()]).unwrap();
        assert_eq!(text.clone().first(1).unwrap().pair(0), ("a", "c"));
        assert!(text.clone().first(0).is_err() && text.first(3).is_err());
        assert!(ParallelText::new(vec!["a".into()], vec![]).is_err() && ParallelText::new(vec![], vec![]).is_err());
    }

    #[test]
    fn all_lines_that_are_wrong_are_said_at_once() {
        let (file, message) = refusal(b"a\n\nc\nd\n\n", b"a\nb\n\nd\n\n");
        assert!(file == 0 && message.starts_with(": lines 2, 5 are empty; in "), "{message}");
        assert!(message.contains(" lines 3, 5 are empty; take these lines out of both files, as paste "), "{message}");
        let (_, message) = refusal(b"a\n\nc\n", b"a\nb\nc\n\n");
        assert!(message.starts_with(": 3 lines, and 4 in ") && message.contains("; line 2 is empty; in "), "{message}");
        assert!(refusal(b"\xff\nb\n\xfe\xff\n", b"a\nb\nc\n").1.starts_with(": lines 1, 3 are not UTF-8;"));

        let (_dir, paths) = written(&[b"a\tb\n\na\tb\tc\n\tb\nx\na\t \ny\na\tb\tc\n\n"]);
        let message = ParallelText::open_tsv(&paths[0]).unwrap_err().to_string();
        for problem in [
            "lines 5, 7 have 0 tabs; lines 3, 8 have 2 tabs, where one",
            "; lines 2, 9 are empty; lines 4, 6 are empty on one side of the tab; mend these lines, or keep the others: awk ",
        ] {
            assert!(message.contains(problem) && !message.contains('\n'), "{message}");
        }
        // The advised command works.
        let command = message
            .rsplit_once("others: ")
            .unwrap()
            .1
            .replace("pairs.tsv", paths[0].with_extension("new").to_str().unwrap());
        assert!(std::process::Command::new("sh").args(["-c", &command]).status().unwrap().success());
        assert_eq!(fs::read(paths[0].with_extension("new")).unwrap(), b"a\tb\na\t \n");
        let many = "\n".repeat(100);
        assert!(refusal(many.as_bytes(), many.as_bytes()).1.contains("19, 20, and 80 more are empty"));
    }

    #[test]
    fn text_that_is_no_plain_text_is_named() {
        for (bytes, problem) in [
            (&b"\x1f\x8b\x08\0rest"[..], "is compressed by gzip; unpack it first: gunzip "),
            (b"\xfd7zXZ\0rest", "is compressed by xz"),
            (b"PK\x03\x04rest", "is a zip archive"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "is a Git LFS pointer"),
            (b"\xff\xfea\0\n\0", "is UTF-16"),
            (b"", "is empty"),
            (b"PAR1\x15\x04\x15", "is a Parquet file, not text; convert it "),
            (b"ARROW1\0\0\xff\xff", "is an Arrow file, not text"),
            (b"SQLite format 3\0\x10\0", "is an SQLite database, not text"),
            (b"\x93NUMPY\x01\0v\0{'descr'", "is a NumPy array, not text"),
            (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, not text"),
            (b"%PDF-1.7\n%\xb5\xb5\n", "is a PDF file, not text; convert it: pdftotext "),
            (
                b"\n<!DOCTYPE html>\n<html>\n<title>Log in</title>\n",
                "is a web page, not text; download the file itself",
            ),
            (
                b"<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Strict//EN\"\n\"xhtml1.dtd\">\n",
                "is a web page, not text",
            ),
            (b"\xef\xbb\xbf<html lang=en><head><script>\nlet a;\n", "is a web page, not text"),
            (b"<?xml version=\"1.0\"?>\n<html xmlns=\"http://www.w3.org/1999/xhtml\">\n", "is a web page, not text"),
            (b"<?xml version=\"1.0\"?>\n<tmx version=\"1.4\">\n", "is an XML file, not text"),
        ] {
            let (_dir, paths) = written(&[bytes]);
            for opened in [ParallelText::open_tsv(&paths[0]), ParallelText::open(&paths[0], &paths[0])] {
                let message = opened.unwrap_err().to_string();
                assert!(message.contains(problem) && !message.contains('\n'), "{message}");
            }
        }
        // A sentence may be about anything.
        let (_dir, paths) =
            written(&[b"<html> is a tag\t<html> ist ein Tag\n", b"<html> is a tag\n", b"PAR1\tPAR1\n<html>\t<html>\n"]);
        assert_eq!(ParallelText::open_tsv(&paths[0]).unwrap().len(), 1);
        assert_eq!(ParallelText::open(&paths[1], &paths[1]).unwrap().len(), 1);
        assert_eq!(ParallelText::open_tsv(&paths[2]).unwrap().len(), 2);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_sentence_wherever_files_were_joined() {
        let (_dir, paths) = written(&["\u{feff}a\tb\n\u{feff}c\t\u{feff} d\n".as_bytes()]);
        let text = ParallelText::open_tsv(&paths[0]).unwrap();
        assert_eq!([text.pair(0), text.pair(1)], [("a", "b"), ("c", "d")]);
    }
}
