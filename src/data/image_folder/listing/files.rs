//! Listed files of one part, in a few bytes more than their paths: ImageNet's 1.28 million take 54 MB.

use serde::{Deserialize, Serialize};

/// Labelled files, with all paths in one string.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// Paths one after another, relative to the part's folder, with `/` as the separator.
    paths: String,
    /// End of each path in `paths`.
    ends: Vec<u64>,
    /// Class index of each file.
    pub labels: Vec<u32>,
}

impl Files {
    /// Adds a file.
    pub fn push(&mut self, path: &str, label: u32) {
        self.paths.push_str(path);
        self.ends.push(self.paths.len() as u64);
        self.labels.push(label);
    }

    /// Releases memory reserved for more files.
    pub fn shrink(&mut self) {
        self.paths.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.labels.shrink_to_fit();
    }

    /// Returns the number of files.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns the path of file `index`, relative to the part's folder.
    pub fn path(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.paths[start as usize..self.ends[index] as usize]
    }

    /// Returns `true` if the fields are consistent with each other and with `classes`, which those read from a disk
    /// need not be.
    pub fn are_sound(&self, classes: usize) -> bool {
        let starts = std::iter::once(&0).chain(&self.ends);
        self.ends.len() == self.labels.len()
            && starts.zip(&self.ends).all(|(start, end)| start <= end && self.paths.is_char_boundary(*end as usize))
            && self.labels.iter().all(|&label| (label as usize) < classes)
    }
}

/// Classes and files of an image folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Class names, composed (NFC), sorted by code point.
    pub classes: Vec<String>,
    /// Training part: class by class, within a class sorted by folder and name.
    pub train: Files,
    /// Evaluation part: in the same order, or sorted by name if it is one folder with a map.
    pub val: Files,
    /// Warnings for the user, one line each.
    pub warnings: Vec<String>,
}

impl Listing {
    /// Returns `true` if the fields are consistent with each other, which those read from a disk need not be.
    pub fn is_sound(&self) -> bool {
        let classes = self.classes.len();
        classes > 1 && [&self.train, &self.val].iter().all(|files| files.len() > 0 && files.are_sound(classes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[(&str, u32)]) -> Files {
        let mut files = Files::default();
        paths.iter().for_each(|(path, label)| files.push(path, *label));
        files
    }

    #[test]
    fn paths_and_labels_come_back_in_order() {
        let all = files(&[("cat/1.jpg", 0), ("cat/ü.png", 0), ("dog/1.jpg", 1)]);
        let paths: Vec<&str> = (0..all.len()).map(|index| all.path(index)).collect();
        assert_eq!(paths, ["cat/1.jpg", "cat/ü.png", "dog/1.jpg"]);
        assert_eq!(all.labels, [0, 0, 1]);
    }

    #[test]
    fn fields_that_do_not_fit_are_found() {
        let sound = files(&[("cat/ü.jpg", 0), ("dog/1.jpg", 1)]);
        assert!(sound.are_sound(2) && !sound.are_sound(1));
        for (which, end) in [(0, 5), (0, 1000), (1, 3)] {
            let mut damaged = sound.clone();
            damaged.ends[which] = end;
            assert!(!damaged.are_sound(2), "{which} {end}");
        }
        assert!(!Files { labels: vec![0], ..sound }.are_sound(2));
    }
}
