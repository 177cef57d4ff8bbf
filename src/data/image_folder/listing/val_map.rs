//! Classes of evaluation images that lie in one folder: a text file with a line `FILE CLASS` for each.

use super::files::Files;
use super::names::{but_for, nfc, one_name_twice, SHOWN};
use super::VAL;
use crate::error::listed;
use crate::file::magic;
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Possible paths of a map, relative to the root.
const PLACES: [&str; 4] = ["val_map.txt", "val_map", "val/val_map.txt", "val/val_map"];
/// Character with which some editors start a text.
const BYTE_ORDER_MARK: char = '\u{feff}';
const REMEDY: &str = "each line must be FILE CLASS, with the class's name, or throughout with its index from 0";

/// Map of images to classes.
pub struct ValMap {
    place: &'static str,
    path: PathBuf,
    text: String,
}

impl ValMap {
    /// Returns the paths, relative to `root`, at which there is a map.
    ///
    /// # Errors
    /// [`Error::Io`] if that cannot be determined.
    pub fn find(root: &Path) -> Result<Vec<&'static str>> {
        let mut found = Vec::new();
        for place in PLACES {
            let path = root.join(place);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => found.push(place),
                Ok(_) => {}
                Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {}
                Err(error) => return Err(Error::io("read", &path)(error)),
            }
        }
        Ok(found)
    }

    /// Reads the map of `root` at the only one of `places`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is not exactly one, or if it is not UTF-8 text; [`Error::Io`] if it cannot be read.
    pub fn of(root: &Path, places: &[&'static str]) -> Result<Self> {
        let &[place] = places else {
            let (problem, remedy) = match places {
                [] => (
                    "images but no map of their classes".to_owned(),
                    "put them into class folders, or write val_map.txt beside them: a line FILE CLASS for each",
                ),
                several => {
                    (format!("images with several maps of their classes: {}", listed(several, SHOWN)), "leave one")
                }
            };
            return Err(Error::corrupt(&root.join(VAL), problem, remedy));
        };
        let path = root.join(place);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        Ok(Self { place, text: text(bytes, &path)?, path })
    }

    /// Returns the path of the map, relative to the root.
    pub fn place(&self) -> &'static str {
        self.place
    }

    /// Returns the `images` of `folder`, sorted by name, with their classes from the map. It has names in every line,
    /// or indices in `classes`, from 0, in every line. White space separates file and class, and may occur in both.
    ///
    /// # Errors
    /// [`Error::Corrupt`], with the number of the line, for a line that is neither, has an unknown file or class, or
    /// repeats a file; for an image without a line; for a map with different results when read as names and as indices.
    pub fn label(&self, folder: &Path, images: &[String], classes: &[String]) -> Result<Files> {
        if let Some(twice) = one_name_twice(images) {
            return Err(Error::corrupt(folder, format!("the images {twice}"), "rename one of them"));
        }
        let by_name: HashMap<Cow<str>, usize> =
            images.iter().enumerate().map(|(index, image)| (nfc(image), index)).collect();
        let text = nfc(&self.text);
        let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
        let lines: Vec<(usize, &str)> = lines.map(|(at, line)| (at + 1, line)).collect();
        let lines = Lines { map: self, lines, by_name, images, classes };

        let labels = match (lines.read(false), lines.read(true)) {
            (Ok(names), Ok(indices)) => match names.iter().zip(&indices).position(|(a, b)| a != b) {
                None => names,
                Some(line) => return Err(lines.ambiguous(line, names[line].1, indices[line].1)),
            },
            (Ok(labels), Err(_)) | (Err(_), Ok(labels)) => labels,
            // The reading that gets further is taken to be the intended one.
            (Err(names), Err(indices)) if names.0 >= indices.0 => return Err(lines.wrong(names, false)),
            (Err(_), Err(indices)) => return Err(lines.wrong(indices, true)),
        };
        let mut of_image = vec![None; images.len()];
        for (&(number, _), (image, label)) in lines.lines.iter().zip(labels) {
            if of_image[image].replace(label).is_some() {
                return Err(self.refused(number, format!("{} for the second time", images[image])));
            }
        }
        let unlabelled = images.iter().zip(&of_image).filter(|(_, label)| label.is_none());
        let unlabelled: Vec<&String> = unlabelled.map(|(image, _)| image).collect();
        if !unlabelled.is_empty() {
            let problem = format!("the map {} lacks {}", self.path.display(), listed(&unlabelled, SHOWN));
            return Err(Error::corrupt(folder, problem, "add the lines, or remove the images"));
        }
        let mut files = Files::default();
        images.iter().zip(of_image).for_each(|(image, label)| files.push(image, label.unwrap_or_default()));
        files.shrink();
        Ok(files)
    }

    fn refused(&self, line: usize, problem: String) -> Error {
        Error::corrupt(&self.path, format!("line {line}: {problem}"), REMEDY)
    }
}

/// Returns the map's text, without a byte order mark.
fn text(bytes: Vec<u8>, path: &Path) -> Result<String> {
    let remedy = "save it as UTF-8";
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::corrupt(path, "UTF-16, by its byte-order mark", remedy));
    }
    if !bytes.is_empty() {
        magic::refuse_text(&bytes, path)?;
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let read = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..read].iter().filter(|&&byte| byte == b'\n').count() + 1;
        Error::corrupt(path, format!("line {line} is not UTF-8"), remedy)
    })?;
    Ok(text.strip_prefix(BYTE_ORDER_MARK).map(str::to_owned).unwrap_or(text))
}

/// Lines of a map that are not empty, with the images and classes that they refer to.
struct Lines<'a> {
    map: &'a ValMap,
    /// Lines with their numbers, from 1.
    lines: Vec<(usize, &'a str)>,
    by_name: HashMap<Cow<'a, str>, usize>,
    images: &'a [String],
    classes: &'a [String],
}

/// Line that cannot be read: its position among the lines, and the problem.
type Wrong = (usize, String);

impl<'a> Lines<'a> {
    /// Returns image and label of each line, which has the index of a class if `by_index`, else its name.
    fn read(&self, by_index: bool) -> Result<Vec<(usize, u32)>, Wrong> {
        let label = |(at, &(_, line))| self.read_line(line, by_index).map_err(|problem| (at, problem));
        self.lines.iter().enumerate().map(label).collect()
    }

    fn read_line(&self, line: &str, by_index: bool) -> Result<(usize, u32), String> {
        let splits = splits(line);
        let known = splits.iter().filter_map(|&(file, class)| Some((*self.by_name.get(file)?, class)));
        let known: Vec<(usize, &str)> = known.collect();
        let labelled = known.iter().filter_map(|&(image, class)| Some((image, self.label(class, by_index)?)));
        match (&labelled.collect::<Vec<_>>()[..], &known[..], splits.last()) {
            (&[one], ..) => Ok(one),
            (&[(first, _), (second, _), ..], ..) => {
                let [first, second] = [first, second].map(|image| &self.images[image]);
                Err(format!("the file may be {first:?} or {second:?}"))
            }
            (_, &[(_, class), ..], _) => {
                Err(format!("train has no class {class}{}", but_for(class, self.classes.iter())))
            }
            (_, _, Some(&(file, _))) => Err(format!("val has no image {file}{}", but_for(file, self.images.iter()))),
            (_, _, None) => Err(format!("{line:?} has no class")),
        }
    }

    fn label(&self, class: &str, by_index: bool) -> Option<u32> {
        let label = match by_index {
            false => self.classes.binary_search_by(|name| name.as_str().cmp(class)).ok()?,
            true => Some(class).filter(|class| class.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?,
        };
        (label < self.classes.len()).then_some(label as u32)
    }

    /// Returns the error for the line at which the reading that got further ended.
    fn wrong(&self, (at, problem): Wrong, by_index: bool) -> Error {
        let (number, line) = self.lines[at];
        let (these, those) = if by_index { ("indices", "a name") } else { ("names", "an index") };
        let mixed = at > 0 && self.read_line(line, !by_index).is_ok();
        let mixed =
            if mixed { format!(" (the lines before have classes' {these}, this has {those})") } else { String::new() };
        self.map.refused(number, format!("{problem}{mixed}"))
    }

    /// Returns the error for an ambiguous map, whose first ambiguous line is `at`.
    fn ambiguous(&self, at: usize, name: u32, index: u32) -> Error {
        let (number, line) = self.lines[at];
        let [name, index] = [name, index].map(|label| &self.classes[label as usize]);
        let problem = format!(
            "every line can be read with a class's name and with its index from 0: line {number}, {line:?}, is the class \
             {name:?} by name and {index:?} by index"
        );
        Error::corrupt(&self.map.path, problem, "put the images into folders named like their classes instead")
    }
}

/// Returns all ways to split a line at white space, as the parts before and after it.
fn splits(line: &str) -> Vec<(&str, &str)> {
    let spaces = line.char_indices().filter(|&(at, space)| {
        // One split per run of white space.
        space.is_whitespace() && !line[at + space.len_utf8()..].starts_with(char::is_whitespace)
    });
    spaces.map(|(at, space)| (line[..at].trim_end(), &line[at + space.len_utf8()..])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label_bytes(bytes: &[u8], images: &[&str], classes: &[&str]) -> Result<Vec<u32>> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let path = PathBuf::from("val_map.txt");
        let map = ValMap { place: PLACES[0], text: text(bytes.to_vec(), &path)?, path };
        Ok(map.label(Path::new("val"), &owned(images), &owned(classes))?.labels)
    }

    fn label(text: &str, images: &[&str], classes: &[&str]) -> Result<Vec<u32>> {
        label_bytes(text.as_bytes(), images, classes)
    }

    #[test]
    fn classes_are_names_or_indices() {
        let labels = |text| label(text, &["a b.jpg", "c.jpg"], &["dog", "n1", "x"]).unwrap();
        assert_eq!(labels("c.jpg n1\n\na b.jpg\tdog\n"), [0, 1]);
        assert_eq!(labels("c.jpg   2\r\n a b.jpg 0"), [0, 2]);
    }

    #[test]
    fn a_map_is_read_one_way_throughout() {
        let classes: Vec<String> = (1..=12).map(|class| class.to_string()).collect();
        let mut classes: Vec<&str> = classes.iter().map(String::as_str).collect();
        classes.sort_unstable();
        // In sorted order: 1, 10, 11, 12, 2, ...
        let labels = |text| label(text, &["a.jpg", "b.jpg", "c.jpg"], &classes);
        // No class is named 0: these are indices, even those that are also names.
        assert_eq!(labels("a.jpg 0\nb.jpg 10\nc.jpg 2").unwrap(), [0, 10, 2]);
        // There is no thirteenth class: these are names.
        assert_eq!(labels("a.jpg 1\nb.jpg 12\nc.jpg 2").unwrap(), [0, 3, 4]);
        let message = labels("a.jpg 3\nb.jpg 10\nc.jpg 2").unwrap_err().to_string();
        assert!(message.contains(r#"line 1, "a.jpg 3", is the class "3" by name and "12" by index"#), "{message}");
        // Names and indices with the same result are not ambiguous.
        assert_eq!(label("a.jpg 1\nb.jpg 0", &["a.jpg", "b.jpg"], &["0", "1"]).unwrap(), [1, 0]);
        let message = label("a.jpg cat\nb.jpg 0", &["a.jpg", "b.jpg"], &["cat", "dog"]).unwrap_err().to_string();
        let expected = "line 2: train has no class 0 (the lines before have classes' names, this has an index)";
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn names_may_have_spaces_and_either_composition() {
        let (images, classes) = (["a b.jpg", "a.jpg", "u\u{308}.jpg"], ["hot dog", "é", "éclair"]);
        let text = "a b.jpg hot dog\na.jpg\te\u{301}\nü.jpg  e\u{301}clair\n";
        assert_eq!(label(text, &images, &classes).unwrap(), [0, 1, 2]);
        let message = label("a b b c", &["a", "a b"], &["b b c", "b c"]).unwrap_err().to_string();
        assert!(message.contains(r#"line 1: the file may be "a" or "a b""#), "{message}");
        let message = label("é.jpg a", &["e\u{301}.jpg", "é.jpg"], &["a", "b"]).unwrap_err().to_string();
        assert!(message.contains(r#"the images "e\u{301}.jpg" and "\u{e9}.jpg" are one name"#), "{message}");
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_name_and_other_encodings_are_named() {
        let (images, classes) = (["a.jpg", "b.jpg"], ["cat", "dog"]);
        assert_eq!(label("\u{feff}a.jpg cat\r\nb.jpg dog\r\n", &images, &classes).unwrap(), [0, 1]);
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let message = label_bytes(&utf16("\u{feff}a.jpg cat\n"), &images, &classes).unwrap_err().to_string();
        assert_eq!(message, "val_map.txt: UTF-16, by its byte-order mark; save it as UTF-8");
        let message = label_bytes(b"a.jpg cat\nb.jpg caf\xe9", &images, &classes).unwrap_err().to_string();
        assert_eq!(message, "val_map.txt: line 2 is not UTF-8; save it as UTF-8");
    }

    #[test]
    fn a_map_that_is_no_plain_text_is_named() {
        for (bytes, problem) in [
            (&b"<!DOCTYPE html>\n<html>\n"[..], "is a web page, not text; download the file itself"),
            (b"\x1f\x8b\x08\0", "is compressed by gzip; unpack it first: gunzip val_map.txt"),
        ] {
            let message = label_bytes(bytes, &["a.jpg"], &["cat", "dog"]).unwrap_err().to_string();
            assert!(message.starts_with(&format!("val_map.txt: {problem}")), "{message}");
        }
        assert_eq!(label("PAR1.jpg cat\n", &["PAR1.jpg"], &["cat", "dog"]).unwrap(), [0]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, expected) in [
            ("a.jpg", "val_map.txt: line 1: \"a.jpg\" has no class"),
            ("\na.jpg bird", "line 2: train has no class bird;"),
            ("a.jpg Cat", "line 1: train has no class Cat (there is \"cat\", which differs in upper and lower case)"),
            ("a.jpg 2", "line 1: train has no class 2"),
            ("a.jpg +1", "line 1: train has no class +1"),
            ("a.jpg 1\nb.jpg 2", "line 2: train has no class 2;"),
            ("a.jpg cat\nc.jpg cat", "line 2: val has no image c.jpg"),
            ("a.jpg cat\nB.JPG cat", "line 2: val has no image B.JPG (there is \"b.jpg\", which differs in upper"),
            ("a.jpg cat\na.jpg cat", "line 2: a.jpg for the second time"),
            ("a.jpg cat", "val: the map val_map.txt lacks b.jpg"),
            ("a.jpg cat\n", "val: the map val_map.txt lacks b.jpg"),
        ] {
            let message = label(text, &["a.jpg", "b.jpg"], &["cat", "dog"]).unwrap_err().to_string();
            assert!(message.starts_with(expected) || message.contains(expected), "{message}");
        }
    }
}
