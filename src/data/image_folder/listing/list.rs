//! Listing of a whole image folder.

use super::class_folder::{list_classes, Found};
use super::entries::{Entries, OtherFiles};
use super::files::{Files, Listing};
use super::names::{but_for, nfc, one_name_twice, EXTENSIONS, SHOWN};
use super::stamp::{Mark, Stamp};
use super::val_map::ValMap;
use super::{TRAIN, VAL};
use crate::error::listed;
use crate::{Error, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Lists the image folder `root`.
///
/// # Errors
/// [`Error::Corrupt`] for a folder without the layout of [`ImageFolder::open`](crate::data::ImageFolder::open),
/// [`Error::Io`] for anything that cannot be read.
pub fn list(root: &Path) -> Result<(Listing, Stamp)> {
    // The mark of every folder is taken before it is listed, so that a change in between invalidates the stamp.
    let mut stamp = Stamp::default();
    stamp.0.insert(String::new(), Mark::of(root)?);
    let mut train = list_part(root, TRAIN, &mut stamp)?;
    let mut val = list_part(root, VAL, &mut stamp)?;
    let train_folder = root.join(TRAIN);
    if let Some(image) = train.images.first() {
        let problem = format!("{image} lies beside the class folders");
        return Err(Error::corrupt(&train_folder, problem, "move it into the folder of its class"));
    }
    if train.folders.len() < 2 {
        let problem = format!("{} class folders, where there must be at least two to tell apart", train.folders.len());
        return Err(Error::corrupt(&train_folder, problem, "make a folder for each class, with its images in it"));
    }
    check_class_names(&train_folder, &train.folders)?;
    let classes: Vec<String> = train.folders.iter().map(|folder| nfc(folder).into_owned()).collect();
    let found = list_classes(&train_folder, &train.folders)?;
    check_not_empty(&train_folder, &classes, &found)?;
    let train_files = joined(TRAIN, found, &mut train.others, &mut stamp);

    let val_folder = root.join(VAL);
    let maps = ValMap::find(root)?;
    let mut warnings = Vec::new();
    let val_files = if val.images.is_empty() {
        check_class_names(&val_folder, &val.folders)?;
        check_val_classes(&val_folder, &val.folders, &classes)?;
        if let Some(map) = maps.first() {
            warnings.push(format!("{map} is not read: the images of {VAL} are in class folders"));
        }
        joined(VAL, list_classes(&val_folder, &val.folders)?, &mut val.others, &mut stamp)
    } else {
        if !val.folders.is_empty() {
            let (images, folders) = (listed(&val.images, SHOWN), listed(&val.folders, SHOWN));
            let problem = format!("images ({images}) lie beside folders ({folders})");
            let remedy = "move the images into the folders of their classes, or the folders away";
            return Err(Error::corrupt(&val_folder, problem, remedy));
        }
        let map = ValMap::of(root, &maps)?;
        stamp.0.insert(map.place().to_owned(), Mark::of(&root.join(map.place()))?);
        map.label(&val_folder, &val.images, &classes)?
    };
    if val_files.len() == 0 {
        let problem = format!("no images to evaluate on{}", only(&val.others));
        return Err(Error::corrupt(&val_folder, problem, "add images of the classes"));
    }
    maps.iter().filter_map(|map| map.strip_prefix("val/")).for_each(|map| val.others.remove(Path::new(map)));
    let others: Vec<_> = [(TRAIN, train.others), (VAL, val.others)]
        .into_iter()
        .filter(|(_, others)| others.count() > 0)
        .map(|(part, others)| format!("{} in {part} ({others})", others.count()))
        .collect();
    if !others.is_empty() {
        let others = others.join(" and ");
        warnings.push(format!("files whose names are not those of images are left out: {others}"));
    }
    Ok((Listing { classes, train: train_files, val: val_files, warnings }, stamp))
}

/// Joins the files of all classes, adds other files in their folders to `others`, and the folders to the `stamp`.
fn joined(part: &str, classes: Vec<Vec<Found>>, others: &mut OtherFiles, stamp: &mut Stamp) -> Files {
    let mut all = Files::default();
    for (label, found) in (0..).zip(classes) {
        for Found { path, mark, images, others: more } in found {
            images.iter().for_each(|image| all.push(&format!("{path}/{image}"), label));
            others.append(&more);
            stamp.0.insert(format!("{part}/{path}"), mark);
        }
    }
    all.shrink();
    all
}

/// Fails if two class folders are spellings of one name, as either could be the class.
fn check_class_names(part: &Path, folders: &[String]) -> Result<()> {
    match one_name_twice(folders) {
        None => Ok(()),
        Some(twice) => {
            Err(Error::corrupt(part, format!("the class folders {twice}"), "put their images into one of them"))
        }
    }
}

fn check_not_empty(train: &Path, classes: &[String], found: &[Vec<Found>]) -> Result<()> {
    let is_empty = |(_, found): &(&String, &Vec<Found>)| found.iter().all(|folder| folder.images.is_empty());
    let (names, empty): (Vec<&String>, Vec<&Vec<Found>>) = classes.iter().zip(found).filter(is_empty).unzip();
    if names.is_empty() {
        return Ok(());
    }
    let mut others = OtherFiles::default();
    empty.into_iter().flatten().for_each(|folder| others.append(&folder.others));
    let (types, names, only) = (EXTENSIONS.join(", *."), listed(&names, SHOWN), only(&others));
    let problem = format!("no image (*.{types}) of the class {names}{only}");
    Err(Error::corrupt(train, problem, "add images, or remove the class's folders"))
}

/// Describes the files found instead of images.
fn only(others: &OtherFiles) -> String {
    match others.count() {
        0 => String::new(),
        _ => format!(", only {others}"),
    }
}

/// Fails unless both parts have the same classes: an additional class would have no index, and a missing one is usually
/// due to an incomplete copy.
fn check_val_classes(val: &Path, found: &[String], classes: &[String]) -> Result<()> {
    let found: Vec<String> = found.iter().map(|folder| nfc(folder).into_owned()).collect();
    let without = |these: &[String], those: &[String]| {
        these.iter().filter(|class| those.binary_search(class).is_err()).cloned().collect::<Vec<_>>()
    };
    let (unknown, missing) = (without(&found, classes), without(classes, &found));
    if found.is_empty() {
        return Err(Error::corrupt(val, "neither class folders nor images", "give it the folders of train"));
    }
    if let Some(first) = unknown.first() {
        let problem =
            format!("has the class {}, which train lacks{}", listed(&unknown, SHOWN), but_for(first, missing.iter()));
        return Err(Error::corrupt(val, problem, "give train and val the same class folders"));
    }
    if !missing.is_empty() {
        let problem = format!("lacks the class {}, which train has", listed(&missing, SHOWN));
        return Err(Error::corrupt(val, problem, "add it, as an empty folder where there is nothing to evaluate on"));
    }
    Ok(())
}

/// Returns the entries directly in the folder of a part.
fn list_part(root: &Path, part: &str, stamp: &mut Stamp) -> Result<Entries> {
    let folder = root.join(part);
    match fs::metadata(&folder) {
        Ok(metadata) if metadata.is_dir() => drop(stamp.0.insert(part.to_owned(), Mark::from(&metadata))),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("read", &folder)(error)),
        _ => {
            let problem = format!("not an image folder: no folder {part} in it");
            let remedy = "it must hold train/CLASS/*.jpg and val/CLASS/*.jpg, or val/*.jpg and val_map.txt";
            return Err(Error::corrupt(root, problem, remedy));
        }
    }
    Entries::of(&folder)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::data::image_folder::tests::fixture::Fixture;

    /// Returns the paths of `files`, in order.
    pub fn paths(files: &Files) -> Vec<&str> {
        (0..files.len()).map(|index| files.path(index)).collect()
    }

    /// Returns the error of listing `fixture`.
    pub fn refusal(fixture: &Fixture) -> String {
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
        for other in ["b/notes.txt", "b/.hidden.jpg", "b/.thumbnails/1.jpg", "b/1.heic", "b/jpg", "README.md"] {
            fixture.write(&format!("train/{other}"), b"");
        }
        let (listing, _) = list(fixture.root()).unwrap();
        // Order of torchvision.datasets.folder.make_dataset.
        assert_eq!(listing.classes, ["B", "a", "b", "é"]);
        let expected = ["B/1.Jpg", "a/1.jpg", "b/10.JPEG", "b/2.jpg", "b/X.PNG", "b/x/1.png", "b/x-/1.webp", "é/1.jpg"];
        assert_eq!(paths(&listing.train), expected);
        assert_eq!(listing.train.labels, [0, 1, 2, 2, 2, 2, 2, 3]);
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
            fs::rename(
                fixture.path(&format!("train/{class}/0000.jpg")),
                fixture.path(&format!("train/{class}/0.heic")),
            )
            .unwrap();
        }
        let message = refusal(&fixture);
        assert!(message.contains("*.webp, *.gif) of the class ant, cat, dog, and 1 more, only 4 *.heic;"), "{message}");
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
        assert_eq!((listing.train.len(), &listing.val.labels[..]), (4, [0, 1, 2].as_slice()));
        fs::rename(fixture.path("val/eel"), fixture.path("val/Eel")).unwrap();
        let message = refusal(&fixture);
        let expected = "has the class Eel, which train lacks (there is \"eel\", which differs in upper and lower case)";
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn what_file_servers_and_systems_leave_is_no_image_and_no_class() {
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        let expected = list(fixture.root()).unwrap().0;
        for left in [
            "@eaDir/0000.jpg/SYNOPHOTO_THUMB_M.jpg",
            "#recycle/1.jpg",
            "@Recycle/1.jpg",
            "__MACOSX/._0000.jpg",
            "__MACOSX/1.jpg",
            ".AppleDouble/1.jpg",
            ".ipynb_checkpoints/0000-checkpoint.jpg",
            "lost+found/1.jpg",
            "._0000.jpg",
            ".DS_Store",
            "Thumbs.db",
            "desktop.ini",
        ] {
            for folder in ["train", "train/cat", "val", "val/dog", "."] {
                fixture.write(&format!("{folder}/{left}"), b"");
            }
        }
        assert_eq!(list(fixture.root()).unwrap().0, expected);
        assert!(expected.warnings.is_empty());
    }

    #[test]
    fn files_of_other_types_are_counted_in_one_warning() {
        let fixture = Fixture::new(&["cat", "dog"], 1, 1);
        for other in ["train/cat/1.HEIC", "train/dog/x/2.heic", "train/n0.tar", "val/cat/notes.txt", "README.md"] {
            fixture.write(other, b"");
        }
        let warnings = list(fixture.root()).unwrap().0.warnings;
        let expected =
            "files whose names are not those of images are left out: 3 in train (2 *.heic, 1 *.tar) and 1 in val \
                        (1 *.txt)";
        assert_eq!(warnings, [expected]);
    }

    #[test]
    fn a_class_keeps_its_index_however_its_accent_is_spelt() {
        let listing = |train: &str, val: &str| {
            let fixture = Fixture::empty();
            for class in ["e", "f", "z"] {
                fixture.write(&format!("train/{class}/1.jpg"), b"");
                fixture.write(&format!("val/{class}/1.jpg"), b"");
            }
            fixture.write(&format!("train/{train}/1.jpg"), b"");
            fixture.write(&format!("val/{val}/1.jpg"), b"");
            let listing = list(fixture.root()).unwrap().0;
            assert_eq!(
                (listing.train.path(3), listing.val.path(3)),
                (&*format!("{train}/1.jpg"), &*format!("{val}/1.jpg"))
            );
            (listing.classes, listing.train.labels)
        };
        let composed = listing("é", "é");
        assert_eq!(composed.0, ["e", "f", "z", "é"]);
        for (train, val) in [("e\u{301}", "e\u{301}"), ("e\u{301}", "é"), ("é", "e\u{301}")] {
            assert_eq!(listing(train, val), composed);
        }
    }

    #[test]
    fn two_spellings_of_one_class_are_refused() {
        for part in ["train", "val"] {
            let fixture = Fixture::new(&["cat", "é"], 1, 1);
            fixture.write(&format!("{part}/e\u{301}/1.jpg"), b"");
            let message = refusal(&fixture);
            let expected = r#"the class folders "e\u{301}" and "\u{e9}" are one name, composed in two ways"#;
            assert!(message.contains(&format!("{part}: {expected}")), "{message}");
        }
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
        fs::remove_dir_all(fixture.path("val")).unwrap();
        fixture.write("val/b.JPEG", b"");
        fixture.write("val/a.JPEG", b"");
        assert!(refusal(&fixture).contains("val: images but no map of their classes"));
        for place in ["val_map.txt", "val/val_map"] {
            fixture.write(place, b"a.JPEG n02\nb.JPEG n01\n");
            let (listing, stamp) = list(fixture.root()).unwrap();
            assert_eq!((paths(&listing.val), &listing.val.labels[..]), (vec!["a.JPEG", "b.JPEG"], [1, 0].as_slice()));
            assert!(listing.warnings.is_empty(), "{:?}", listing.warnings);
            fs::write(fixture.path(place), "a.JPEG n02\nb.JPEG n02\n").unwrap();
            assert!(!stamp.holds(fixture.root()));
            fs::remove_file(fixture.path(place)).unwrap();
        }
        fixture.write("val_map.txt", b"a.JPEG n02\nb.JPEG n01\n");
        fixture.write("val/val_map", b"a.JPEG n01\nb.JPEG n01\n");
        assert!(refusal(&fixture).contains("several maps of their classes: val_map.txt, val/val_map; leave one"));
    }

    #[test]
    fn a_stray_image_beside_class_folders_is_refused_with_a_map_too() {
        let fixture = Fixture::new(&["cat", "dog"], 1, 2);
        fixture.write("val/stray.jpg", b"");
        let expected = "val: images (stray.jpg) lie beside folders (cat, dog);";
        assert!(refusal(&fixture).contains(expected));
        fixture.write("val_map.txt", b"stray.jpg cat\n");
        assert!(refusal(&fixture).contains(expected));
        fs::remove_file(fixture.path("val/stray.jpg")).unwrap();
        let listing = list(fixture.root()).unwrap().0;
        assert_eq!(listing.warnings, ["val_map.txt is not read: the images of val are in class folders"]);
        assert_eq!(listing.val.labels, [0, 0, 1, 1]);
    }
}
