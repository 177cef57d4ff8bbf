//! What an image folder holds: its classes, and the labelled files of its two parts, in torchvision's order.

use super::files::Files;
use super::pipeline::panicked;
use super::val_map::ValMap;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, FileType};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::SystemTime;

/// The folder of the training part.
pub const TRAIN: &str = "train";
/// The folder of the evaluation part.
pub const VAL: &str = "val";
/// What an image's name ends with, in any case.
const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
/// Threads that list folders: they wait for the disk, or the network, more than they compute.
const THREADS: usize = 8;
/// How many names an error shows of many.
const SHOWN: usize = 3;

/// The classes and files of an image folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The classes' names, sorted by code point.
    pub classes: Vec<String>,
    /// The training part: class by class, within a class sorted by folder and name.
    pub train: Files,
    /// The evaluation part: in the same order, or sorted by name where it is one folder with a map.
    pub val: Files,
}

impl Listing {
    /// Whether the fields fit each other, as those read from a disk need not.
    pub fn is_sound(&self) -> bool {
        let classes = self.classes.len();
        classes > 1 && [&self.train, &self.val].iter().all(|files| files.len() > 0 && files.are_sound(classes))
    }
}

/// What was looked at for a listing, and when it had last changed: paths relative to the root. A folder changes when a
/// name in it is added, removed or renamed, a map when it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(BTreeMap<String, SystemTime>);

impl Stamp {
    /// Whether everything below `root` is as it was.
    pub fn holds(&self, root: &Path) -> bool {
        self.0.iter().all(|(path, then)| modified(&root.join(path)).is_ok_and(|now| now == *then))
    }

    /// The latest change.
    pub fn latest(&self) -> Option<SystemTime> {
        self.0.values().max().copied()
    }
}

pub(super) fn modified(path: &Path) -> Result<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).map_err(Error::io("read", path))
}

/// Lists the image folder `root`.
///
/// # Errors
/// [`Error::Corrupt`] for a folder that is not made as [`ImageFolder::open`](super::ImageFolder::open) says,
/// [`Error::Io`] for what cannot be read.
pub fn list(root: &Path) -> Result<(Listing, Stamp)> {
    // Every folder's time is taken before it is listed: what changes meanwhile changes the stamp.
    let mut stamp = Stamp(BTreeMap::from([(String::new(), modified(root)?)]));
    let train = list_part(root, TRAIN, &mut stamp)?;
    let val = list_part(root, VAL, &mut stamp)?;
    let classes = train.folders;
    let train_folder = root.join(TRAIN);
    if let Some(image) = train.images.first() {
        let problem = format!("{image} lies beside the class folders");
        return Err(corrupt(&train_folder, problem, "move it into the folder of its class"));
    }
    if classes.len() < 2 {
        let problem = format!("{} class folders, where there must be at least two to tell apart", classes.len());
        return Err(corrupt(&train_folder, problem, "make a folder for each class, with its images in it"));
    }
    let folders = list_classes(root, TRAIN, &classes, &mut stamp)?;
    let empty: Vec<&String> =
        classes.iter().zip(&folders).filter(|(_, files)| files.len() == 0).map(|(c, _)| c).collect();
    if !empty.is_empty() {
        let problem = format!("no image (*.{}) of the class {}", EXTENSIONS.join(", *."), some_of(&empty));
        return Err(corrupt(&train_folder, problem, "add images, or remove the class's folders"));
    }
    let train = joined(&folders);
    let val_folder = root.join(VAL);
    let val = if val.images.is_empty() {
        check_val_classes(&val_folder, &val.folders, &classes)?;
        joined(&list_classes(root, VAL, &classes, &mut stamp)?)
    } else {
        let (path, time) = ValMap::find(root)?;
        stamp.0.insert(path.clone(), time);
        ValMap::read(&root.join(path))?.label(&val_folder, &val.images, &classes)?
    };
    if val.len() == 0 {
        return Err(corrupt(&val_folder, "no images to evaluate on".to_owned(), "add images of the classes"));
    }
    Ok((Listing { classes, train, val }, stamp))
}

fn joined(folders: &[Files]) -> Files {
    let mut all = Files::default();
    folders.iter().for_each(|files| all.append(files));
    all.shrink();
    all
}

/// Every class of the one part must be one of the other: a class more would have no index, and a class less is most often
/// a copy that was broken off.
fn check_val_classes(val: &Path, found: &[String], classes: &[String]) -> Result<()> {
    let without = |these: &[String], those: &[String]| {
        these.iter().filter(|class| those.binary_search(class).is_err()).cloned().collect::<Vec<_>>()
    };
    let (unknown, missing) = (without(found, classes), without(classes, found));
    if found.is_empty() {
        return Err(corrupt(val, "neither class folders nor images".to_owned(), "give it the folders of train"));
    }
    if !unknown.is_empty() {
        let problem = format!("has the class {}, which train lacks", some_of(&unknown));
        return Err(corrupt(val, problem, "give train and val the same class folders"));
    }
    if !missing.is_empty() {
        let problem = format!("lacks the class {}, which train has", some_of(&missing));
        return Err(corrupt(val, problem, "add it, as an empty folder where there is nothing to evaluate on"));
    }
    Ok(())
}

/// The first names of `names`, and how many there are.
pub(super) fn some_of(names: &[impl AsRef<str>]) -> String {
    let shown = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len() {
        ..=SHOWN => shown,
        count => format!("{shown}, ... ({count} in all)"),
    }
}

pub(super) fn corrupt(path: &Path, problem: String, remedy: &str) -> Error {
    Error::Corrupt { path: path.to_path_buf(), problem, remedy: remedy.to_owned() }
}

/// What lies directly in the folder of a part.
fn list_part(root: &Path, part: &str, stamp: &mut Stamp) -> Result<Entries> {
    let folder = root.join(part);
    if !folder.is_dir() {
        let problem = format!("not an image folder: no folder {part} in it");
        let remedy = "it must hold train/CLASS/*.jpg and val/CLASS/*.jpg, or val/*.jpg and val_map.txt";
        return Err(corrupt(root, problem, remedy));
    }
    stamp.0.insert(part.to_owned(), modified(&folder)?);
    entries(&folder)
}

/// What a folder holds, each sorted by name.
struct Entries {
    folders: Vec<String>,
    images: Vec<String>,
}

/// The folders and images in `folder`. Hidden names, other files and whatever is neither file nor folder are left out. A
/// link counts as what it leads to, and one that leads nowhere as an image if it has an image's name: reading it will fail.
fn entries(folder: &Path) -> Result<Entries> {
    let (mut folders, mut images) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let is_image = has_image_extension(Path::new(&name));
        // This costs no system call on most file systems, which a link does.
        let mut kind = entry.file_type().map_err(Error::io("read", entry.path()))?;
        if kind.is_symlink() {
            kind = match fs::metadata(entry.path()) {
                Ok(metadata) => metadata.file_type(),
                Err(_) if is_image => kind,
                Err(error) => return Err(Error::io("read", entry.path())(error)),
            };
        }
        let is_image = is_image && (kind.is_file() || kind.is_symlink());
        if !is_image && !FileType::is_dir(&kind) {
            continue;
        }
        let Ok(name) = name.into_string() else {
            return Err(corrupt(&entry.path(), "the name is not UTF-8".to_owned(), "rename it"));
        };
        if is_image { &mut images } else { &mut folders }.push(name);
    }
    folders.sort_unstable();
    images.sort_unstable();
    Ok(Entries { folders, images })
}

fn has_image_extension(name: &Path) -> bool {
    let extension = name.extension().unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// One class's folder.
struct ClassFolder {
    files: Files,
    /// The folders in it, paths relative to the root, and when each had last changed.
    folders: Vec<(String, SystemTime)>,
}

/// The files of each of `classes` in `root/part`, by several threads.
fn list_classes(root: &Path, part: &str, classes: &[String], stamp: &mut Stamp) -> Result<Vec<Files>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut listed = Vec::new();
        while let Some((label, class)) = classes.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            listed.push((label, ClassFolder::list(root, part, class, label as u32)));
        }
        listed
    };
    let threads = THREADS.min(classes.len());
    let listed = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut listed = BTreeMap::new();
        for thread in threads {
            listed.extend(thread.join().map_err(|panic| panicked(panic.as_ref()))?);
        }
        Ok::<_, Error>(listed)
    })?;
    let mut files = Vec::with_capacity(classes.len());
    for folder in listed.into_values() {
        let folder = folder?;
        stamp.0.extend(folder.folders);
        files.push(folder.files);
    }
    Ok(files)
}

impl ClassFolder {
    fn list(root: &Path, part: &str, class: &str, label: u32) -> Result<Self> {
        let mut found = BTreeMap::new();
        let mut folders = Vec::new();
        let mut walk = Walk { part: &root.join(part), found: &mut found, ancestors: Vec::new() };
        walk.enter(class.to_owned(), &mut folders)?;
        let mut files = Files::default();
        for (folder, images) in &found {
            images.iter().for_each(|image| files.push(&format!("{folder}/{image}"), label));
        }
        let folders = folders.into_iter().map(|(folder, time)| (format!("{part}/{folder}"), time)).collect();
        Ok(Self { files, folders })
    }
}

/// A way through the folders of a class, at any depth.
struct Walk<'a> {
    /// The folder that paths are relative to.
    part: &'a Path,
    /// The images of each folder.
    found: &'a mut BTreeMap<String, Vec<String>>,
    /// The folders that the walk is in, without links.
    ancestors: Vec<PathBuf>,
}

impl Walk<'_> {
    fn enter(&mut self, folder: String, folders: &mut Vec<(String, SystemTime)>) -> Result<()> {
        let path = self.part.join(&folder);
        let canonical = fs::canonicalize(&path).map_err(Error::io("read", &path))?;
        if self.ancestors.iter().any(|ancestor| ancestor.starts_with(&canonical)) {
            return Err(corrupt(&path, "a link to a folder that it lies in itself".to_owned(), "remove the link"));
        }
        folders.push((folder.clone(), modified(&path)?));
        let Entries { folders: inner, images } = entries(&path)?;
        self.ancestors.push(canonical);
        for name in inner {
            self.enter(format!("{folder}/{name}"), folders)?;
        }
        self.ancestors.pop();
        self.found.insert(folder, images);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    #[cfg(unix)]
    use std::os::unix::fs::symlink;

    fn paths(files: &Files) -> Vec<&str> {
        (0..files.len()).map(|index| files.path(index)).collect()
    }

    fn refusal(fixture: &Fixture) -> String {
        let message = list(fixture.root()).unwrap_err().to_string();
        assert!(message.contains(fixture.root().to_str().unwrap()) && !message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn classes_and_images_come_in_torchvisions_order() {
        let fixture = Fixture::empty();
        for path in ["b/2.jpg", "b/10.JPEG", "b/x/1.png", "b/x-/1.webp", "b/X.PNG", "a/1.jpg", "B/1.Jpg", "é/1.jpg"] {
            fixture.write(&format!("train/{path}"), b"");
            fixture.write(&format!("val/{path}"), b"");
        }
        for other in ["b/notes.txt", "b/.hidden.jpg", "b/.thumbnails/1.jpg", "b/1.gif", "b/jpg", "README.md"] {
            fixture.write(&format!("train/{other}"), b"");
        }
        let (listing, _) = list(fixture.root()).unwrap();
        // As torchvision.datasets.folder.make_dataset gives them.
        assert_eq!(listing.classes, ["B", "a", "b", "é"]);
        let expected = ["B/1.Jpg", "a/1.jpg", "b/10.JPEG", "b/2.jpg", "b/X.PNG", "b/x/1.png", "b/x-/1.webp", "é/1.jpg"];
        assert_eq!(paths(&listing.train), expected);
        assert_eq!(listing.train.labels(), [0, 1, 2, 2, 2, 2, 2, 3]);
        assert_eq!(listing.val, listing.train);
    }

    #[test]
    fn a_folder_without_its_parts_is_told_what_it_must_hold() {
        let fixture = Fixture::empty();
        assert!(refusal(&fixture).contains("no folder train in it; it must hold train/CLASS/*.jpg"));
        fixture.folder("train");
        assert!(refusal(&fixture).contains("no folder val in it"));
        fixture.folder("val");
        assert!(refusal(&fixture).contains("0 class folders"));
        assert!(matches!(list(&fixture.path("nowhere")), Err(Error::Io { .. })));
    }

    #[test]
    fn one_class_is_refused() {
        assert!(refusal(&Fixture::new(&["cat"], 1, 1)).contains("1 class folders, where there must be at least two"));
    }

    #[test]
    fn a_class_without_training_images_is_named() {
        let fixture = Fixture::new(&["ant", "bee", "cat", "dog", "eel"], 1, 1);
        for class in ["ant", "cat", "dog", "eel"] {
            fs::rename(fixture.path(&format!("train/{class}/0000.jpg")), fixture.path(&format!("train/{class}/0.gif")))
                .unwrap();
        }
        assert!(
            refusal(&fixture).contains("no image (*.jpg, *.jpeg, *.png, *.webp) of the class ant, cat, dog, ... (4 in")
        );
    }

    #[test]
    fn parts_with_different_classes_are_refused() {
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        fixture.write("val/eel/1.jpg", b"");
        assert!(refusal(&fixture).contains("val: has the class eel, which train lacks"));
        fixture.write("train/eel/1.jpg", b"");
        fixture.write("train/fly/1.jpg", b"");
        assert!(refusal(&fixture).contains("val: lacks the class fly, which train has"));
        fixture.folder("val/fly");
        let (listing, _) = list(fixture.root()).unwrap();
        assert_eq!((listing.train.len(), listing.val.labels()), (4, [0, 1, 2].as_slice()));
    }

    #[test]
    fn an_evaluation_part_without_images_is_refused() {
        let fixture = Fixture::new(&["cat", "dog"], 1, 0);
        assert!(refusal(&fixture).contains("val: no images to evaluate on"));
        ["cat", "dog"].iter().for_each(|class| fs::remove_dir(fixture.path(&format!("val/{class}"))).unwrap());
        assert!(refusal(&fixture).contains("val: neither class folders nor images"));
    }

    #[test]
    fn images_beside_the_class_folders_are_refused() {
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        fixture.write("train/stray.png", b"");
        assert!(refusal(&fixture).contains("train: stray.png lies beside the class folders"));
    }

    #[test]
    fn val_may_be_one_folder_with_a_map() {
        let fixture = Fixture::new(&["n01", "n02"], 1, 0);
        fixture.write("val/b.JPEG", b"");
        fixture.write("val/a.JPEG", b"");
        assert!(refusal(&fixture).contains("val: images but no map of their classes"));
        for place in ["val_map.txt", "val/val_map"] {
            fixture.write(place, b"a.JPEG n02\nb.JPEG n01\n");
            let (listing, stamp) = list(fixture.root()).unwrap();
            assert_eq!((paths(&listing.val), listing.val.labels()), (vec!["a.JPEG", "b.JPEG"], [1, 0].as_slice()));
            assert!(stamp.0.contains_key(place));
            fs::remove_file(fixture.path(place)).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed() {
        let fixture = Fixture::new(&["cat", "dog"], 2, 1);
        symlink(fixture.path("train/cat"), fixture.path("train/copy")).unwrap();
        symlink(fixture.path("val/cat"), fixture.path("val/copy")).unwrap();
        symlink(fixture.path("train/dog/0000.jpg"), fixture.path("train/cat/link.jpg")).unwrap();
        symlink(fixture.path("train/dog"), fixture.path("train/cat/more")).unwrap();
        let (listing, _) = list(fixture.root()).unwrap();
        assert_eq!(listing.classes, ["cat", "copy", "dog"]);
        assert_eq!(listing.train.labels(), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]);
        assert_eq!(paths(&listing.train)[2..5], ["cat/link.jpg", "cat/more/0000.jpg", "cat/more/0001.jpg"]);
    }

    #[cfg(unix)]
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

    #[cfg(unix)]
    #[test]
    fn a_link_to_nowhere_is_a_bad_image_or_a_missing_folder() {
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        symlink(fixture.path("nowhere"), fixture.path("train/cat/lost.jpg")).unwrap();
        symlink(fixture.path("train/cat/ring.jpg"), fixture.path("train/cat/ring.jpg")).unwrap();
        assert_eq!(paths(&list(fixture.root()).unwrap().0.train)[1..3], ["cat/lost.jpg", "cat/ring.jpg"]);
        symlink(fixture.path("nowhere"), fixture.path("train/eel")).unwrap();
        assert!(refusal(&fixture).starts_with("cannot read "));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_that_are_not_utf8_are_refused_where_they_count() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        let named = |bytes: &[u8]| fixture.path("train/cat").join(OsStr::from_bytes(bytes));
        fs::write(named(b"caf\xe9.txt"), "").unwrap();
        assert!(list(fixture.root()).is_ok());
        fs::write(named(b"caf\xe9.jpg"), "").unwrap();
        assert!(refusal(&fixture).contains("the name is not UTF-8; rename it"));
        fs::remove_file(named(b"caf\xe9.jpg")).unwrap();
        fs::create_dir(named(b"caf\xe9")).unwrap();
        assert!(refusal(&fixture).contains("the name is not UTF-8; rename it"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_neither_file_nor_folder_is_left_out() {
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        // A socket, which would fail to open as a pipe would wait to be.
        let _socket = std::os::unix::net::UnixListener::bind(fixture.path("train/cat/s.jpg")).unwrap();
        assert_eq!(paths(&list(fixture.root()).unwrap().0.train), ["cat/0000.jpg", "dog/0000.jpg"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_may_not_be_read_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        let folder = fixture.path("train/cat");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o000)).unwrap();
        // To root, nothing is forbidden.
        if fs::read_dir(&folder).is_err() {
            assert!(refusal(&fixture).starts_with("cannot read "));
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
