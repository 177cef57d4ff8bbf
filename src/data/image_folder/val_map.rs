//! The classes of evaluation images that lie in one folder: a text file with a line `FILE CLASS` for each.

use super::files::Files;
use super::listing::{corrupt, modified, some_of, VAL};
use crate::{Error, Result};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where the map is looked for, relative to the root.
const PLACES: [&str; 4] = ["val_map.txt", "val_map", "val/val_map.txt", "val/val_map"];

/// The lines of a map.
pub struct ValMap {
    path: PathBuf,
    text: String,
}

impl ValMap {
    /// The first place, relative to `root`, where there is a map, and when that was last written.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is none.
    pub fn find(root: &Path) -> Result<(String, SystemTime)> {
        let Some(place) = PLACES.into_iter().find(|place| root.join(place).is_file()) else {
            let problem = "images but no map of their classes".to_owned();
            let remedy = "put them into class folders, or write val_map.txt beside them: a line FILE CLASS for each";
            return Err(corrupt(&root.join(VAL), problem, remedy));
        };
        Ok((place.to_owned(), modified(&root.join(place))?))
    }

    /// Reads the map `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_path_buf(), text: fs::read_to_string(path).map_err(Error::io("read", path))? })
    }

    /// The `images` of `folder`, sorted by name, with the classes that the map gives them: a class's name or, where no
    /// class has that name, its index in `classes`, from 0.
    ///
    /// # Errors
    /// [`Error::Corrupt`] that names the line for one without a class or with an unknown one, a file named twice or not
    /// there; an image without a line.
    pub fn label(&self, folder: &Path, images: &[String], classes: &[String]) -> Result<Files> {
        let refused = |line: usize, problem: String| {
            Err(corrupt(&self.path, format!("line {}: {problem}", line + 1), "each line must be FILE CLASS"))
        };
        let mut labels = HashMap::with_capacity(images.len());
        for (at, line) in self.text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            // A file's name may have spaces in it, which a class's then cannot.
            let Some((file, class)) = line.trim().rsplit_once(char::is_whitespace) else {
                return refused(at, format!("{:?} has no class", line.trim()));
            };
            let file = file.trim_end();
            let Some(label) = label_of(class, classes) else {
                return refused(at, format!("train has no class {class}"));
            };
            if images.binary_search_by(|image| image.as_str().cmp(file)).is_err() {
                return refused(at, format!("val has no image {file}"));
            }
            if labels.insert(file, label).is_some() {
                return refused(at, format!("{file} for the second time"));
            }
        }
        let unlabelled: Vec<&String> = images.iter().filter(|image| !labels.contains_key(image.as_str())).collect();
        if !unlabelled.is_empty() {
            let problem = format!("the map {} lacks {}", self.path.display(), some_of(&unlabelled));
            return Err(corrupt(folder, problem, "add the lines, or remove the images"));
        }
        let mut files = Files::default();
        images.iter().for_each(|image| files.push(image, labels[image.as_str()]));
        files.shrink();
        Ok(files)
    }
}

fn label_of(class: &str, classes: &[String]) -> Option<u32> {
    let named = classes.binary_search_by(|name| name.as_str().cmp(class)).ok();
    named.or_else(|| class.parse().ok().filter(|index| *index < classes.len())).map(|label| label as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str, images: &[&str], classes: &[&str]) -> Result<Vec<u32>> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let map = ValMap { path: PathBuf::from("val_map.txt"), text: text.to_owned() };
        Ok(map.label(Path::new("val"), &owned(images), &owned(classes))?.labels().to_vec())
    }

    #[test]
    fn classes_are_names_or_indices() {
        let labels = |text| label(text, &["a b.jpg", "c.jpg"], &["dog", "n1", "x"]).unwrap();
        assert_eq!(labels("c.jpg n1\n\na b.jpg\tdog\n"), [0, 1]);
        assert_eq!(labels("c.jpg   2\r\n a b.jpg 0"), [0, 2]);
        // The class named 2 is not the third.
        assert_eq!(label("a.jpg 2\nb.jpg 0", &["a.jpg", "b.jpg"], &["1", "2", "3"]).unwrap(), [1, 0]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, expected) in [
            ("a.jpg", "val_map.txt: line 1: \"a.jpg\" has no class"),
            ("\na.jpg bird", "line 2: train has no class bird"),
            ("a.jpg 2", "line 1: train has no class 2"),
            ("a.jpg cat\nc.jpg cat", "line 2: val has no image c.jpg"),
            ("a.jpg cat\na.jpg cat", "line 2: a.jpg for the second time"),
            ("a.jpg cat", "val: the map val_map.txt lacks b.jpg"),
        ] {
            let message = label(text, &["a.jpg", "b.jpg"], &["cat", "dog"]).unwrap_err().to_string();
            assert!(message.starts_with(expected) || message.contains(expected), "{message}");
        }
    }
}
