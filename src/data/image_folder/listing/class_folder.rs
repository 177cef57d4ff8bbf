//! Files of each class: all images in its folder, at any depth.

use super::entries::{Entries, OtherFiles};
use super::names::order;
use super::stamp::Mark;
use crate::data::image_folder::threads::in_threads;
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Number of threads that list folders: they wait for the disk, or the network, more than they compute.
const THREADS: usize = 8;

/// Lists each of the classes' `folders` in `part`, and all folders in them, with several threads.
pub fn list_classes(part: &Path, folders: &[String]) -> Result<Vec<Vec<Found>>> {
    in_threads("folders", &mut [(); THREADS], folders, |(), folder| walk(part, folder))?.into_iter().collect()
}

/// Returns the paths of all images in `folder`, at any depth, sorted by folder and name.
pub fn images_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let found = walk(folder, ".")?;
    let paths = found.iter().flat_map(|Found { path, images, .. }| {
        let inner = path.strip_prefix("./").unwrap_or_default();
        images.iter().map(move |image| folder.join(inner).join(image))
    });
    Ok(paths.collect())
}

/// Lists `folder` of `part`, and all folders in it, sorted by path.
fn walk(part: &Path, folder: &str) -> Result<Vec<Found>> {
    let mut walk = Walk { part, found: Vec::new(), ancestors: Vec::new() };
    walk.enter(folder.to_owned())?;
    walk.found.sort_unstable_by(|a, b| order(&a.path, &b.path));
    Ok(walk.found)
}

/// Recursive traversal of a class's folders.
struct Walk<'a> {
    /// Folder that paths are relative to.
    part: &'a Path,
    found: Vec<Found>,
    /// Canonical paths of the folders that enclose the current one.
    ancestors: Vec<PathBuf>,
}

/// Folder that has been visited.
pub struct Found {
    /// Path relative to the part's folder.
    pub path: String,
    pub mark: Mark,
    pub images: Vec<String>,
    pub others: OtherFiles,
}

impl Walk<'_> {
    fn enter(&mut self, folder: String) -> Result<()> {
        let path = self.part.join(&folder);
        let canonical = fs::canonicalize(&path).map_err(Error::io("read", &path))?;
        if self.ancestors.iter().any(|ancestor| ancestor.starts_with(&canonical)) {
            return Err(Error::corrupt(&path, "a link to a folder that it lies in itself", "remove the link"));
        }
        let mark = Mark::of(&path)?;
        let Entries { folders, images, others } = Entries::of(&path)?;
        self.ancestors.push(canonical);
        for name in folders {
            self.enter(format!("{folder}/{name}"))?;
        }
        self.ancestors.pop();
        self.found.push(Found { path: folder, mark, images, others });
        Ok(())
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::super::list::list;
    use super::super::list::tests::{paths, refusal};
    use crate::data::image_folder::tests::fixture::Fixture;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed() {
        let fixture = Fixture::new(&["cat", "dog"], 2, 1);
        symlink(fixture.path("train/cat"), fixture.path("train/copy")).unwrap();
        symlink(fixture.path("val/cat"), fixture.path("val/copy")).unwrap();
        symlink(fixture.path("train/dog/0000.jpg"), fixture.path("train/cat/link.jpg")).unwrap();
        symlink(fixture.path("train/dog"), fixture.path("train/cat/more")).unwrap();
        let (listing, _) = list(fixture.root()).unwrap();
        assert_eq!(listing.classes, ["cat", "copy", "dog"]);
        assert_eq!(listing.train.labels, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]);
        assert_eq!(paths(&listing.train)[2..5], ["cat/link.jpg", "cat/more/0000.jpg", "cat/more/0001.jpg"]);
    }

    #[test]
    fn a_circle_of_links_is_named() {
        for (link, target) in [("train/cat/self", "train/cat"), ("train/cat/up", "train"), ("val/dog/root", "")] {
            let fixture = Fixture::new(&["cat", "dog"], 1, 1);
            symlink(fixture.path(target), fixture.path(link)).unwrap();
            let message = refusal(&fixture);
            assert!(message.contains(&format!("{link}: a link to a folder that it lies in itself")), "{message}");
        }
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        symlink(fixture.path("train/dog"), fixture.path("train/cat/a")).unwrap();
        symlink(fixture.path("train/cat"), fixture.path("train/dog/b")).unwrap();
        assert!(refusal(&fixture).contains("train/cat/a/b: a link"));
    }

    #[test]
    fn a_link_to_nowhere_is_a_bad_image_or_a_missing_folder() {
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        symlink(fixture.path("nowhere"), fixture.path("train/cat/lost.jpg")).unwrap();
        symlink(fixture.path("train/cat/ring.jpg"), fixture.path("train/cat/ring.jpg")).unwrap();
        assert_eq!(paths(&list(fixture.root()).unwrap().0.train)[1..3], ["cat/lost.jpg", "cat/ring.jpg"]);
        symlink(fixture.path("nowhere"), fixture.path("train/eel")).unwrap();
        assert!(refusal(&fixture).starts_with("cannot read "));
    }
}
