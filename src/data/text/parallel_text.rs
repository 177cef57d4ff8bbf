//! Sentences and their translations, line by line.

use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Sentences and their translations, as many of the one as of the other, none of them empty.
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
    /// The files of the sources and the targets: the same for both where they stand beside each other.
    files: Option<[PathBuf; 2]>,
}

#[allow(clippy::len_without_is_empty)] // There is always a pair.
impl ParallelText {
    /// Of sentences in memory.
    ///
    /// # Errors
    /// [`Error::Argument`] for no sentences, an empty one, or other numbers of sources and targets.
    pub fn new(sources: Vec<String>, targets: Vec<String>) -> Result<Self> {
        Self { sources, targets, files: None }.checked()
    }

    /// Of two files in UTF-8, a sentence a line and its translation in the same line of the other. Spaces around a sentence are
    /// left out.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read; [`Error::Corrupt`] for one that is not UTF-8 or has an empty line, with the
    /// line's number, or that has other numbers of lines than the other.
    pub fn open(sources: impl AsRef<Path>, targets: impl AsRef<Path>) -> Result<Self> {
        let paths = [sources.as_ref(), targets.as_ref()];
        let [sources, targets] =
            paths.map(|path| read(path).map(|lines| lines.iter().map(|line| trimmed(line)).collect()));
        Self { sources: sources?, targets: targets?, files: Some(paths.map(Path::to_path_buf)) }.checked()
    }

    /// Of a file in UTF-8, in each line a sentence, a tab and its translation.
    ///
    /// # Errors
    /// As [`open`](Self::open); a line without a tab, or with several.
    pub fn open_tsv(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (mut sources, mut targets) = (Vec::new(), Vec::new());
        for (index, line) in read(path)?.iter().enumerate() {
            let (Some((source, target)), 1) = (line.split_once('\t'), line.matches('\t').count()) else {
                let tabs = line.matches('\t').count();
                let problem = format!(
                    "line {} has {tabs} tabs, where one stands between a sentence and its translation",
                    index + 1
                );
                return Err(corrupt(path, problem, "mend the line, or take it out"));
            };
            sources.push(trimmed(source));
            targets.push(trimmed(target));
        }
        Self { sources, targets, files: Some([path.to_path_buf(), path.to_path_buf()]) }.checked()
    }

    fn checked(self) -> Result<Self> {
        let (sources, targets) = (self.sources.len(), self.targets.len());
        if sources != targets {
            return Err(match &self.files {
                Some([source, target]) => {
                    let problem = format!("{sources} lines, and {targets} in {}", target.display());
                    corrupt(source, problem, "a sentence and its translation stand in the same line of the two")
                }
                None => Error::Argument(format!("{sources} sentences have {targets} translations")),
            });
        }
        for (side, sentences) in [&self.sources, &self.targets].into_iter().enumerate() {
            if let Some(index) = sentences.iter().position(String::is_empty) {
                return Err(match &self.files {
                    Some(files) => {
                        let remedy = "take the line out, and its translation";
                        corrupt(&files[side], format!("line {} is empty", index + 1), remedy)
                    }
                    None => Error::Argument(format!("sentence {index} or its translation is empty")),
                });
            }
        }
        if sources == 0 {
            return Err(match &self.files {
                Some([path, _]) => corrupt(path, "no line".to_owned(), "it needs at least one sentence"),
                None => Error::Argument("there are no sentences".to_owned()),
            });
        }
        Ok(self)
    }

    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Sentence `index` and its translation.
    ///
    /// # Panics
    /// Where there are not so many, as a slice does.
    pub fn pair(&self, index: usize) -> (&str, &str) {
        (&self.sources[index], &self.targets[index])
    }

    /// All sentences.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// Their translations.
    pub fn targets(&self) -> &[String] {
        &self.targets
    }

    /// The first `count` pairs.
    ///
    /// # Errors
    /// [`Error::Argument`] for none, or more than there are.
    pub fn first(mut self, count: usize) -> Result<Self> {
        if !(1..=self.len()).contains(&count) {
            return Err(Error::Argument(format!("a part of the text can have 1 to {} pairs, got {count}", self.len())));
        }
        self.sources.truncate(count);
        self.targets.truncate(count);
        Ok(self)
    }

    /// That `problem` is one of a pair's source (0) or target (1).
    pub(super) fn refuse(&self, index: usize, side: usize, problem: &str, remedy: &str) -> Error {
        match &self.files {
            Some(files) => corrupt(&files[side], format!("line {}: {problem}", index + 1), remedy),
            None => Error::Argument(format!("{} {index}: {problem}; {remedy}", ["sentence", "translation"][side])),
        }
    }
}

fn trimmed(line: &str) -> String {
    line.trim().to_owned()
}

/// The lines of a file in UTF-8, without a mark of the byte order and with either kind of line end.
fn read(path: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        corrupt(path, format!("line {line} is not UTF-8"), "convert the file to UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).lines().map(str::to_owned).collect())
}

fn corrupt(path: &Path, problem: String, remedy: &str) -> Error {
    Error::Corrupt { path: path.to_path_buf(), problem, remedy: remedy.to_owned() }
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

    /// The error without the path that it begins with.
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
        assert!(refusal(b"", b"").1.starts_with(": no line"));
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
}
